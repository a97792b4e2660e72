package tokens_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	sdk "github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

const farRegion = "ap-southeast-1"

// twoRegions are Dublin, where a token service owns the sessions, and Singapore, where the one
// server is to which all of them are locked.
type twoRegions struct {
	*fleet
	nats    *jetstreamtest.Fleet
	far     *jetstream.Conn
	service *tokens.Service
}

func newTwoRegions(t *testing.T) *twoRegions {
	t.Helper()
	nats := jetstreamtest.NewFleet(t, nil, dublin, farRegion)
	far := jetstreamtest.Provisioned(t, nats.Regions[farRegion].ClientURL())
	f := newFleet(t, jetstreamtest.Provisioned(t, nats.Regions[dublin].ClientURL()), farServer())
	s := f.running()
	f.beat(far)
	jetstreamtest.Eventually(t, 10*time.Second, "the service is ready", func() bool { return s.Ready() == nil })
	kid := f.keys.Signing()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/.well-known/jwks.json", nil))
	if err := far.Keys().Put(t.Context(), kid, w.Body.Bytes(), 0); err != nil {
		t.Fatal(err)
	}
	return &twoRegions{fleet: f, nats: nats, far: far, service: s}
}

func farServer() events.Server { return server(farRegion+"-a", farRegion, "http://sg") }

// beat publishes the view updates of a region that has a registry, for their subject alone.
func (f *fleet) beat(conn *jetstream.Conn) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		every := time.NewTicker(200 * time.Millisecond)
		defer every.Stop()
		for {
			_ = conn.NATS().Publish(events.Subject{Kind: events.KindView, Region: farRegion}.String(), []byte("{}"))
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	}()
	f.t.Cleanup(func() { cancel(); <-done })
}

// shop starts Singapore's server. The function tells how it answers a token.
func (r *twoRegions) shop() (ask func(token string) (status int)) {
	r.t.Helper()
	conn := jetstreamtest.Dial(r.t, r.nats.Regions[farRegion].ClientURL())
	c := conn.Regional()
	a, err := sdk.New(sdk.Config{
		Server: farRegion + "-a", Region: farRegion, URL: "http://sg", Capacity: 100, Issuer: issuer,
		Bus: c, Recent: c, Caller: c, Watcher: c, Log: jetstreamtest.Log(r.t),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Run(ctx)
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	h := a.Lock(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	return func(token string) int {
		req := httptest.NewRequestWithContext(r.t.Context(), http.MethodGet, "/", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
}

// login starts a session that the server honours.
func (r *twoRegions) login(ask func(string) int) api.TokensReply {
	r.t.Helper()
	l := login(r.t, r.service)
	jetstreamtest.Eventually(r.t, 10*time.Second, "the server honours the session", func() bool { return ask(l.AccessToken) == http.StatusNoContent })
	return l
}

// logout ends a session at its owner.
func (r *twoRegions) logout(l api.TokensReply) {
	r.t.Helper()
	if status, body, _ := post(r.t, r.service, "/v1/logout", api.LogoutRequest{RefreshToken: l.RefreshToken}); status != http.StatusNoContent {
		r.t.Fatalf("logout: %d %s", status, body)
	}
}

func (r *twoRegions) refusedWithin(limit time.Duration, since time.Time, ask func(string) int, token string) {
	r.t.Helper()
	jetstreamtest.Eventually(r.t, limit, "the server refuses the session", func() bool { return ask(token) == http.StatusUnauthorized })
	r.t.Logf("refused in %s %s later", farRegion, time.Since(since).Round(100*time.Microsecond))
}

func TestRevokedInAllRegionsAtOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	r := newTwoRegions(t)
	ask := r.shop()
	for range 3 {
		l := r.login(ask)
		began := time.Now()
		r.logout(l)
		r.refusedWithin(2*time.Second, began, ask, l.AccessToken)
	}
	l := r.login(ask)
	began := time.Now()
	if reply, code := operate[tokens.RevokeReply](t, r.service, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{l.SessionID}}); reply.Ended != 1 {
		t.Fatalf("%s %+v", code, reply)
	}
	r.refusedWithin(2*time.Second, began, ask, l.AccessToken)

	// One that starts afterwards reads it in its own region's stream.
	late := r.shop()
	jetstreamtest.Eventually(t, 5*time.Second, "a late server refuses the session, and never serves it", func() bool {
		status := late(l.AccessToken)
		if status == http.StatusNoContent {
			t.Fatal("a server that was started after the revocation serves the session")
		}
		return status == http.StatusUnauthorized
	})
}

// TestRevokedWhileARegionWasCutOff ends a session while the region of its server hears nobody:
// it is told again once the region is heard again.
func TestRevokedWhileARegionWasCutOff(t *testing.T) {
	t.Parallel()
	r := newTwoRegions(t)
	ask := r.shop()
	l := r.login(ask)
	told := heard[*events.Revoked](t, r.conn, "berth.v1.revoked.*")
	r.nats.Links[farRegion].Cut()
	cut := time.Now()
	jetstreamtest.Eventually(t, 5*time.Second, "the link is cut", func() bool { return !r.nats.Regions[farRegion].Joined() })
	r.logout(l)
	jetstreamtest.Eventually(t, 10*time.Second, "the region is silent", func() bool { return time.Since(cut) > 3500*time.Millisecond })
	if status := ask(l.AccessToken); status != http.StatusNoContent {
		t.Fatalf("the server cannot know, and answers %d", status)
	}
	r.nats.Links[farRegion].Heal()
	healed := time.Now()
	r.refusedWithin(15*time.Second, healed, ask, l.AccessToken)
	// It is of the time that it was of, so that it is not told again for ever.
	list := told()
	if first, last := list[0], list[len(list)-1]; len(list) < 2 || !last.At.Equal(first.At) || last.Sessions[0] != l.SessionID {
		t.Errorf("told as %+v", list)
	}
}

// TestRevokedWhileNATSWasAway ends a session while the NATS of its server's region is down.
func TestRevokedWhileNATSWasAway(t *testing.T) {
	t.Parallel()
	r := newTwoRegions(t)
	ask := r.shop()
	l := r.login(ask)
	if err := r.nats.Regions[farRegion].Shutdown(); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	r.logout(l)
	jetstreamtest.Eventually(t, 10*time.Second, "the region is silent", func() bool { return time.Since(down) > 3500*time.Millisecond })
	if err := r.nats.Regions[farRegion].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	r.refusedWithin(20*time.Second, back, ask, l.AccessToken)
	// Told again, it is in the region's own stream for those that start later.
	late := r.shop()
	jetstreamtest.Eventually(t, 5*time.Second, "a late server refuses the session", func() bool { return late(l.AccessToken) == http.StatusUnauthorized })
}
