package jetstream_test

import (
	"errors"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// TestRegionJoinsLate: what was written before a region had its edge arrives too, also of a region that names no edge and
// so writes no beats.
func TestRegionJoinsLate(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	eu := openSite(t, f, "eu-west-1", nil)
	if got, err := eu.copies.Copies(t.Context(), key("s0")); err != nil || len(got) != 0 {
		t.Errorf("a region without edges: %v, %v", got, err)
	}
	eu.ready(soon)
	eu.writeMany(100, 1)
	recs := eu.writeMany(100, 2)
	began := time.Now()
	us := openSite(t, f, "us-east-1", []jetstream.Edge{{Region: "eu-west-1"}})
	ready := us.ready(soon)
	if n := us.lacks(eu.name, recs); n > 0 {
		t.Errorf("ready, and %d copies are missing", n)
	}
	t.Logf("complete and ready %v after the start, %v after it knew of its edges", time.Since(began), ready)
	if lags := us.copies.Lags(); len(lags) != 1 || lags[0].Known {
		t.Errorf("lags %v of a region that writes no beats", lags)
	}
}

// TestCopiesInACluster shuts down the node that leads the stream of copies.
func TestCopiesInACluster(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, nil, "eu-west-1")
	eu := openSite(t, f, "eu-west-1", []jetstream.Edge{{Region: "us-east-1"}})
	nodes := jetstreamtest.NewCluster(t, "us-east-1", 3, f.Hub.LeafURL())
	us := &site{t: t, name: "us-east-1", conn: jetstreamtest.Dial(t, nodes.URL()), metrics: prometheus.NewRegistry()}
	us.records = us.conn.Records()
	if err := us.conn.Provision(t.Context(), jetstream.Topology{Replicas: 3, Edges: []jetstream.Edge{{Region: eu.name}}}); err != nil {
		t.Fatal(err)
	}
	us.run()
	recs := eu.writeMany(20, 1)
	jetstreamtest.Eventually(t, soon, "the first copies are there", func() bool { return us.lacks(eu.name, recs) == 0 })
	us.ready(soon)
	if got := configs(t, us.conn)[jetstream.StreamCopies].Replicas; got != 3 {
		t.Errorf("%d replicas of the copies, want 3", got)
	}
	if err := nodes.Leader(t, us.conn.JetStream(), jetstream.StreamCopies).Shutdown(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	recs = eu.writeMany(20, 2)
	last := recs[len(recs)-1]
	us.sees(soon, last.Key(), sessions.Copy{Region: eu.name, Record: last})
	t.Logf("complete %v after the leader's end", time.Since(began))
	if n := us.lacks(eu.name, recs); n > 0 {
		t.Errorf("%d copies are missing", n)
	}
}

// TestEdgesChange takes edges away and adds others while all runs.
func TestEdgesChange(t *testing.T) {
	t.Parallel()
	_, sites := openSites(t, "eu-west-1", "us-east-1", "ap-southeast-1")
	eu, us, ap := sites["eu-west-1"], sites["us-east-1"], sites["ap-southeast-1"]
	ofEU, ofAP := eu.write("a", nil), ap.write("a", nil)
	us.sees(soon, key("a"), sessions.Copy{Region: ap.name, Record: ofAP}, sessions.Copy{Region: eu.name, Record: ofEU})

	us.provision([]jetstream.Edge{{Region: eu.name}})
	us.sees(soon, key("a"), sessions.Copy{Region: eu.name, Record: ofEU})
	ofAP = ap.write("a", func(r *sessions.Record) { r.Gen = 2 })
	ofEU = eu.write("a", func(r *sessions.Record) { r.Gen = 2 })
	us.sees(soon, key("a"), sessions.Copy{Region: eu.name, Record: ofEU})
	jetstreamtest.Eventually(t, soon, "one lag is left", func() bool { return len(us.copies.Lags()) == 1 && us.metric("berth_session_copies_lag_seconds") == 1 })
	if got := stored(t, us.conn, "berth.copies.*.ap-southeast-1.>"); got != 0 {
		t.Errorf("%d copies of the former edge are left", got)
	}

	// A service that was told nothing of edges changes nothing, and one that is told the same neither.
	us.provision(nil)
	us.provision([]jetstream.Edge{{Region: eu.name, Jurisdictions: []string{"global"}}})
	us.sees(soon, key("a"), sessions.Copy{Region: eu.name, Record: ofEU})

	// An edge that is added late brings what is older than all that is there, also to a stream that does not begin with its
	// first message any more.
	if err := streamOf(t, us.conn).Purge(t.Context(), natsjs.WithPurgeSubject("berth.copies.global.eu-west-1._beat.time")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ofEU = eu.write("a", func(r *sessions.Record) { r.Gen = ofEU.Gen + 1 })
		us.sees(soon, key("a"), sessions.Copy{Region: eu.name, Record: ofEU})
	}
	if first := streamOf(t, us.conn).CachedInfo().State.FirstSeq; first < 2 {
		t.Errorf("the stream begins with message %d: this shows nothing", first)
	}
	us.provision(edgesOf(us.name, []string{eu.name, ap.name}))
	us.sees(soon, key("a"), sessions.Copy{Region: ap.name, Record: ofAP}, sessions.Copy{Region: eu.name, Record: ofEU})
	us.provision([]jetstream.Edge{})
	us.sees(soon, key("a"))
	us.ready(soon)
	if _, err := us.conn.JetStream().Stream(t.Context(), jetstream.StreamCopies); !errors.Is(err, natsjs.ErrStreamNotFound) {
		t.Errorf("the stream of a region without edges: %v", err)
	}
	alone := us.follow()
	if n := alone.gapped(); n > 0 {
		t.Errorf("%d gaps were told where nothing can have been missed", n)
	}
	us.provision([]jetstream.Edge{{Region: ap.name}})
	us.sees(soon, key("a"), sessions.Copy{Region: ap.name, Record: ofAP})
	us.ready(soon)
	jetstreamtest.Eventually(t, soon, "the new edge is followed", func() bool { return alone.gapped() > 0 })
}
