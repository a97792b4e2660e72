package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// follower notes what Follow hands over.
type follower struct {
	mu   sync.Mutex
	gens map[string]uint64 // by region and session
	back []string
	gaps int
	on   bool
	stop func()
}

func (s *site) follow() *follower {
	s.t.Helper()
	f := &follower{gens: map[string]uint64{}}
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.copies.Follow(ctx, f.note, f.reading) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() { f.stop() })
	jetstreamtest.Eventually(s.t, soon, s.name+" follows", f.reads)
	return f
}

func (f *follower) note(k sessions.Key, region string, rec sessions.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := region + " " + k.String()
	if rec.Gen < f.gens[name] {
		f.back = append(f.back, fmt.Sprintf("%s from generation %d to %d", name, f.gens[name], rec.Gen))
	}
	f.gens[name] = rec.Gen
}

func (f *follower) reading(on, missed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
	if missed {
		f.gaps++
	}
}

// reads reports whether what arrives is handed over.
func (f *follower) reads() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on
}

func (f *follower) gapped() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gaps
}

// heard waits until all of the region's records were handed over.
func (f *follower) heard(t *testing.T, region string, recs []sessions.Record) {
	t.Helper()
	missing := func() (list []string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, rec := range recs {
			if f.gens[region+" "+rec.Key().String()] != rec.Gen {
				list = append(list, rec.Session)
			}
		}
		return list
	}
	for deadline := time.Now().Add(soon); len(missing()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not handed over: %v", missing())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.back) > 0 {
		t.Errorf("handed over out of order: %v", f.back)
	}
}

// writeMany stores n records of one generation.
func (s *site) writeMany(n int, gen uint64) []sessions.Record {
	s.t.Helper()
	recs := make([]sessions.Record, n)
	for i := range recs {
		recs[i] = s.write(fmt.Sprintf("s%d", i), func(r *sessions.Record) { r.Gen = gen })
	}
	return recs
}

