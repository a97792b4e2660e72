package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// pair is two registries of one region, each on a connection of its own.
type pair struct {
	links   [2]*jetstreamtest.Proxy
	metrics [2]*prometheus.Registry
	stops   [2]func()
	all     [2]*registry.Registry
	c       *jetstream.Conn
	heard   *heard
}

// heard is what the registries have published.
type heard struct {
	mu      sync.Mutex
	seqs    map[string]int
	last    time.Time
	changes []string
}

func (h *heard) message(subject string, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rest, ok := strings.CutPrefix(subject, "berth.v1.server.eu-west-1."); ok {
		h.changes = append(h.changes, rest)
		return
	}
	var u events.ViewUpdate
	if json.Unmarshal(data, &u) == nil && len(u.Servers) > 0 {
		h.seqs[fmt.Sprintf("%d part %d", u.Seq, u.Part)]++
	}
	h.last = time.Now()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	url := jetstreamtest.Shared(t)
	p := &pair{c: jetstreamtest.Provisioned(t, url), heard: &heard{seqs: map[string]int{}}}
	for _, filter := range []string{"berth.v1.view.>", "berth.v1.server.>"} {
		stop, err := p.c.Subscribe(t.Context(), filter, p.heard.message)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	user, host, _ := strings.Cut(url, "@")
	for i := range p.links {
		p.links[i] = jetstreamtest.NewProxy(t, "nats://"+host)
		c := jetstreamtest.Dial(t, user+"@"+p.links[i].Addr())
		p.metrics[i] = prometheus.NewRegistry()
		r := newRegistry(t, c, func(cfg *registry.Config) { cfg.Metrics = p.metrics[i] })
		p.all[i], p.stops[i] = r, run(t, r.Run)
		jetstreamtest.Eventually(t, 5*time.Second, "a view", func() bool { return r.View() != nil })
		jetstreamtest.Eventually(t, 5*time.Second, "a leader", func() bool { return p.leads(t, 0) })
	}
	return p
}

func (p *pair) leads(t *testing.T, i int) bool {
	return gauge(t, p.metrics[i], "berth_registry_leads") == 1
}

// gauge returns the value of a metric without labels.
func gauge(t *testing.T, metrics *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

// check compares the changes that were told, and that no view update was sent twice.
func (p *pair) check(t *testing.T, want ...string) {
	t.Helper()
	p.heard.mu.Lock()
	defer p.heard.mu.Unlock()
	if diff := cmp.Diff(want, p.heard.changes); diff != "" {
		t.Errorf("changes told (-want +got):\n%s", diff)
	}
	for seq, n := range p.heard.seqs {
		if n > 1 {
			t.Errorf("view update %s was sent %d times", seq, n)
		}
	}
}

// told waits for a change to be told.
func (p *pair) told(t *testing.T, want string) {
	t.Helper()
	jetstreamtest.Eventually(t, 10*time.Second, want, func() bool {
		p.heard.mu.Lock()
		defer p.heard.mu.Unlock()
		return slices.Contains(p.heard.changes, want)
	})
}

// takenOver waits until the second registry leads, and its view updates flow.
func (p *pair) takenOver(t *testing.T, began time.Time, limit time.Duration) {
	t.Helper()
	jetstreamtest.Eventually(t, limit, "take-over", func() bool { return p.leads(t, 1) })
	t.Logf("taken over after %v", time.Since(began).Round(time.Millisecond))
	leads := time.Now()
	jetstreamtest.Eventually(t, 2*time.Second, "its view updates", func() bool {
		p.heard.mu.Lock()
		defer p.heard.mu.Unlock()
		return p.heard.last.After(leads)
	})
	t.Logf("first update after %v", time.Since(began).Round(time.Millisecond))
}

func TestAStoppedLeaderHandsOver(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	const interval = 200 * time.Millisecond
	run(t, newAgent(p.c, "eu-west-1-a", refusing(t), interval).run(t))
	p.told(t, "eu-west-1-a.up")
	began := time.Now()
	p.stops[0]()
	p.takenOver(t, began, 600*time.Millisecond)
	run(t, newAgent(p.c, "eu-west-1-b", refusing(t), interval).run(t))
	p.told(t, "eu-west-1-b.up")
	p.check(t, "eu-west-1-a.up", "eu-west-1-b.up")
}

func TestALeaderThatIsCutOffIsReplaced(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*jetstreamtest.Proxy){"reset": (*jetstreamtest.Proxy).Cut, "black hole": (*jetstreamtest.Proxy).Blackhole} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			const interval = 600 * time.Millisecond // none is suspected within the term
			run(t, newAgent(p.c, "eu-west-1-a", refusing(t), interval).run(t))
			killed := run(t, newAgent(p.c, "eu-west-1-b", refusing(t), interval).run(t))
			p.told(t, "eu-west-1-a.up")
			p.told(t, "eu-west-1-b.up")
			began := time.Now()
			cut(p.links[0])
			killed() // nobody is left to tell of its death but the next leader
			p.takenOver(t, began, 2*time.Second)
			if p.leads(t, 0) {
				t.Error("both lead")
			}
			p.told(t, "eu-west-1-b.down")
			p.links[0].Heal()
			// The former leader hears again, and says nothing.
			jetstreamtest.Eventually(t, 10*time.Second, "both know", func() bool { return slices.Contains(states(p.all[0].View()), "eu-west-1-b=down") })
			if p.leads(t, 0) || !p.leads(t, 1) {
				t.Error("the lease went back")
			}
			p.heard.mu.Lock()
			slices.Sort(p.heard.changes)
			p.heard.mu.Unlock()
			p.check(t, "eu-west-1-a.up", "eu-west-1-b.down", "eu-west-1-b.suspect", "eu-west-1-b.up")
		})
	}
}

