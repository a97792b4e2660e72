package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// deafBus loses revocations while it is deaf.
type deafBus struct {
	tokens.Bus
	deaf atomic.Bool
}

func (b *deafBus) Publish(ctx context.Context, subject string, data []byte) error {
	if b.deaf.Load() && strings.Contains(subject, ".revoked.") {
		return errors.New("the stream has no leader")
	}
	return b.Bus.Publish(ctx, subject, data)
}

// TestUntoldRevocationIsNotAcknowledged ends sessions that nobody can be told of: the operator is
// told so, and whoever begins again tells.
func TestUntoldRevocationIsNotAcknowledged(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	bus := &deafBus{Bus: f.conn}
	bus.deaf.Store(true)
	s := f.service(func(c *tokens.Config) { c.Bus = bus }) // does not run: what it puts aside stays there
	revoked := heard[*events.Revoked](t, f.conn, "berth.v1.revoked.*")
	f.putRecord("s1")
	f.putRecord("s2")
	q := tokens.RevokeRequest{Filter: &tokens.SessionFilter{Subject: "ada"}}
	if reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q); code != api.CodeUnavailable {
		t.Fatalf("an untold revocation is answered %q %+v", code, reply)
	}
	if rec := f.record("s1"); rec.State != sessions.StateRevoked || len(revoked()) != 0 {
		t.Fatalf("the record is %s, %d events", rec.State, len(revoked()))
	}
	bus.deaf.Store(false)
	reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q)
	if code != "" || reply.Already != 2 || reply.Ended != 0 {
		t.Errorf("again: %q %+v", code, reply)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "both are told of", func() bool { return len(revoked()) == 1 && len(revoked()[0].Sessions) == 2 })
}

// TestStoreOutageIsNoRevocation asks while the region's store cannot answer.
func TestStoreOutageIsNoRevocation(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.service()
	f.putRecord("s1")
	f.putRecord("broken")
	b := f.conn.Bucket(jetstream.BucketSessions)
	v, err := b.Get(t.Context(), "global.broken")
	if err == nil {
		_, err = b.Put(t.Context(), "global.broken", []byte("{}"), v.Revision, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{"s1", "broken"}})
	want := tokens.RevokeReply{Region: dublin, Ended: 1, Failed: []tokens.RevokeFailure{{Session: "broken", Reason: "the session store did not answer, or not with a record"}}}
	if diff := cmp.Diff(want, reply); diff != "" || code != "" {
		t.Errorf("%q (-want +got):\n%s", code, diff)
	}
}

// TestRevocationPassesOnToTheOwner asks a region whose record says that another owns the session.
func TestRevocationPassesOnToTheOwner(t *testing.T) {
	t.Parallel() // it mostly waits
	nats := jetstreamtest.NewFleet(t, nil, dublin, farRegion)
	f := newFleet(t, jetstreamtest.Provisioned(t, nats.Regions[dublin].ClientURL()), farServer())
	far := newFleet(t, jetstreamtest.Provisioned(t, nats.Regions[farRegion].ClientURL()), farServer())
	ours := f.running()
	theirs := far.running(func(c *tokens.Config) {
		var err error
		if c.Keys, err = tokens.NewKeyring(farRegion, newKey(t)); err != nil {
			t.Fatal(err)
		}
		c.Region = farRegion
	})
	owned := func(r *sessions.Record) { r.Epoch = events.Epoch{Number: 2, Region: farRegion} }
	for _, id := range []string{"s1", "s2"} {
		f.putRecord(id, owned)
	}
	far.putRecord("s1", owned)

	// While the owner does not serve, the session ends where it was asked for.
	reply, code := operate[tokens.RevokeReply](t, ours, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{"s2"}})
	if code != "" || reply.Ended != 1 || f.record("s2").State != sessions.StateRevoked {
		t.Errorf("without its owner: %q %+v, %s", code, reply, f.record("s2").State)
	}
	serveOperators(t, far.conn, theirs, f.conn)
	told := heard[*events.Session](t, far.conn, "berth.v1.session.*.revoked")
	reply, code = operate[tokens.RevokeReply](t, ours, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{"s1"}, By: "eve@host"})
	if code != "" || reply.Ended != 1 || far.record("s1").State != sessions.StateRevoked {
		t.Errorf("passed on: %q %+v, %s", code, reply, far.record("s1").State)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the owner tells who asked", func() bool { return len(told()) == 1 && told()[0].By == "eve@host" })

	// Two records that each name the other region as the owner: it does not go round for ever.
	f.putRecord("lost", owned)
	far.putRecord("lost", func(r *sessions.Record) { r.Epoch = events.Epoch{Number: 2, Region: dublin} })
	serveOperators(t, f.conn, ours, far.conn)
	began := time.Now()
	_, code = operate[tokens.RevokeReply](t, ours, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{"lost"}})
	t.Logf("in a circle: %q after %s: %s here, %s there", code, time.Since(began), f.record("lost").State, far.record("lost").State)
	if f.record("lost").State != sessions.StateRevoked {
		t.Error("the session goes on where it was asked to end")
	}
}

