package jetstream_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// ear hears everything that is said on a subject.
type ear struct {
	mu    sync.Mutex
	heard []string
}

func listen(t *testing.T, c *jetstream.Conn, subject string) *ear {
	t.Helper()
	e := &ear{}
	stop, err := c.Subscribe(t.Context(), subject, func(subject string, _ []byte) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = append(e.heard, subject)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return e
}

// of returns what was heard, sorted, of the subjects that match.
func (e *ear) of(match func(string) bool) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []string
	for _, subject := range e.heard {
		if match(subject) {
			found = append(found, subject)
		}
	}
	slices.Sort(found)
	return found
}

func berth(subject string) bool { return strings.HasPrefix(subject, "berth.") }

// everything is a subject of each kind, from eu-west-1; the second list is what may reach other regions. A released lock is
// for one server, which listens in its own region: that of a server elsewhere crosses, and that of one's own stays, for it names
// a session, which a jurisdiction may keep from whoever listens to everything elsewhere (events.LeafExportDenials).
var (
	everything = []string{
		"berth.v1.heartbeat.eu-west-1.a",
		"berth.v1.load.eu-west-1.a",
		"berth.v1.server.eu-west-1.a.up",
		"berth.v1.region.us-east-1.unreachable",
		"berth.v1.view.eu-west-1",
		"berth.v1.decision.eu-west-1.stay.already_best",
		"berth.v1.session.eu-west-1.refreshed",
		"berth.v1.lock.us-east-1.b.released",
		"berth.v1.lock.eu-west-1.a.released",
		"berth.v1.revoked.eu-west-1",
		"berth.v1.report.eu-west-1",
		"berth.v1.sight.eu-west-1.01k9zj4q8r5t6v7w8x9y0z1a2e",
	}
	crossing = []string{
		"berth.v1.lock.us-east-1.b.released",
		"berth.v1.revoked.eu-west-1",
		"berth.v1.view.eu-west-1",
	}
)

// counts returns how many messages each stream holds.
func counts(t *testing.T, c *jetstream.Conn, streams ...string) map[string]uint64 {
	t.Helper()
	got := map[string]uint64{}
	for _, name := range streams {
		s, err := c.JetStream().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = s.CachedInfo().State.Msgs
	}
	return got
}

