package main

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/tokens/api"
)

// crash ends a process as kill -9 does and waits for its end.
func (p *process) crash(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.done <- <-p.done
}

// TestCrashes kills the token services on either side of a move between regions: no session
// is lost, and each is found where its client was told.
func TestCrashes(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1", "ap-southeast-1")
	owner, destination := f.regions["eu-west-1"], f.regions["ap-southeast-1"]
	f.crashDestination(t, destination)
	for round := range 6 {
		f.crashOwner(t, owner, time.Duration(rand.IntN(8))*500*time.Microsecond, round)
	}
}

// crashDestination tries to move a session to a region whose token service is dead: it stays,
// works on, and moves once the region has one again.
func (f *processes) crashDestination(t *testing.T, destination *regionProcesses) {
	dublin, singapore := client{t: t, location: nearDublin}, client{t: t, location: nearSingapore}
	login := dublin.login(f.ready)
	destination.tokens.crash(t)
	away := api.RefreshRequest{RefreshToken: login.RefreshToken, ClosestServerID: "ap-southeast-1-a"}
	stays := singapore.refresh(login.AuthURL, away)
	if stays.Server.Region != "eu-west-1" || stays.Reason != "target_refused" {
		t.Fatalf("on %+v for %s", stays.Server, stays.Reason)
	}
	foundAtOwner(t, f.ready, stays)
	workflow(t, singapore, stays)
	destination.tokens = start(t, destination.tokensArgs...)
	said(t, destination.tokens, "serving on ")
	f.awaitKnown(t, destination.way)
	away.RefreshToken = stays.RefreshToken
	moved := singapore.refresh(stays.AuthURL, away)
	if moved.Server.Region != "ap-southeast-1" || moved.Reason != "closer_region" {
		t.Fatalf("moved to %+v for %s", moved.Server, moved.Reason)
	}
	foundAtOwner(t, f.ready, moved)
	workflow(t, singapore, moved)
	foundAtOwner(t, f.ready, singapore.refresh(moved.AuthURL, api.RefreshRequest{RefreshToken: moved.RefreshToken}))
}

// crashOwner kills the owner's token service while it moves a session, and starts it again:
// whether the move was written or not, and whether its reply was lost or not, the client
// goes on with the token it has.
func (f *processes) crashOwner(t *testing.T, owner *regionProcesses, after time.Duration, round int) {
	dublin, singapore := client{t: t, location: nearDublin}, client{t: t, location: nearSingapore}
	login := dublin.login(f.ready)
	req := api.RefreshRequest{RefreshToken: login.RefreshToken, ClosestServerID: "ap-southeast-1-a"}
	replied := make(chan int, 1)
	go func() {
		status, _ := singapore.call("POST", owner.way.URL+"/v1/refresh", "", req, nil)
		replied <- status
	}()
	time.Sleep(after) // where in the request the crash comes is what varies
	owner.tokens.crash(t)
	status := <-replied
	owner.tokens = start(t, owner.tokensArgs...)
	said(t, owner.tokens, "serving on ")
	f.awaitKnown(t, owner.way)
	var reply api.TokensReply
	unrotated := 0
	eventually(t, 20*time.Second, "the same refresh again", func() bool {
		reply = api.TokensReply{}
		again, _ := singapore.call("POST", owner.way.URL+"/v1/refresh", "", req, &reply)
		if again == http.StatusOK && !reply.Rotated {
			unrotated++ // what the crash has left half done is being seen through
		}
		return reply.Rotated
	})
	t.Logf("round %d: killed after %s, first reply %d; then %d times unrotated, and %s to %s", round, after, status, unrotated, reply.Decision, reply.Server.ID)
	foundAtOwner(t, f.ready, reply)
	workflow(t, singapore, reply)
	foundAtOwner(t, f.ready, singapore.refresh(reply.AuthURL, api.RefreshRequest{RefreshToken: reply.RefreshToken}))
}

// TestRegistryRestart kills the registry and starts it again after the servers have gone
// unheard for a while: none is suspected or given up for that.
func TestRegistryRestart(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1")
	region := f.regions["eu-west-1"]
	nc, err := nats.Connect(f.ready.Regions[0].NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	w := watchVerdicts(t, nc)
	region.registry.crash(t)
	w.beats(5)
	region.registry = start(t, region.registryArgs...)
	said(t, region.registry, "admin on ")
	w.beats(6)
	if n := w.verdicts.Load(); n > 0 {
		t.Errorf("%d verdicts after the restart of the registry", n)
	}
	status, body := client{t: t}.call("GET", said(t, region.registry, "admin on ")+"/v1/servers", "", nil, nil)
	if status != http.StatusOK || strings.Count(body, `"state":"up"`) != 2 {
		t.Errorf("the registry shows, status %d: %s", status, body)
	}
}

// verdicts counts what a registry says against its servers, and the heartbeats that should
// keep it from doing so.
type verdicts struct {
	t                    *testing.T
	verdicts, heartbeats atomic.Int64
	// last is how many heartbeats there were when that was last waited for.
	last int64
}

// watchVerdicts counts from now on.
func watchVerdicts(t *testing.T, nc *nats.Conn) *verdicts {
	t.Helper()
	w := &verdicts{t: t}
	_, err := nc.Subscribe("berth.v1.server.>", func(m *nats.Msg) {
		t.Logf("%s %s", m.Subject, m.Data)
		if !strings.HasSuffix(m.Subject, ".up") {
			w.verdicts.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("berth.v1.heartbeat.>", func(*nats.Msg) { w.heartbeats.Add(1) }); err != nil {
		t.Fatal(err)
	}
	return w
}

// beatsSinceLast waits until each of two servers has sent n heartbeats since it was called last.
func (w *verdicts) beatsSinceLast(n int64) {
	w.t.Helper()
	eventually(w.t, 60*time.Second, "heartbeats", func() bool { return w.heartbeats.Load() >= w.last+2*n })
	w.last = w.heartbeats.Load()
}

// beats waits for n heartbeats of each of two servers: about as many seconds.
func (w *verdicts) beats(n int64) {
	w.t.Helper()
	until := w.heartbeats.Load() + 2*n
	eventually(w.t, 60*time.Second, "heartbeats", func() bool { return w.heartbeats.Load() >= until })
}
