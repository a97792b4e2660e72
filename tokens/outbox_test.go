package tokens_test

import (
	"context"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestEventsOutliveService stops a service right after its last reply: every event of what it
// did is in the stream, with what it was founded on.
func TestEventsOutliveService(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	b, _ := healthy(t, "eu-west-1-b", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	began := time.Now().Add(-time.Second)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	jetstreamtest.Eventually(t, 10*time.Second, "the service to be ready", func() bool { return s.Ready() == nil })
	first := login(t, s)
	a.State = events.StateDown
	f.set(a, b)
	moved := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	if status, body, _ := post(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: moved.RefreshToken}); status != 204 {
		t.Fatalf("logout: %d %s", status, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	messages, err := f.conn.Recent(t.Context(), began, "berth.v1.decision.>", "berth.v1.session.>", "berth.v1.lock.>", "berth.v1.revoked.>")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]events.Event{}
	for _, m := range messages {
		e, err := events.Decode(m.Subject, m.Data)
		if err != nil {
			t.Errorf("%s: %v", m.Subject, err)
			continue
		}
		seen[m.Subject] = e
	}
	for _, subject := range []string{
		"berth.v1.decision.eu-west-1.move.login", "berth.v1.session.eu-west-1.created",
		"berth.v1.decision.eu-west-1.move.server_down",
		"berth.v1.session.eu-west-1.moved", "berth.v1.lock.eu-west-1.eu-west-1-a.released",
		"berth.v1.session.eu-west-1.revoked", "berth.v1.revoked.eu-west-1",
	} {
		if _, ok := seen[subject]; !ok {
			t.Errorf("no event on %s", subject)
		}
	}
	d, ok := seen["berth.v1.decision.eu-west-1.move.server_down"].(*events.Decision)
	if ok && (d.From != "eu-west-1-a" || d.To != "eu-west-1-b" || d.View["eu-west-1"] != 1 || d.Draw <= 0) {
		t.Errorf("the decision says %+v", d)
	}
	if l, ok := seen["berth.v1.lock.eu-west-1.eu-west-1-a.released"].(*events.LockReleased); ok && (l.Epoch.Number != 2 || l.To.Server != "eu-west-1-b") {
		t.Errorf("the release says %+v", l)
	}
	replayed(t, f.conn, 2)
}

// TestEventsOutliveStream takes the stream of events away for as long as an election may take, while
// sessions are begun: what happened to them is in it once it is back.
func TestEventsOutliveStream(t *testing.T) {
	t.Parallel() // it mostly waits
	withoutLeader(t, func(t *testing.T, l *leaderless) {
		if err := l.other.JetStream().DeleteStream(t.Context(), jetstream.StreamEvents); err != nil {
			t.Fatal(err)
		}
		began, missing := time.Now(), map[string]bool{}
		for range 7 {
			missing[login(t, l.service).SessionID] = true
			time.Sleep(time.Second)
		}
		if err := l.other.Provision(t.Context(), jetstream.Topology{Memory: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		messages, err := l.other.Recent(t.Context(), began, "berth.v1.session."+dublin+".created")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			e, err := events.Decode(m.Subject, m.Data)
			if err != nil {
				t.Fatal(err)
			}
			delete(missing, e.(*events.Session).Session)
		}
		if len(missing) != 0 {
			t.Errorf("nothing tells of %v", missing)
		}
	})
}