func TestOnlyWhatMayCrossesTheLeaf(t *testing.T) {
	fleet := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	eu := jetstreamtest.Provisioned(t, fleet.Regions["eu-west-1"].ClientURL())
	us := jetstreamtest.Provisioned(t, fleet.Regions["us-east-1"].ClientURL())
	narrow, all, own := listen(t, us, "berth.v1.>"), listen(t, us, ">"), listen(t, eu, "berth.v1.>")
	streams := []string{jetstream.StreamHeartbeats, jetstream.StreamEvents, jetstream.StreamViews}

	// Interest travels on its own: a view update arrives once the leaf links know of it.
	jetstreamtest.Eventually(t, 5*time.Second, "the regions hear each other", func() bool {
		if err := eu.NATS().Publish("berth.v1.view.probe", nil); err != nil {
			t.Fatal(err)
		}
		return len(narrow.of(berth)) > 0 && len(all.of(berth)) > 0
	})
	for _, subject := range everything {
		if err := eu.Publish(t.Context(), subject, []byte("{}")); err != nil {
			t.Errorf("publish %s: %v", subject, err)
		}
	}
	ofEU := func(subject string) bool { return berth(subject) && subject != "berth.v1.view.probe" }
	jetstreamtest.Eventually(t, 5*time.Second, "all of it is heard at home", func() bool {
		return len(own.of(ofEU)) == len(everything)
	})
	// What was published last has arrived, and the link keeps order: nothing else is on its way.
	jetstreamtest.Eventually(t, 5*time.Second, "what crosses has arrived", func() bool {
		return len(narrow.of(ofEU)) >= len(crossing) && len(all.of(ofEU)) >= len(crossing)
	})
	if diff := cmp.Diff(crossing, narrow.of(ofEU)); diff != "" {
		t.Errorf("heard on berth.v1.> in us-east-1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(crossing, all.of(ofEU)); diff != "" {
		t.Errorf("heard on > in us-east-1 (-want +got):\n%s", diff)
	}

	// Each region stores its own, and revocations and views of all. The release of a lock is stored where it is acted on.
	euHas := map[string]uint64{jetstream.StreamHeartbeats: 1, jetstream.StreamEvents: 6}
	usHas := map[string]uint64{jetstream.StreamHeartbeats: 0, jetstream.StreamEvents: 2}
	jetstreamtest.Eventually(t, 5*time.Second, "us-east-1 has stored what concerns it", func() bool {
		return counts(t, us, jetstream.StreamEvents)[jetstream.StreamEvents] == 2
	})
	gotEU, gotUS := counts(t, eu, streams...), counts(t, us, streams...)
	if gotEU[jetstream.StreamViews] < 2 || gotUS[jetstream.StreamViews] < 2 {
		t.Errorf("views: %d in eu-west-1, %d in us-east-1, want both updates in both", gotEU[jetstream.StreamViews], gotUS[jetstream.StreamViews])
	}
	delete(gotEU, jetstream.StreamViews)
	delete(gotUS, jetstream.StreamViews)
	if diff := cmp.Diff(euHas, gotEU); diff != "" {
		t.Errorf("stored in eu-west-1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(usHas, gotUS); diff != "" {
		t.Errorf("stored in us-east-1 (-want +got):\n%s", diff)
	}
}

func TestJurisdictionsStayApart(t *testing.T) {
	t.Parallel() // it mostly waits
	fleet := jetstreamtest.NewFleet(t, map[string][]string{"us-east-1": {"eu"}}, "eu-west-1", "eu-central-1", "us-east-1")
	dial := func(region, jurisdiction string) *jetstream.Conn {
		return jetstreamtest.Dial(t, fleet.Regions[region].ClientURL(), func(cfg *jetstream.Config) { cfg.Jurisdiction = jurisdiction })
	}
	west, central, us := dial("eu-west-1", "eu"), dial("eu-central-1", "eu"), dial("us-east-1", "global")
	const eu, global = "berth.v1.rpc.tokens.eu.eu-central-1.refresh", "berth.v1.rpc.tokens.global.eu-central-1.refresh"
	stop := serveBoth(t, central, eu, global)
	defer stop()
	spy := listen(t, us, ">")

	jetstreamtest.Eventually(t, 5*time.Second, "a region of the jurisdiction is answered", func() bool {
		r, err := west.Call(t.Context(), eu, nil, []byte("session data"))
		return err == nil && string(r.Data) == "answer"
	})
	jetstreamtest.Eventually(t, 5*time.Second, "what is shared is answered everywhere", func() bool {
		r, err := us.Call(t.Context(), global, nil, nil)
		return err == nil && string(r.Data) == "answer"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := us.Call(ctx, eu, nil, nil); !errors.Is(err, jetstream.ErrNoResponders) && !errors.Is(err, jetstream.ErrTimeout) {
		t.Errorf("a request from outside the jurisdiction: %v, want no answer", err)
	}
	foreign := spy.of(func(subject string) bool {
		return strings.HasPrefix(subject, "_INBOX_eu.") || strings.HasPrefix(subject, "berth.v1.rpc.tokens.eu.") && subject != eu
	})
	if len(foreign) > 0 {
		t.Errorf("a subscriber to > outside the jurisdiction heard %v", foreign)
	}
	// It hears its own call to the foreign service, and not that of the region inside.
	if n := len(spy.of(func(subject string) bool { return subject == eu })); n > 1 {
		t.Errorf("a subscriber to > outside the jurisdiction heard %d requests of it, besides its own", n-1)
	}
}

// serveBoth answers both subjects until stop.
func serveBoth(t *testing.T, c *jetstream.Conn, subjects ...string) (stop func()) {
	t.Helper()
	answer := func(context.Context, jetstream.Request) jetstream.Reply {
		return jetstream.Reply{Data: []byte("answer")}
	}
	return serve(t, c, answer, func(cfg *jetstream.ServiceConfig) {
		cfg.Endpoints = nil
		for i, subject := range subjects {
			cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{Name: "e" + itoa(i), Subject: subject, Handler: answer})
		}
	})
}

// TestStoredMeansStoredHere takes the own streams away: a revocation that another region stores and acknowledges does not
// count.
func TestStoredMeansStoredHere(t *testing.T) {
	fleet := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	eu := jetstreamtest.Dial(t, fleet.Regions["eu-west-1"].ClientURL())
	us := jetstreamtest.Provisioned(t, fleet.Regions["us-east-1"].ClientURL())
	jetstreamtest.Eventually(t, 5*time.Second, "the other region stores it", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := eu.Publish(ctx, "berth.v1.revoked.eu-west-1", []byte("{}")); !errors.Is(err, jetstream.ErrUnavailable) {
			t.Fatalf("publish: %v, want ErrUnavailable", err)
		}
		return counts(t, us, jetstream.StreamEvents)[jetstream.StreamEvents] > 0
	})
	if err := eu.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	if err := eu.Publish(t.Context(), "berth.v1.revoked.eu-west-1", []byte("{}")); err != nil {
		t.Errorf("publish with an own stream: %v", err)
	}
	if n := counts(t, eu, jetstream.StreamEvents)[jetstream.StreamEvents]; n != 1 {
		t.Errorf("%d events stored at home, want 1", n)
	}
}

func TestPublishWithoutAStream(t *testing.T) {
	c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Publish(ctx, "berth.v1.session.eu-west-1.created", nil); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	// Once the stream is there, a publish that waits for it succeeds.
	done := make(chan error, 1)
	go func() { done <- c.Publish(t.Context(), "berth.v1.session.eu-west-1.created", nil) }()
	if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("publish while the stream is made: %v", err)
	}
	r, err := c.PublishAsync("berth.v1.session.eu-west-1.created", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if n := counts(t, c, jetstream.StreamEvents)[jetstream.StreamEvents]; n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

func TestRecentEvents(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	subjects := []string{"berth.v1.lock.eu-west-1.a.released", "berth.v1.revoked.*"}
	if got, err := c.Recent(t.Context(), time.Now().Add(-time.Minute), subjects...); err != nil || len(got) != 0 {
		t.Errorf("nothing yet: %v, %v", got, err)
	}
	publish := func(subject, data string) {
		t.Helper()
		if err := c.Publish(t.Context(), subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	publish("berth.v1.lock.eu-west-1.a.released", "old")
	time.Sleep(5 * time.Millisecond) // the streams' clock has to tell the two apart
	since := time.Now()
	publish("berth.v1.lock.eu-west-1.a.released", "1")
	publish("berth.v1.lock.eu-west-1.b.released", "not ours")
	publish("berth.v1.revoked.us-east-1", "2")
	publish("berth.v1.decision.eu-west-1.stay.already_best", "not asked for")
	got, err := c.Recent(t.Context(), since, subjects...)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, m := range got {
		texts = append(texts, m.Subject+" "+string(m.Data))
	}
	want := []string{"berth.v1.lock.eu-west-1.a.released 1", "berth.v1.revoked.us-east-1 2"}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDroppedMessagesAreTold(t *testing.T) {
	t.Parallel() // it mostly waits
	c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	told := make(chan struct{}, 16)
	defer c.OnGap(func() { told <- struct{}{} })()
	release := make(chan struct{})
	sub, err := c.NATS().Subscribe("berth.v1.heartbeat.>", func(*nats.Msg) { <-release })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(2, -1); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := c.NATS().Publish("berth.v1.heartbeat.eu-west-1.a", nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Fatalf("told %d times of dropped messages, want 2", i)
		}
	}
	close(release)
}
