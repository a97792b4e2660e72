package jetstream_test

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// TestCopiesEndWithTheirSessions: the bucket shrinks by its message TTLs, and so do its copies. What is removed otherwise
// takes no copy with it: a session ends by revocation or by its age.
func TestCopiesEndWithTheirSessions(t *testing.T) {
	t.Parallel()
	_, sites := openSites(t, "eu-west-1", "us-east-1")
	eu, us := sites["eu-west-1"], sites["us-east-1"]
	ends := func(in time.Duration) func(*sessions.Record) {
		return func(r *sessions.Record) {
			r.State, r.ExpiresAt = sessions.StateRevoked, time.Now().Add(in-sessions.Keep).UTC().Truncate(time.Millisecond)
		}
	}
	deleted, purged, kept, short := eu.write("deleted", ends(time.Minute)), eu.write("purged", ends(time.Minute)), eu.write("kept", ends(time.Minute)), eu.write("short", ends(3*time.Second))
	all := []sessions.Record{deleted, purged, kept}
	for _, rec := range append([]sessions.Record{short}, all...) {
		us.sees(soon, rec.Key(), sessions.Copy{Region: eu.name, Record: rec})
		us.outlives(rec)
	}
	kv, err := eu.conn.JetStream().KeyValue(t.Context(), jetstream.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), deleted.Key().String()); err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), purged.Key().String()); err != nil {
		t.Fatal(err)
	}
	bucket, err := eu.conn.JetStream().Stream(t.Context(), "KV_"+jetstream.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Purge(t.Context(), natsjs.WithPurgeSubject("$KV.berth_sessions."+kept.Key().String())); err != nil {
		t.Fatal(err)
	}
	after := eu.write("after", nil)
	us.sees(soon, after.Key(), sessions.Copy{Region: eu.name, Record: after})
	for _, rec := range all {
		us.sees(soon, rec.Key(), sessions.Copy{Region: eu.name, Record: rec})
	}
	// A key that was removed and is written again is a copy like any other.
	again := eu.write("purged", ends(2*time.Minute))
	us.sees(soon, again.Key(), sessions.Copy{Region: eu.name, Record: again})

	us.outlives(again)

	us.sees(soon, short.Key())
	jetstreamtest.Eventually(t, soon, "the stream shrinks as the bucket does", func() bool {
		return stored(t, us.conn, "berth.copies.global.eu-west-1.short") == 0
	})
	jetstreamtest.Eventually(t, soon, "the bucket shrinks", func() bool {
		_, _, err := eu.records.Get(t.Context(), short.Key())
		return err != nil
	})
}

// outlives checks that a copy from eu-west-1, which is there, is to end when its session does, by what the stream has
// recorded: neither before, nor long after.
func (s *site) outlives(rec sessions.Record) {
	s.t.Helper()
	msg, err := streamOf(s.t, s.conn).GetLastMsgForSubject(s.t.Context(), "berth.copies."+rec.Jurisdiction+".eu-west-1."+rec.Session)
	if err != nil {
		s.t.Fatalf("read the copy of %s: %v", rec.Session, err)
	}
	life, err := time.ParseDuration(msg.Header.Get(natsjs.MsgTTLHeader))
	if err != nil {
		s.t.Fatalf("the copy of %s is to live %v", rec.Session, err)
	}
	// NATS counts a life in whole seconds from the message's time.
	if late := msg.Time.Add(life).Sub(rec.ExpiresAt.Add(sessions.Keep)); late < 0 || late > soon {
		s.t.Errorf("the copy of %s ends %v after its session", rec.Session, late)
	}
}

