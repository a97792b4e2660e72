// Package jetstreamtest promises real NATS servers to tests: one region, a fleet behind a hub, a cluster of three nodes,
// links that can be cut, processes that can be killed, and JetStream in fake time. All of it ends with the test.
package jetstreamtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
)

// SharedRegion is the region of the server that the tests of a package share.
const SharedRegion = "eu-west-1"

// Limits of JetStream in tests: generous, and not derived from the machine, so that what a stream reserves always fits.
const (
	maxMemory = 16 << 30
	maxStore  = 1 << 40
)

// These wait for another domain's answer, for up to half a minute, also when their server is shut down meanwhile.
const (
	sourceSetup   = "github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"
	sourceRemoval = "github.com/nats-io/nats-server/v2/server.(*stream).tryDeleteSourcingConsumer.func1"
)

// shared is the one server of a test binary. Main makes it possible, the first Shared starts it.
var shared struct {
	allowed atomic.Bool
	account atomic.Int64
	// mu guards the fields below: the server starts once and stops once.
	mu     sync.Mutex
	region *embedded.Region
	dir    string
}

// AtOnce has n of a package's parallel tests run at a time, unless -parallel or the number of processors says more: they
// mostly wait, for fake time or for other processes. It is called by TestMain.
func AtOnce(n int) {
	if !flag.Parsed() {
		flag.Parse()
	}
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && n > runtime.GOMAXPROCS(0) {
		_ = f.Value.Set(strconv.Itoa(n)) // a number it takes
	}
}

// Main runs the tests of a package that uses Shared, stops the server afterwards and fails if goroutines are left. It is
// all that TestMain does, and it does not return.
func Main(m *testing.M, ignore ...goleak.Option) {
	shared.allowed.Store(true)
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared server:", err)
		code = max(code, 1)
	}
	if code == 0 {
		for _, waits := range []string{fileStoreTicker, sourceSetup, sourceRemoval} {
			ignore = append(ignore, goleak.IgnoreTopFunction(waits))
		}
		if err := goleak.Find(ignore...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // this is the main function of a test binary
}

// Shared returns the URL of a new, empty account on the server that all tests of the package share. The server is in the
// region SharedRegion. It needs Main.
func Shared(t testing.TB) string {
	t.Helper()
	if !shared.allowed.Load() {
		t.Fatal("jetstreamtest.Shared needs a TestMain that calls jetstreamtest.Main")
	}
	r, err := startShared()
	if err != nil {
		t.Fatalf("start the shared server: %v", err)
	}
	name := "T" + strconv.FormatInt(shared.account.Add(1), 10)
	account, err := r.Server().RegisterAccount(name)
	if err == nil {
		err = account.EnableJetStream(nil, nil)
	}
	if err != nil {
		t.Fatalf("make account %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := account.DisableJetStream(); err != nil {
			t.Errorf("remove account %s: %v", name, err)
		}
	})
	_, hostPort, _ := cutScheme(r.ClientURL())
	return "nats://" + name + ":any@" + hostPort
}

func startShared() (*embedded.Region, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.region != nil {
		return shared.region, nil
	}
	dir, err := os.MkdirTemp("", "berth-jetstreamtest-")
	if err != nil {
		return nil, err
	}
	shared.dir = dir
	r, err := embedded.NewRegion(embedded.RegionConfig{
		Region: SharedRegion, StoreDir: dir, MaxMemory: maxMemory, MaxStore: maxStore,
		Adjust: func(o *server.Options) { o.CustomClientAuthentication = byName{} },
	})
	if err == nil {
		err = r.Start(context.Background())
	}
	if err != nil {
		return nil, err
	}
	shared.region = r
	return r, nil
}

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	var err error
	if shared.region != nil {
		err = shared.region.Shutdown()
	}
	if shared.dir != "" {
		err = errors.Join(err, os.RemoveAll(shared.dir))
	}
	return err
}

// byName lets a client into the account that its user name names.
type byName struct{}

// Check implements server.Authentication.
func (byName) Check(c server.ClientAuthentication) bool {
	srv := func() *server.Server {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if shared.region == nil {
			return nil
		}
		return shared.region.Server()
	}()
	if srv == nil {
		return false
	}
	account, err := srv.LookupAccount(c.GetOpts().Username)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: account.Name, Account: account})
	return true
}

// Start runs a region of the test's own. Where cfg leaves them zero, the name is SharedRegion, the store a temporary
// directory, and the limits such that every stream fits.
func Start(t testing.TB, cfg embedded.RegionConfig) *embedded.Region {
	t.Helper()
	if cfg.Region == "" {
		cfg.Region = SharedRegion
	}
	if cfg.StoreDir == "" {
		cfg.StoreDir = t.TempDir()
	}
	if cfg.MaxMemory == 0 {
		cfg.MaxMemory = maxMemory
	}
	if cfg.MaxStore == 0 {
		cfg.MaxStore = maxStore
	}
	r, err := embedded.NewRegion(cfg)
	if err == nil {
		err = r.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Restart stops a region and starts it again, at the same port and with the same store.
func Restart(t testing.TB, r *embedded.Region) {
	t.Helper()
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Dial connects to url and closes the connection when the test ends. change may set what it likes in the Config.
func Dial(t testing.TB, url string, change ...func(*jetstream.Config)) *jetstream.Conn {
	t.Helper()
	cfg := jetstream.Config{URL: url, Role: "test"}
	for _, f := range change {
		f(&cfg)
	}
	c, err := jetstream.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("close connection: %v", err)
		}
	})
	return c
}

// Provisioned dials url and makes the region's streams.
func Provisioned(t testing.TB, url string, change ...func(*jetstream.Config)) *jetstream.Conn {
	t.Helper()
	c := Dial(t, url, change...)
	if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// Eventually waits until ok says true, and fails the test after limit with what it waited for.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// FreePort returns a port of loopback that nobody listened on a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Log returns a logger that writes to the test's output, which shows when the test fails or is run with -v.
func Log(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// LimitStore bounds the bytes that a region's JetStream account may keep on disk; -1: not at all.
func LimitStore(t testing.TB, r *embedded.Region, bytes int64) {
	t.Helper()
	limits := server.JetStreamAccountLimits{MaxMemory: -1, MaxStore: bytes, MaxStreams: -1, MaxConsumers: -1}
	if err := r.Server().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": limits}); err != nil {
		t.Fatal(err)
	}
}

// Ballast writes to a stream of its own until JetStream has no room for more. drop takes it away.
func Ballast(t testing.TB, c *jetstream.Conn) (drop func()) {
	t.Helper()
	const name = "BALLAST"
	_, err := c.JetStream().CreateStream(t.Context(), natsjs.StreamConfig{Name: name, Subjects: []string{"ballast"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err := c.JetStream().Publish(t.Context(), "ballast", make([]byte, 512<<10)); err != nil {
			return func() {
				if err := c.JetStream().DeleteStream(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Fatal("there is no limit")
	return nil
}