// keepWriting changes n sessions, again and again, until finish; busy returns what stands in the region then.
func (s *site) keepWriting(name string, n int) (busy func() []sessions.Record, finish func()) {
	recs := make([]sessions.Record, n)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for gen := uint64(1); ctx.Err() == nil; gen++ {
			for i := range recs {
				var err error
				if recs[i], err = s.put(fmt.Sprintf("%s%d", name, i), func(r *sessions.Record) { r.Gen = gen }); err != nil {
					s.t.Error(err)
					return
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	finish = sync.OnceFunc(func() { cancel(); <-done })
	s.t.Cleanup(finish)
	return func() []sessions.Record { return recs }, finish
}

// lacks returns how many of another region's records have not arrived.
func (s *site) lacks(region string, recs []sessions.Record) (n int) {
	s.t.Helper()
	for _, rec := range recs {
		got, err := s.copies.Copies(s.t.Context(), rec.Key())
		if err != nil {
			s.t.Fatal(err)
		}
		if len(got) != 1 || got[0].Region != region || got[0].Record.Gen != rec.Gen {
			n++
		}
	}
	return n
}

// TestCopiesCatchUpAfterACut: nothing of what was written while the link was cut is lost, and the region is not ready
// before all of it is there. While it is cut it is ready: it does not wait for whom it cannot see.
func TestCopiesCatchUpAfterACut(t *testing.T) {
	t.Parallel() // it mostly waits
	tests := map[string]struct {
		cut  func(*jetstreamtest.Proxy)
		last time.Duration
	}{
		"reset":      {(*jetstreamtest.Proxy).Cut, 5 * time.Second},
		"black hole": {(*jetstreamtest.Proxy).Blackhole, 12 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fleet, sites := openSites(t, "eu-west-1", "us-east-1")
			eu, us := sites["eu-west-1"], sites["us-east-1"]
			here := us.follow()
			recs := eu.writeMany(50, 1)
			here.heard(t, eu.name, recs)
			us.ready(soon)
			if !us.copies.CaughtUp(eu.name) {
				t.Error("ready, and not caught up with the one region there is")
			}

			// Some sessions go on changing throughout: what is replaced while it is under way must take nothing with it.
			busy, finish := eu.keepWriting("busy", 5)
			test.cut(fleet.Links[us.name])
			began := time.Now()
			recs = eu.writeMany(200, 2)
			there := us.writeMany(20, 7)
			kept, entry := idem("global", "during the cut", eu.name)
			if _, err := eu.conn.Idempotency().Put(t.Context(), kept, entry, 0); err != nil {
				t.Fatal(err)
			}
			jetstreamtest.Eventually(t, soon, "the lag shows", func() bool { return us.copies.Lags()[0].Behind > 5*time.Second })
			us.ready(soon)
			eu.ready(soon)
			if us.copies.CaughtUp(eu.name) {
				t.Error("caught up with a region that cannot be seen")
			}
			time.Sleep(test.last - time.Since(began))
			if n := us.lacks(eu.name, recs); n != len(recs) {
				t.Fatalf("%d of %d copies arrived over a link that is cut", len(recs)-n, len(recs))
			}
			gaps := here.gapped()

			fleet.Links[us.name].Heal()
			healed := time.Now()
			for us.copies.Ready() == nil && us.lacks(eu.name, recs) > 0 && time.Since(healed) < soon {
				time.Sleep(time.Millisecond) // the heal is noticed within a look
			}
			noticed := time.Since(healed)
			ready := us.ready(soon) + noticed
			if n := us.lacks(eu.name, recs); n > 0 {
				t.Errorf("ready %v after the heal, and %d of %d copies are missing", ready, n, len(recs))
			}
			finish()
			here.heard(t, eu.name, append(recs, busy()...))
			for _, rec := range there {
				eu.sees(soon, rec.Key(), append([]sessions.Copy{}, sessions.Copy{Region: us.name, Record: rec})...)
			}
			other := time.Since(healed)
			jetstreamtest.Eventually(t, soon, "the idempotency key arrives", func() bool {
				list, err := us.conn.Idempotency().Copies(t.Context(), kept)
				return err == nil && len(list) == 1
			})
			t.Logf("%s of %v: heal noticed after %v, ready and complete after %v, other way complete after %v, idempotency key there after %v",
				name, test.last, noticed, ready, other, time.Since(healed))
			if here.gapped() != gaps {
				t.Error("a gap was told where the region's own stream had none")
			}
			jetstreamtest.Eventually(t, soon, "the lag is gone", func() bool { return us.copies.Lags()[0].Behind < time.Second })
		})
	}
}

// TestCopiesGoOnAfterARestart restarts NATS where the copies come from and where they go to.
func TestCopiesGoOnAfterARestart(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, restarted := range []string{"eu-west-1", "us-east-1"} {
		t.Run(restarted, func(t *testing.T) {
			t.Parallel()
			fleet, sites := openSites(t, "eu-west-1", "us-east-1")
			eu, us := sites["eu-west-1"], sites["us-east-1"]
			here := us.follow()
			recs := eu.writeMany(20, 1)
			here.heard(t, eu.name, recs)
			us.ready(soon)
			gaps := here.gapped()
			if err := fleet.Regions[restarted].Shutdown(); err != nil {
				t.Fatal(err)
			}
			if restarted == us.name {
				recs = eu.writeMany(10, 2) // these have to come by themselves
			}
			if err := fleet.Regions[restarted].Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			jetstreamtest.Eventually(t, soon, "the region is connected again", func() bool {
				_, err := sites[restarted].copies.Copies(t.Context(), key("s0"))
				return err == nil
			})
			recs = append(recs[:10:10], eu.write("later", nil))
			here.heard(t, eu.name, recs)
			t.Logf("%v after the restart of %s all is there", time.Since(began), restarted)
			us.ready(soon)
			if n := us.lacks(eu.name, recs); n > 0 {
				t.Errorf("ready, and %d copies are missing", n)
			}
			if restarted == us.name && here.gapped() == gaps {
				t.Error("no gap was told after the own server was started anew")
			}
		})
	}
}

// TestFollowReadsOn cuts a token service off from its own NATS: what arrives there meanwhile is handed over afterwards, and
// nothing was missed.
func TestFollowReadsOn(t *testing.T) {
	t.Parallel()
	f, sites := openSites(t, "eu-west-1", "us-east-1")
	eu, us := sites["eu-west-1"], sites["us-east-1"]
	link := jetstreamtest.NewProxy(t, f.Regions[us.name].ClientURL())
	far := &site{t: t, name: us.name, metrics: prometheus.NewRegistry()}
	far.conn = jetstreamtest.Dial(t, "nats://"+link.Addr(), func(c *jetstream.Config) { c.Options = []nats.Option{nats.IgnoreDiscoveredServers()} })
	far.run()
	here := far.follow()
	here.heard(t, eu.name, eu.writeMany(5, 1))
	far.ready(soon)
	link.Cut()
	recs := eu.writeMany(30, 2)
	for _, rec := range recs {
		us.sees(soon, rec.Key(), sessions.Copy{Region: eu.name, Record: rec})
	}
	jetstreamtest.Eventually(t, soon, "the interruption is told", func() bool { return !here.reads() })
	link.Heal()
	here.heard(t, eu.name, recs)
	if n := here.gapped(); n != 1 {
		t.Errorf("%d gaps were told, want that of the beginning alone", n)
	}
	far.ready(soon)
}

// TestOriginLosesItsTail gives an origin back the store of a moment ago, as after a loss of power: its edge says so, and
// gets everything once it is taken away and added again.
func TestOriginLosesItsTail(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, nil, "us-east-1")
	dir := t.TempDir()
	const name = "eu-west-1"
	f.Links[name] = jetstreamtest.NewProxy(t, f.Hub.LeafURL())
	f.Regions[name] = jetstreamtest.Start(t, embedded.RegionConfig{Region: name, Hubs: []string{f.Links[name].Addr()}, StoreDir: dir})
	f.WaitJoined(t)
	eu := openSite(t, f, name, []jetstream.Edge{{Region: "us-east-1"}})
	var said lines
	us := &site{t: t, name: "us-east-1", metrics: prometheus.NewRegistry()}
	us.conn = jetstreamtest.Dial(t, f.Regions[us.name].ClientURL(), func(c *jetstream.Config) { c.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	us.provision([]jetstream.Edge{{Region: name}})
	us.run()
	kept := eu.write("kept", nil)
	us.sees(soon, kept.Key(), sessions.Copy{Region: name, Record: kept})
	old := filepath.Join(t.TempDir(), "old")
	if err := errors.Join(f.Regions[name].Shutdown(), os.CopyFS(old, os.DirFS(dir)), f.Regions[name].Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	again := func(times uint64) {
		t.Helper()
		jetstreamtest.Eventually(t, soon, "the region is connected again", func() bool { return eu.conn.NATS().Stats().Reconnects >= times })
	}
	again(1)
	recs := eu.writeMany(100, 1)
	jetstreamtest.Eventually(t, soon, "all copies are there", func() bool { return us.lacks(name, recs) == 0 })
	if err := errors.Join(f.Regions[name].Shutdown(), os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(old)), f.Regions[name].Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, soon, "the edge says what is lost", func() bool {
		return said.count("a region has lost sessions that are copied here") == 1
	})
	again(2)
	lost := eu.write("s0", func(r *sessions.Record) { r.Gen = 2 })
	us.provision([]jetstream.Edge{})
	us.provision([]jetstream.Edge{{Region: name}})
	us.sees(soon, kept.Key(), sessions.Copy{Region: name, Record: kept})
	us.sees(soon, lost.Key(), sessions.Copy{Region: name, Record: lost})
	us.ready(soon)
}

// streamOf returns a region's stream of copies.
func streamOf(t *testing.T, c *jetstream.Conn) natsjs.Stream {
	t.Helper()
	s, err := c.JetStream().Stream(t.Context(), jetstream.StreamCopies)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stored returns how many messages the stream of copies holds on a subject.
func stored(t *testing.T, c *jetstream.Conn, subject string) (n uint64) {
	t.Helper()
	info, err := streamOf(t, c).Info(t.Context(), natsjs.WithSubjectFilter(subject))
	if err != nil {
		t.Fatal(err)
	}
	for _, msgs := range info.State.Subjects {
		n += msgs
	}
	return n
}
