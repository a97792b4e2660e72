package registry_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// lapsing is a lease whose store fails once on demand, so that it runs out although nobody else
// takes it: a renewal is not answered, and the next one comes too late.
type lapsing struct {
	lease
	mu   sync.Mutex
	left int // renewals that are still to go wrong
}

func (l *lapsing) lapse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = 2
}

func (l *lapsing) Put(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	l.mu.Lock()
	left := l.left
	l.left = max(0, left-1)
	l.mu.Unlock()
	switch left {
	case 2:
		<-ctx.Done()
		return 0, ctx.Err()
	case 1:
		time.Sleep(300 * time.Millisecond)
	}
	return l.lease.Put(ctx, value, revision)
}

// echoing is a wire on which a registry hears what it has said of servers.
type echoing struct{ *wire }

func (e echoing) Publish(ctx context.Context, subject string, data []byte) error {
	err := e.wire.Publish(ctx, subject, data)
	if err == nil && strings.HasPrefix(subject, "berth.v1.server.") {
		e.mu.Lock()
		hears := e.listeners[events.Subject{Kind: events.KindServer, Region: "eu-west-1"}.Filter()]
		e.mu.Unlock()
		hears(subject, data)
	}
	return err
}

// lapse is a registry that leads alone and is about to lead no more for a moment.
type lapse struct {
	*wire
	*bucket
	lease   lapsing
	metrics *prometheus.Registry
}

func newLapse(t *testing.T) *lapse {
	t.Helper()
	l := &lapse{wire: newWire(), bucket: newBucket(), metrics: prometheus.NewRegistry()}
	r, err := registry.New(registry.Config{
		Region: "eu-west-1", Bus: echoing{l.wire}, Heartbeats: l.wire, Store: l.bucket, Lease: &l.lease, Name: "one",
		Prober: registry.NewProber(registry.ProberConfig{}), Metrics: l.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r.Run)
	time.Sleep(100 * time.Millisecond)
	l.says(t, 1, events.StateUp)
	time.Sleep(time.Second)
	return l
}

// says delivers a heartbeat of a server that is silent for minutes without being suspected.
func (l *lapse) says(t *testing.T, seq uint64, s events.State) {
	t.Helper()
	l.deliver(t, beat("eu-west-1-a", boot(1), seq, saying(s), func(h *events.Heartbeat) { h.IntervalMS = 60_000 }))
}

// until waits until the registry leads, or does not.
func (l *lapse) until(t *testing.T, leads float64) {
	t.Helper()
	for began := time.Now(); gauge(t, l.metrics, "berth_registry_leads") != leads; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			t.Fatalf("leads is not %v after 3s", leads)
		}
	}
}

// check compares what was told of the server, and what the bucket has.
func (l *lapse) check(t *testing.T) {
	t.Helper()
	l.wire.mu.Lock()
	told := slices.DeleteFunc(slices.Clone(l.stored), func(s string) bool { return !strings.HasPrefix(s, "berth.v1.server.") })
	l.wire.mu.Unlock()
	if diff := cmp.Diff([]string{"berth.v1.server.eu-west-1.eu-west-1-a.up", "berth.v1.server.eu-west-1.eu-west-1-a.draining"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"eu-west-1.eu-west-1-a=draining"}, l.states(t)); diff != "" {
		t.Errorf("the bucket (-want +got):\n%s", diff)
	}
}

// TestWhatALapseLeftOutIsTold: a lease that ran out and was renewed by the same registry is a new
// term. What was learned in between, when it could write nothing, is told with the new one.
func TestWhatALapseLeftOutIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLapse(t)
		l.lease.lapse()
		l.until(t, 0)
		l.says(t, 2, events.StateDraining)
		l.until(t, 1)
		time.Sleep(3 * time.Second)
		l.check(t)
	})
}

// TestWhatWaitedThroughALapseIsToldOnce: an event that the bus did not take before the lease ran
// out is told by the new term, and not by the old one too.
func TestWhatWaitedThroughALapseIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLapse(t)
		l.slower(true)
		l.says(t, 2, events.StateDraining)
		l.lease.lapse()
		l.until(t, 0)
		l.until(t, 1)
		l.slower(false)
		time.Sleep(10 * time.Second)
		l.check(t)
	})
}

// slower makes the bus take nothing, or everything again.
func (l *lapse) slower(slow bool) {
	l.wire.mu.Lock()
	defer l.wire.mu.Unlock()
	l.slow = slow
}
