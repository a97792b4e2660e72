package server_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// instance is one of a region's token services, which only notes whose refreshes come to it.
type instance struct {
	id   string
	stop func()

	mu       sync.Mutex
	sessions map[string]int
	// hung says that refreshes which are meant for it alone are not answered.
	hung bool
}

// runInstance serves refreshes as a token service does, until stop or the test's end.
func runInstance(t *testing.T, nats, id string) *instance {
	t.Helper()
	n := &instance{id: id, sessions: map[string]int{}}
	conn := jetstreamtest.Dial(t, nats)
	subject := "berth.v1.rpc.tokens.global." + region + ".refresh"
	reply := func(r jetstream.Request) jetstream.Reply {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.sessions[string(r.Data)]++
		return jetstream.Reply{Header: map[string][]string{api.HeaderStatus: {"200"}, api.HeaderInstance: {n.id}}, Data: []byte(n.id)}
	}
	ctx, cancel := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := conn.Serve(ctx, jetstream.ServiceConfig{
			Name: "tokens", Version: "1.0.0", Started: func() { close(started) }, Grace: 50 * time.Millisecond,
			Endpoints: []jetstream.Endpoint{
				{Name: "refresh", Subject: subject, Handler: func(_ context.Context, r jetstream.Request) jetstream.Reply { return reply(r) }},
				{Name: "refresh-here", Subject: api.InstanceSubject(subject, strings.Trim(id, ".>")), Every: true, Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
					n.mu.Lock()
					hung := n.hung
					n.mu.Unlock()
					if hung {
						<-ctx.Done()
						return jetstream.Reply{Silent: true}
					}
					return reply(r)
				}},
			},
		})
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	<-started
	n.stop = func() { cancel(); <-ended }
	t.Cleanup(n.stop)
	return n
}

// refreshOf returns the body of a refresh of a session.
func refreshOf(session string) string {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sid":%q,"jurisdiction":"global"}`, session))
	return fmt.Sprintf(`{"refreshToken":"e30.%s.x"}`, claims)
}

// refresher refreshes sessions through one regional server.
type refresher struct {
	t   *testing.T
	url string
}

func newRefresher(t *testing.T, nats string) refresher {
	t.Helper()
	c := config(t, jetstreamtest.Dial(t, nats))
	a, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a.TokenPaths("/"))
	t.Cleanup(s.Close)
	return refresher{t, s.URL + "/v1/refresh"}
}

// refresh returns which instance has answered.
func (r refresher) refresh(session string) string {
	r.t.Helper()
	got := ask(r.t, http.MethodPost, r.url, strings.NewReader(refreshOf(session)))
	if got.StatusCode != http.StatusOK || got.Header.Get(api.HeaderInstance) != "" {
		r.t.Fatalf("%s: status %d, %v: %s", session, got.StatusCode, got.Header, got.body)
	}
	return string(got.body)
}

// TestSessionFallsToOneInstance: once the instances are known, a session's refreshes come to one
// of them, each has its share of the sessions, and every regional server chooses the same.
func TestSessionFallsToOneInstance(t *testing.T) {
	nats := jetstreamtest.Shared(t)
	runInstance(t, nats, "one")
	runInstance(t, nats, "two")
	runInstance(t, nats, "three")
	servers := []refresher{newRefresher(t, nats), newRefresher(t, nats)}
	const sessions, rounds = 30, 6
	for _, s := range servers {
		for i := range 3 * sessions { // by then all have answered
			s.refresh(fmt.Sprint("first-", i))
		}
	}
	share := map[string]int{}
	strays := 0
	for i := range sessions {
		session := fmt.Sprint("session-", i)
		answers := map[string]int{}
		for range rounds {
			for _, s := range servers {
				answers[s.refresh(session)]++
			}
		}
		best := ""
		for id, n := range answers {
			if n > answers[best] {
				best = id
			}
		}
		share[best]++
		strays += rounds*len(servers) - answers[best]
	}
	if strays > sessions*rounds*len(servers)/20 {
		t.Errorf("%d of %d refreshes came to another instance than the session's", strays, sessions*rounds*len(servers))
	}
	if len(share) != 3 {
		t.Errorf("sessions by instance: %v", share)
	}
}

// TestInstanceGoes: no refresh fails when the instance that sessions fall to stops, hangs, or lies
// about its name.
func TestInstanceGoes(t *testing.T) {
	nats := jetstreamtest.Shared(t)
	runInstance(t, nats, "stays")
	goes := runInstance(t, nats, "goes")
	s := newRefresher(t, nats)
	for i := range 40 {
		s.refresh(fmt.Sprint("s-", i))
	}
	goes.stop()
	for i := range 40 {
		if got := s.refresh(fmt.Sprint("s-", i)); got != "stays" {
			t.Errorf("session %d: answered by %s", i, got)
		}
	}
	hangs := runInstance(t, nats, "hangs")
	for i := range 100 {
		s.refresh(fmt.Sprint("t-", i))
	}
	hangs.mu.Lock()
	hangs.hung = true
	hangs.mu.Unlock()
	for i := range 5 {
		began := time.Now()
		s.refresh(fmt.Sprint("t-", i))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("session %d waited for %s", i, took)
		}
	}
	hangs.stop()
	runInstance(t, nats, "stays.>")
	for i := range 40 {
		s.refresh(fmt.Sprint("u-", i))
	}
}