// lease is a LeaseStore in memory.
type lease struct {
	mu       sync.Mutex
	value    []byte
	revision uint64
}

func (l *lease) Get(context.Context) ([]byte, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value, l.revision, nil
}

func (l *lease) Put(_ context.Context, value []byte, revision uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision != l.revision {
		return 0, registry.ErrFenced
	}
	l.value, l.revision = value, revision+1
	return l.revision, nil
}

// paused is what a process that is stopped and goes on sees of NATS: what it asks for
// happens, but only then.
type paused struct {
	registry.Store
	registry.LeaseStore
	mu      sync.Mutex
	resumed chan struct{} // nil: it runs
	refused int
}

func (p *paused) wait() {
	p.mu.Lock()
	resumed := p.resumed
	p.mu.Unlock()
	if resumed != nil {
		<-resumed
	}
}

func (p *paused) stop() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resumed = make(chan struct{})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		close(p.resumed)
		p.resumed = nil
	}
}

// leaseOf is the part of it that is a LeaseStore.
type leaseOf struct{ *paused }

func (p leaseOf) Put(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	p.wait()
	return p.LeaseStore.Put(ctx, value, revision)
}

// storeOf is the part of it that is a Store.
type storeOf struct{ *paused }

func (p storeOf) Begin(key string, value []byte, revision uint64) func(context.Context) (uint64, error) {
	end := p.Store.Begin(key, value, revision)
	return func(ctx context.Context) (uint64, error) {
		p.wait()
		written, err := end(ctx)
		if err != nil {
			p.mu.Lock()
			p.refused++
			p.mu.Unlock()
		}
		return written, err
	}
}

func TestALateWriteOfAPausedLeaderIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, l := newWire(), newBucket(), &lease{}
		second := newWire()
		former := &paused{Store: b, LeaseStore: l}
		runOne := func(name string, w *wire, s registry.Store, l registry.LeaseStore) *registry.Registry {
			r, err := registry.New(registry.Config{
				Region: "eu-west-1", Bus: w, Heartbeats: w, Store: s, Lease: l, Name: name, Prober: registry.NewProber(registry.ProberConfig{}),
			})
			if err != nil {
				t.Fatal(err)
			}
			run(t, r.Run)
			time.Sleep(100 * time.Millisecond)
			return r
		}
		runOne("one", w, storeOf{former}, leaseOf{former})
		runOne("two", second, b, l)
		both := func(h *events.Heartbeat) {
			w.deliver(t, h)
			second.deliver(t, h)
		}
		both(beat("eu-west-1-a", boot(1), 1, func(h *events.Heartbeat) { h.IntervalMS = 60_000 }))
		time.Sleep(time.Second)

		// The leader is about to write what only it has heard when it is stopped.
		resume := former.stop()
		w.deliver(t, beat("eu-west-1-a", boot(1), 2, saying(events.StateDraining), func(h *events.Heartbeat) { h.IntervalMS = 60_000 }))
		time.Sleep(1900 * time.Millisecond)
		if got := l.holder(t); got != "two" {
			t.Errorf("%q leads, want two", got)
		}
		resume()
		time.Sleep(3 * time.Second)
		if diff := cmp.Diff([]string{"eu-west-1.eu-west-1-a=up"}, b.states(t)); diff != "" {
			t.Errorf("the bucket (-want +got):\n%s", diff)
		}
		former.mu.Lock()
		defer former.mu.Unlock()
		if former.refused == 0 {
			t.Error("no late write was tried, so none was refused")
		}
	})
}

func (l *lease) holder(t *testing.T) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var v struct{ Holder string }
	if err := json.Unmarshal(l.value, &v); err != nil {
		t.Fatal(err)
	}
	return v.Holder
}
