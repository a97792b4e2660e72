package tokens_test

import (
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestAStaleViewMovesNobody: by a view that is too old sessions stay where they are, whatever it
// says, unless their server fails a probe.
func TestAStaleViewMovesNobody(t *testing.T) {
	a, health := healthy(t, "eu-west-1-a", dublin)
	b, _ := healthy(t, "eu-west-1-b", dublin)
	far, _ := healthy(t, "us-east-1-a", "us-east-1")
	far.Location = events.Location{Lat: 39, Lon: -77.5}
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	var stale atomic.Bool
	s := f.service(func(c *tokens.Config) { c.Stale = stale.Load })
	run(t, s)
	decisions := make(chan events.Decision, 100)
	stop, err := f.conn.Subscribe(t.Context(), "berth.v1.decision.eu-west-1.>", func(subject string, data []byte) {
		if e, err := events.Decode(subject, data); err == nil {
			decisions <- *e.(*events.Decision)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	last := login(t, s)
	refresh := func(req api.RefreshRequest) api.TokensReply {
		t.Helper()
		req.RefreshToken = last.RefreshToken
		last = granted(t, s, "/v1/refresh", req)
		return last
	}
	stays := func(what string, req api.RefreshRequest) {
		t.Helper()
		if got := refresh(req); got.Server.ID != "eu-west-1-a" || got.Decision != "stay" || got.Reason != "view_stale" || got.ServerChanged || got.Server.URL != a.URL {
			t.Errorf("%s: %+v", what, got)
		}
	}
	stale.Store(true)
	f.set(a, b, far)
	stays("another region is closer", api.RefreshRequest{ClosestServerID: "us-east-1-a"})
	down := a
	down.State = events.StateDown
	f.set(down, b, far)
	stays("down in an old view, and answers", api.RefreshRequest{})
	f.set(b, far)
	stays("a server that the old view does not know", api.RefreshRequest{})
	draining := a
	draining.State, draining.Since = events.StateDraining, time.Now().Add(-time.Hour)
	f.set(draining, b, far)
	stays("draining in an old view", api.RefreshRequest{})

	// A fresh view counts again.
	stale.Store(false)
	f.set(a, b, far)
	if got := refresh(api.RefreshRequest{}); got.Reason == "view_stale" {
		t.Errorf("by a fresh view: %+v", got)
	}
	if last.Server.ID != "eu-west-1-a" {
		t.Fatalf("the session went to %s before its server died", last.Server.ID)
	}
	stale.Store(true)
	health.Close()
	stays("dead, and nobody says so", api.RefreshRequest{})
	f.set(down, b, far)
	if got := refresh(api.RefreshRequest{}); got.Server.ID != "eu-west-1-b" || got.Reason != "server_down" {
		t.Errorf("down in an old view, and fails the probe: %+v", got)
	}
	if got := login(t, s); got.Server.ID == "" {
		t.Errorf("a login by an old view: %+v", got)
	}
	checkDecisions(t, decisions)
	replayed(t, f.conn, 9)
}

// checkDecisions waits for a decision that says that its view was stale.
func checkDecisions(t *testing.T, decisions <-chan events.Decision) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	var seen []string
	for {
		select {
		case d := <-decisions:
			seen = append(seen, d.Reason)
			if d.Facts.Stale != slices.Contains([]string{"view_stale", "server_down"}, d.Reason) && d.Reason != "login" {
				data, _ := json.Marshal(d)
				t.Errorf("decision %s", data)
			}
			if d.Reason == "server_down" {
				return
			}
		case <-deadline:
			t.Fatalf("decisions %v, want the last move among them", seen)
		}
	}
}

// TestAClientsWordOutweighsAStaleView: who cannot reach its server is probed for as ever.
func TestAClientsWordOutweighsAStaleView(t *testing.T) {
	a, health := healthy(t, "eu-west-1-a", dublin)
	b, _ := healthy(t, "eu-west-1-b", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service(func(c *tokens.Config) { c.Stale = func() bool { return true } })
	first := login(t, s)
	f.set(a, b)
	req := api.RefreshRequest{RefreshToken: first.RefreshToken, FailedServerID: "eu-west-1-a"}
	refused(t, s, "/v1/refresh", req, api.CodeServerUnconfirmed)
	health.Close()
	if got := granted(t, s, "/v1/refresh", req); got.Server.ID != "eu-west-1-b" || got.Reason != "server_down" {
		t.Errorf("%+v", got)
	}
}

// TestAWrongClockJudgesNobody: a service that does not know its clock to be right begins and refreshes
// no session; by that clock an honest client could be a thief, and its token a bad one.
func TestAWrongClockJudgesNobody(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	var wrong atomic.Bool
	s := f.service(func(c *tokens.Config) {
		c.Clock = func() error {
			if wrong.Load() {
				return errors.New("40s ahead")
			}
			return nil
		}
	})
	first := login(t, s)
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	wrong.Store(true)
	before := f.record(first.SessionID)
	bad := second.RefreshToken + "a"
	for _, token := range []string{first.RefreshToken, second.RefreshToken, bad} {
		refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token}, api.CodeUnavailable)
	}
	refused(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: bad}, api.CodeUnavailable)
	refused(t, s, "/v1/login", api.LoginRequest{Username: "ada", Password: "ada-dev"}, api.CodeUnavailable)
	if diff := cmp.Diff(before, f.record(first.SessionID)); diff != "" {
		t.Errorf("the record has changed (-before +after):\n%s", diff)
	}
	wrong.Store(false)
	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: bad}, api.CodeInvalidToken)
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
}
