package jetstream_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// site is one region of a fleet that exchanges copies, with its token service's part in that.
type site struct {
	t       *testing.T
	name    string
	conn    *jetstream.Conn
	records *jetstream.Records
	copies  *jetstream.Copies
	metrics *prometheus.Registry
	stop    func()
}

// edgesOf names every region but own.
func edgesOf(own string, regions []string) []jetstream.Edge {
	edges := []jetstream.Edge{}
	for _, r := range regions {
		if r != own {
			edges = append(edges, jetstream.Edge{Region: r})
		}
	}
	return edges
}

// openSite dials a region, makes its streams with the edges, and runs its part until the test ends or stop is called.
func openSite(t *testing.T, f *jetstreamtest.Fleet, name string, edges []jetstream.Edge) *site {
	t.Helper()
	s := &site{t: t, name: name, metrics: prometheus.NewRegistry()}
	s.conn = jetstreamtest.Dial(t, f.Regions[name].ClientURL(), func(c *jetstream.Config) { c.Log = jetstreamtest.Log(t).With(slog.String("at", name)) })
	s.records = s.conn.Records()
	s.provision(edges)
	s.run()
	return s
}

func (s *site) provision(edges []jetstream.Edge) {
	s.t.Helper()
	if err := s.conn.Provision(s.t.Context(), jetstream.Topology{Edges: edges}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) run() {
	copies := s.conn.Copies(jetstream.CopiesConfig{Metrics: s.metrics})
	s.copies = copies
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- copies.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() { s.stop() })
}

// openSites runs all regions of a new fleet, each with an edge to every other.
func openSites(t *testing.T, regions ...string) (*jetstreamtest.Fleet, map[string]*site) {
	t.Helper()
	f := jetstreamtest.NewFleet(t, nil, regions...)
	sites := map[string]*site{}
	for _, r := range regions {
		sites[r] = openSite(t, f, r, edgesOf(r, regions))
	}
	return f, sites
}

// write stores a record in the region, over the one that is there.
func (s *site) write(session string, change func(*sessions.Record)) sessions.Record {
	s.t.Helper()
	rec, err := s.put(session, change)
	if err != nil {
		s.t.Fatalf("%s: write %s: %v", s.name, session, err)
	}
	return rec
}

func (s *site) put(session string, change func(*sessions.Record)) (sessions.Record, error) {
	rec := sessions.Record{
		Version: sessions.RecordVersion, Session: session, Jurisdiction: events.GlobalJurisdiction, State: sessions.StateActive,
		Epoch: events.Epoch{Number: 1, Region: s.name}, Gen: 1, ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
	}
	if change != nil {
		change(&rec)
	}
	_, rev, _ := s.records.Get(s.t.Context(), rec.Key())
	_, err := s.records.Put(s.t.Context(), rec, rev)
	return rec, err
}

func key(session string) sessions.Key {
	return sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: session}
}

// sees waits until the region's copies of a session are these, and returns how long that took.
func (s *site) sees(limit time.Duration, k sessions.Key, want ...sessions.Copy) time.Duration {
	s.t.Helper()
	began := time.Now()
	var diff string
	for deadline := began.Add(limit); ; time.Sleep(time.Millisecond) {
		got, err := s.copies.Copies(s.t.Context(), k)
		slices.SortFunc(got, func(a, b sessions.Copy) int { return strings.Compare(a.Region, b.Region) })
		if diff = cmp.Diff(want, got); err == nil && diff == "" {
			return time.Since(began)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: copies of %s not within %v (%v): -want +got:\n%s", s.name, k, limit, err, diff)
		}
	}
}

// ready waits until the region is.
func (s *site) ready(limit time.Duration) time.Duration {
	s.t.Helper()
	began := time.Now()
	for err := s.copies.Ready(); err != nil; err = s.copies.Ready() {
		if time.Since(began) > limit {
			s.t.Fatalf("%s is not ready within %v: %v", s.name, limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// soon is far longer than a copy takes where nothing is wrong.
const soon = 15 * time.Second

func TestCopiesArriveAtEveryEdge(t *testing.T) {
	t.Parallel()
	began := time.Now()
	_, sites := openSites(t, "eu-west-1", "us-east-1", "ap-southeast-1")
	eu, us, ap := sites["eu-west-1"], sites["us-east-1"], sites["ap-southeast-1"]
	rec := eu.write("a", nil)
	t.Logf("first copies in us after %v, in ap after %v; %v since the start", us.sees(soon, key("a"), sessions.Copy{Region: "eu-west-1", Record: rec}),
		ap.sees(soon, key("a"), sessions.Copy{Region: "eu-west-1", Record: rec}), time.Since(began))
	for _, s := range sites {
		t.Logf("%s is ready after %v, %v since the start", s.name, s.ready(soon), time.Since(began))
	}
	eu.sees(soon, key("a"))

	rec = eu.write("a", func(r *sessions.Record) { r.Gen = 2 })
	t.Logf("update after %v", us.sees(soon, key("a"), sessions.Copy{Region: "eu-west-1", Record: rec}))
	other := us.write("a", func(r *sessions.Record) { r.Epoch.Number = 2 })
	ap.sees(soon, key("a"), sessions.Copy{Region: "eu-west-1", Record: rec}, sessions.Copy{Region: "us-east-1", Record: other})
	rec = eu.write("a", func(r *sessions.Record) { r.Gen, r.State = 2, sessions.StateRevoked })
	t.Logf("revoked after %v", us.sees(soon, key("a"), sessions.Copy{Region: "eu-west-1", Record: rec}))

	jetstreamtest.Eventually(t, soon, "each region measures both others", func() bool {
		for _, s := range sites {
			lags := s.copies.Lags()
			if len(lags) != 2 || !lags[0].Known || !lags[1].Known || lags[0].Behind+lags[1].Behind > time.Second {
				return false
			}
		}
		return true
	})
	once, err := us.conn.CopyLags(t.Context())
	if err != nil || len(once) != 2 || !once[0].Known || once[1].Region != "eu-west-1" {
		t.Errorf("lags read once: %v, %v", once, err)
	}
	t.Logf("lags in us: %v", once)
	for name, want := range map[string]int{
		"berth_session_copies_bytes": 1, "berth_session_copies_full_ratio": 1, "berth_session_copies_lag_seconds": 2, "berth_session_copies_ready": 1,
	} {
		if got := us.metric(name); got != want {
			t.Errorf("%d series of %s, want %d", got, name, want)
		}
	}
}

// metric returns how many series of a metric there are.
func (s *site) metric(name string) int {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return len(f.GetMetric())
		}
	}
	return 0
}