// TestBadCopiesAreSkipped: what cannot be used is counted, said once, and in nobody's way.
func TestBadCopiesAreSkipped(t *testing.T) {
	t.Parallel()
	_, sites := openSites(t, "eu-west-1", "us-east-1")
	eu, us := sites["eu-west-1"], sites["us-east-1"]
	var said lines
	us.metrics = prometheus.NewRegistry()
	us.copies = us.conn.Copies(jetstream.CopiesConfig{Metrics: us.metrics, Log: slog.New(slog.NewTextHandler(&said, nil))})
	here := us.follow()
	bucket := eu.conn.Bucket(jetstream.BucketSessions)
	bad := map[string]string{
		"malformed":     `{"version":1,`,
		"newer_version": `{"version":99,"session":"newer_version","jurisdiction":"global"}`,
		"misplaced":     `{"version":1,"session":"other","jurisdiction":"global"}`,
	}
	for session, data := range bad {
		for range 3 {
			v, _ := bucket.Get(t.Context(), "global."+session)
			if _, err := bucket.Put(t.Context(), "global."+session, []byte(data), v.Revision, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
	good := eu.write("good", nil)
	here.heard(t, eu.name, []sessions.Record{good})
	us.sees(soon, good.Key(), sessions.Copy{Region: eu.name, Record: good})
	var all []string
	if err := us.copies.All(t.Context(), func(k sessions.Key, region string, _ sessions.Record) { all = append(all, region+" "+k.String()) }); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"eu-west-1 global.good"}, all); diff != "" {
		t.Errorf("all copies (-want +got):\n%s", diff)
	}
	for session := range bad {
		us.sees(soon, key(session))
		if n := said.count("reason=" + session); n != 1 {
			t.Errorf("of %s it is said %d times, want once", session, n)
		}
	}
	if got := us.metric("berth_session_copies_skipped_total"); got != len(bad) {
		t.Errorf("%d reasons for skipping are counted, want %d", got, len(bad))
	}
}

// TestCopiesStayInTheirJurisdiction: us is no member of eu. It gets none of eu's copies, asks as it may, and nobody there
// hears one.
func TestCopiesStayInTheirJurisdiction(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, map[string][]string{"us-east-1": {"eu"}}, "eu-west-1", "eu-central-1", "us-east-1")
	both := []string{"global", "eu"}
	west := openSite(t, f, "eu-west-1", []jetstream.Edge{{Region: "eu-central-1", Jurisdictions: both}, {Region: "us-east-1"}})
	heard := spyOn(t, f.Regions["us-east-1"].ClientURL())
	central := openSite(t, f, "eu-central-1", []jetstream.Edge{{Region: "eu-west-1", Jurisdictions: both}, {Region: "us-east-1"}})
	// Somebody in us asks for what it is not to have.
	us := openSite(t, f, "us-east-1", []jetstream.Edge{{Region: "eu-west-1", Jurisdictions: both}, {Region: "eu-central-1", Jurisdictions: []string{"global"}}})

	bound := west.write("bound", func(r *sessions.Record) { r.Jurisdiction, r.Subject = "eu", "of-the-eu" })
	free := west.write("free", func(r *sessions.Record) { r.Subject = "of-the-world" })
	central.sees(soon, bound.Key(), sessions.Copy{Region: "eu-west-1", Record: bound})
	us.sees(soon, free.Key(), sessions.Copy{Region: "eu-west-1", Record: free})
	// Two beats later everything that could have come has.
	jetstreamtest.Eventually(t, soon, "beats of both jurisdictions arrive inside", func() bool {
		lags := central.copies.Lags()
		return len(lags) == 2 && lags[1].Known && stored(t, central.conn, "berth.copies.eu.eu-west-1._beat.time") > 1
	})
	us.sees(soon, bound.Key())
	if n := stored(t, us.conn, "berth.copies.eu.>"); n != 0 {
		t.Errorf("%d copies of eu are stored in us", n)
	}
	if got := heard("of-the-eu"); len(got) > 0 {
		t.Errorf("heard in us: %v", got)
	}
	if got := heard("of-the-world"); len(got) == 0 {
		t.Error("the spy hears nothing at all")
	}
}

// spyOn subscribes to everything and returns the subjects of the messages that have a word in them.
func spyOn(t *testing.T, url string) (heard func(word string) []string) {
	t.Helper()
	var mu sync.Mutex
	var all []*nats.Msg
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe(">", func(msg *nats.Msg) { mu.Lock(); all = append(all, msg); mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func(word string) (subjects []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, msg := range all {
			if bytes.Contains(msg.Data, []byte(word)) {
				subjects = append(subjects, msg.Subject)
			}
		}
		return subjects
	}
}

// TestFullOfCopies: where the stream is full the oldest copies go and new ones come, and the operator is told in time.
func TestFullOfCopies(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	eu := openSite(t, f, "eu-west-1", []jetstream.Edge{{Region: "us-east-1"}})
	var said lines
	us := &site{t: t, name: "us-east-1", metrics: prometheus.NewRegistry()}
	us.conn = jetstreamtest.Dial(t, f.Regions[us.name].ClientURL(), func(c *jetstream.Config) { c.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	us.records = us.conn.Records()
	if err := us.conn.Provision(t.Context(), jetstream.Topology{Edges: []jetstream.Edge{{Region: eu.name}}, CopyBytes: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	us.run()
	first := eu.write("first", nil)
	us.sees(soon, first.Key(), sessions.Copy{Region: eu.name, Record: first})
	recs := eu.writeMany(150, 1)
	last := recs[len(recs)-1]
	us.sees(soon, last.Key(), sessions.Copy{Region: eu.name, Record: last})
	us.sees(soon, first.Key())
	jetstreamtest.Eventually(t, soon, "the operator is told", func() bool {
		return said.count("copies of sessions fill their stream") == 1 && said.count("max_bytes=65536") == 1
	})
	// More room helps by itself.
	if err := us.conn.Provision(t.Context(), jetstream.Topology{Edges: []jetstream.Edge{{Region: eu.name}}, CopyBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	more := eu.writeMany(150, 2)
	us.sees(soon, more[0].Key(), sessions.Copy{Region: eu.name, Record: more[0]})
}