// serveOperators serves a region's operators over NATS, as soon as another region can ask it.
func serveOperators(t *testing.T, conn *jetstream.Conn, s *tokens.Service, from *jetstream.Conn) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	started, ended := make(chan struct{}), make(chan error, 1)
	cfg := jetstream.ServiceConfig{Name: "sessions", Version: "1.0.0", Started: func() { close(started) }}
	for _, method := range tokens.OperatorMethods() {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name:    method,
			Subject: events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: "global", Region: conn.Region(), Method: method}.String(),
			Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				header, data := s.ServeOperator(ctx, "global", method, r.Header, r.Data)
				return jetstream.Reply{Header: header, Data: data}
			},
		})
	}
	go func() { ended <- conn.Serve(ctx, cfg) }()
	<-started
	jetstreamtest.Eventually(t, 5*time.Second, "the other region knows of the service", func() bool {
		_, err := from.Call(t.Context(), cfg.Endpoints[0].Subject, nil, []byte("{}"))
		return err == nil
	})
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestNoTokensAfterAnAcknowledgedRevocation refreshes sessions as fast as can be while they are
// ended: whoever asks after the answer gets nothing more.
func TestNoTokensAfterAnAcknowledgedRevocation(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.running()
	const n = 8
	var acknowledged [n]atomic.Bool
	var ids []string
	var clients sync.WaitGroup
	var granted, late atomic.Int64
	for i := range n {
		current := login(t, s)
		ids = append(ids, current.SessionID)
		clients.Go(func() {
			for {
				before := acknowledged[i].Load()
				header, body := s.Serve(context.WithoutCancel(t.Context()), api.MethodRefresh, nil, fmt.Appendf(nil, `{"refreshToken":%q}`, current.RefreshToken))
				if header[api.HeaderStatus][0] != "200" {
					return
				}
				granted.Add(1)
				if before {
					late.Add(1)
				}
				if err := json.Unmarshal(body, &current); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the sessions are in use", func() bool { return granted.Load() > 5*n })
	for i, id := range ids {
		reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{id}})
		acknowledged[i].Store(true)
		if code != "" || reply.Ended != 1 {
			t.Errorf("%q %+v", code, reply)
		}
	}
	clients.Wait()
	if late.Load() != 0 {
		t.Errorf("%d refreshes were granted after the revocation was acknowledged", late.Load())
	}
}

// TestMassRevocationOutlivesTheLeader stops the node that leads the sessions' stream while an
// organization's sessions are ended: who begins again after each refusal has ended all, and all
// were told of.
func TestMassRevocationOutlivesTheLeader(t *testing.T) {
	t.Parallel()
	cluster := jetstreamtest.NewCluster(t, dublin, 3)
	conn := jetstreamtest.Dial(t, cluster.URL())
	if err := conn.Provision(t.Context(), jetstream.Topology{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, conn, server("a", dublin, "http://a"))
	s := f.running()
	const n = 120
	began := time.Now().Add(-time.Second)
	for i := range n {
		f.putRecord(fmt.Sprintf("s%03d", i))
	}
	leader := cluster.Leader(t, conn.JetStream(), "KV_"+jetstream.BucketSessions)
	q := tokens.RevokeRequest{Filter: &tokens.SessionFilter{Subject: "ada"}, Limit: 20}
	pages, refusals := 0, 0
	deadline := time.Now().Add(60 * time.Second)
	for {
		reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q)
		if pages == 2 && refusals == 0 {
			if err := leader.Shutdown(); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case time.Now().After(deadline):
			t.Fatalf("not done after %d pages and %d refusals", pages, refusals)
		case code != "" || len(reply.Failed) > 0:
			refusals++
			q.Cursor = ""
			continue
		}
		if pages++; reply.Cursor == "" {
			break
		}
		q.Cursor = reply.Cursor
	}
	t.Logf("%d pages, %d refusals", pages, refusals)
	told := map[string]bool{}
	err := conn.Regional().Read(t.Context(), []string{"berth.v1.revoked.*"}, began, func(subject string, data []byte) {
		e, err := events.Decode(subject, data)
		if err != nil {
			t.Error(err)
			return
		}
		for _, id := range e.(*events.Revoked).Sessions {
			told[id] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		id := fmt.Sprintf("s%03d", i)
		if state := f.record(id).State; state != sessions.StateRevoked || !told[id] {
			t.Errorf("%s is %s, told: %v", id, state, told[id])
		}
	}
}
