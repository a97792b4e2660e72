package jetstreamtest

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
)

// fileStoreClock starts the NATS server's own ticking clock. It runs for the rest of the process: were it first started
// inside a bubble, the bubble's time would never advance.
var fileStoreClock = sync.OnceFunc(ats.Register)

// fileStoreTicker is what that clock runs in.
const fileStoreTicker = "github.com/nats-io/nats-server/v2/server/ats.Register.func1"

// bubbleEnv names the test that this process was started for.
const bubbleEnv = "BERTH_TEST_BUBBLE"

// promptly lets a process with the race detector end at once, not after a second, and at its first race, which no test survives.
const promptly = "GORACE=atexit_sleep_ms=0 halt_on_error=1"

// bubbleLimit ends a bubble's process that hangs, in real time, where the tests themselves have no deadline.
const bubbleLimit = 5 * time.Minute

// Bubble runs fn in fake time, with a region of its own to which connect connects without a socket. Everything is held in
// memory: the file store's ages are in real time. Nothing in fn may use a real socket, so no region has a link to another.
//
// The test runs in a process of its own, in which only it is run: the NATS client keeps used timers for all connections
// of a process, and a timer of fake time that is used outside the bubble, or the reverse, ends the process.
func Bubble(t *testing.T, fn func(t *testing.T, connect func(change ...func(*jetstream.Config)) *jetstream.Conn)) {
	t.Helper()
	if os.Getenv(bubbleEnv) != t.Name() {
		runAlone(t)
		return
	}
	fileStoreClock()
	// What an outer test has left in the pool of timers goes, too.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		fn(t, Apart(t))
	})
}

// Apart starts a further region in a Bubble, to which connect connects.
func Apart(t *testing.T) (connect func(change ...func(*jetstream.Config)) *jetstream.Conn) {
	t.Helper()
	r := Start(t, embedded.RegionConfig{NoListen: true})
	return func(change ...func(*jetstream.Config)) *jetstream.Conn {
		inProcess := func(cfg *jetstream.Config) {
			cfg.Options = append(cfg.Options, nats.InProcessServer(r))
		}
		c := Dial(t, "", append([]func(*jetstream.Config){inProcess}, change...)...)
		if err := c.Provision(t.Context(), jetstream.Topology{Memory: true}); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// runAlone runs the calling test in a process of its own and fails if it fails there.
func runAlone(t *testing.T) {
	t.Helper()
	parts := strings.Split(t.Name(), "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	ctx, cancel := context.WithTimeout(t.Context(), bubbleLimit)
	defer cancel()
	args := []string{"-test.run", strings.Join(parts, "/"), "-test.v", "-test.count=1"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") { // a seed, say
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), bubbleEnv+"="+t.Name(), promptly)
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("in fake time: %v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("the test did not run in its own process:\n%s", out)
	}
	t.Logf("in fake time:\n%s", out)
}
