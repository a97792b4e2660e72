package tokens_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// boundedRegions are regions that know organizations, and jurisdictions.
func boundedRegions(t *testing.T, orgs *fixedOrgs, sets residency.Jurisdictions, names ...string) *regions {
	t.Helper()
	r := regionsIn(t, sets, names...)
	r.configure = func(_ string, c *tokens.Config) { c.Orgs = orgs }
	for _, name := range names {
		r.start(t, name)
	}
	for _, from := range names {
		for _, to := range names {
			for _, j := range sets.Shared(from, to) {
				jetstreamtest.Eventually(t, 10*time.Second, to+" to be in reach of "+from, func() bool {
					_, err := r.fleets[from].conn.Call(t.Context(), rpc(j, to, "jwks"), nil, nil)
					return err == nil
				})
			}
		}
	}
	return r
}

// TestOutlawedSession: a session that began before its region was outlawed moves at its next safe point, and no region outside
// serves it any more, nor takes it over.
func TestOutlawedSession(t *testing.T) {
	t.Parallel()
	orgs := &fixedOrgs{orgs: map[string]residency.Org{}}
	r := boundedRegions(t, orgs, residency.Jurisdictions{"sin": {singapore}}, dublin, singapore)
	there, here := r.services[dublin], r.services[singapore]
	session, p, _ := starting(t, there, "acme")
	if session.Server.Region != dublin {
		t.Fatalf("%+v, %+v", session, p)
	}
	orgs.set(bounded("acme", "sin", "", singapore))
	busy := granted(t, there, "/v1/refresh", api.RefreshRequest{RefreshToken: session.RefreshToken, CriticalTaskInProgress: true})
	if busy.Server.Region != dublin || busy.Reason != "critical_task" {
		t.Errorf("%s %s to %+v", busy.Decision, busy.Reason, busy.Server)
	}
	moved := granted(t, there, "/v1/refresh", api.RefreshRequest{RefreshToken: busy.RefreshToken})
	if moved.Server.Region != singapore || moved.Reason != "residency" || len(moved.Fallbacks) != 0 {
		t.Fatalf("%s %s to %+v, fallbacks %v", moved.Decision, moved.Reason, moved.Server, moved.Fallbacks)
	}
	r.await(t, singapore, session.SessionID, sessions.StateActive)
	next := granted(t, here, "/v1/refresh", api.RefreshRequest{RefreshToken: moved.RefreshToken})
	for _, path := range []string{"/v1/refresh", "/v1/logout"} {
		p = refused(t, there, path, api.RefreshRequest{RefreshToken: next.RefreshToken}, api.CodeLockedElsewhere)
		if p.Server == nil || p.Server.Region != singapore || p.Server.URL != next.AuthURL {
			t.Errorf("%s: sent to %+v", path, p.Server)
		}
	}
	w := httptest.NewRecorder()
	form := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token", strings.NewReader("grant_type=refresh_token&refresh_token="+next.RefreshToken))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if there.Handler().ServeHTTP(w, form); w.Code != 421 || !strings.Contains(w.Body.String(), "go to region "+singapore) {
		t.Errorf("OAuth: %d %s", w.Code, w.Body)
	}
	r.kill[singapore]()
	r.nats.Links[singapore].Cut()
	deadline := time.Now().Add(7 * time.Second) // an owner that is not heard for 5 s may be taken over from
	jetstreamtest.Eventually(t, 10*time.Second, "a takeover would be due", func() bool {
		refused(t, there, "/v1/refresh", api.RefreshRequest{RefreshToken: next.RefreshToken}, api.CodeLockedElsewhere)
		return time.Now().After(deadline)
	})
	if state, epoch := r.state(dublin, session.SessionID); state != sessions.StateMoved || epoch.Region != singapore {
		t.Errorf("the record outside is %s at %v", state, epoch)
	}
}

// TestHandoverIsRefused by a region that knows that the session may not be there, where the owner does not know yet.
func TestHandoverIsRefused(t *testing.T) {
	t.Parallel()
	behind, ahead := &fixedOrgs{orgs: map[string]residency.Org{}}, &fixedOrgs{orgs: map[string]residency.Org{}}
	r := provisionedRegions(t, dublin, singapore)
	r.sets = residency.Jurisdictions{"dub": {dublin}}
	r.configure = func(name string, c *tokens.Config) {
		if c.Orgs = behind; name == singapore {
			c.Orgs = ahead
		}
	}
	r.start(t, dublin)
	r.start(t, singapore)
	jetstreamtest.Eventually(t, 10*time.Second, "the region in reach", func() bool {
		_, err := r.fleets[dublin].conn.Call(t.Context(), rpc("global", singapore, "jwks"), nil, nil)
		return err == nil
	})
	ahead.set(bounded("acme", "dub", "", dublin))
	session, _, _ := starting(t, r.services[dublin], "acme")
	reply := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: session.RefreshToken, ClosestServerID: singapore + "-a"})
	if reply.Server.Region != dublin || reply.Reason != "target_refused" {
		t.Errorf("%s %s to %+v", reply.Decision, reply.Reason, reply.Server)
	}
	if state, _ := r.state(singapore, session.SessionID); state != "" {
		t.Errorf("a record outside is %s", state)
	}
}

// eavesdropper subscribes to everything in a region.
type eavesdropper struct {
	mu   sync.Mutex
	msgs []*nats.Msg
}

func (e *eavesdropper) hear(m *nats.Msg) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.msgs = append(e.msgs, m)
}

// found returns the subjects on which any of the words was heard.
func (e *eavesdropper) found(words ...string) (subjects []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.msgs {
		all := []byte(m.Subject + " " + m.Reply + " ")
		for name, values := range m.Header {
			all = append(all, name+" "+strings.Join(values, " ")...)
		}
		all = append(all, m.Data...)
		for _, word := range words {
			if bytes.Contains(all, []byte(word)) {
				subjects = append(subjects, word+" on "+m.Subject)
			}
		}
	}
	return subjects
}

// TestNothingLeavesItsJurisdiction follows a session of an organization through a login, a handover, a takeover and a return,
// while somebody in another region listens to all there is.
func TestNothingLeavesItsJurisdiction(t *testing.T) {
	t.Parallel()
	orgs := &fixedOrgs{orgs: map[string]residency.Org{"acme": bounded("acme", "eu", "", frankfurt, dublin)}}
	r := boundedRegions(t, orgs, europe(), dublin, frankfurt, virginia)
	spy := new(eavesdropper)
	listener := jetstreamtest.Dial(t, r.nats.Regions[virginia].ClientURL(), func(c *jetstream.Config) { c.Region = virginia })
	if _, err := listener.NATS().Subscribe(">", spy.hear); err != nil {
		t.Fatal(err)
	}
	if err := listener.NATS().Flush(); err != nil {
		t.Fatal(err)
	}
	app := r.fleets[dublin].conn
	call := func(region, method string, q any) (api.TokensReply, string) {
		t.Helper()
		data, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		jurisdiction := "eu"
		if method == api.MethodStart {
			jurisdiction = "global"
		}
		answer, err := r.fleets[region].conn.Call(t.Context(), rpc(jurisdiction, region, method), nil, data)
		if err != nil {
			t.Fatal(err)
		}
		var reply api.TokensReply
		_ = json.Unmarshal(answer.Data, &reply)
		return reply, string(answer.Data)
	}
	// Somebody else's session is heard of, so it is not the listener who is deaf.
	jetstreamtest.Eventually(t, 10*time.Second, "the listener hears of other regions", func() bool { return len(spy.found("berth.v1.view.eu-west-1")) > 0 })
	session, said := call(dublin, api.MethodStart, api.StartRequest{Subject: "ada-lovelace", Org: "acme"})
	if session.Server.Region != dublin {
		t.Fatal(said)
	}
	away, said := call(dublin, api.MethodRefresh, api.RefreshRequest{RefreshToken: session.RefreshToken, ClosestServerID: frankfurt + "-a"})
	if away.Server.Region != frankfurt {
		t.Fatal(said)
	}
	next, said := call(dublin, api.MethodRefresh, api.RefreshRequest{RefreshToken: away.RefreshToken}) // passed on
	if next.Server.Region != frankfurt {
		t.Fatal(said)
	}
	key := sessions.Key{Jurisdiction: "eu", Session: session.SessionID}
	copies := app.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)})
	jetstreamtest.Eventually(t, 10*time.Second, "a copy", func() bool {
		list, err := copies.Copies(t.Context(), key)
		return err == nil && len(list) == 1 && list[0].Record.Epoch.Region == frankfurt
	})
	p := refused(t, r.services[virginia], "/v1/refresh", api.RefreshRequest{RefreshToken: next.RefreshToken}, api.CodeLockedElsewhere)
	if p.Server == nil || p.Server.Region == virginia {
		t.Errorf("sent to %+v", p.Server)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the key of the other region to be known", func() bool {
		return r.services[dublin].Admit(t.Context(), next.RefreshToken) == nil
	})
	r.kill[frankfurt]()
	r.nats.Links[frankfurt].Cut()
	var taken api.TokensReply
	jetstreamtest.Eventually(t, 20*time.Second, "the other region goes on", func() bool {
		taken, said = call(dublin, api.MethodRefresh, api.RefreshRequest{RefreshToken: next.RefreshToken})
		return taken.Server.Region == dublin
	})
	if taken.Reason != "region_down" {
		t.Errorf("%s", said)
	}
	r.nats.Links[frankfurt].Heal()
	r.start(t, frankfurt)
	jetstreamtest.Eventually(t, 15*time.Second, "the region that is back yields", func() bool {
		rec, _, err := r.fleets[frankfurt].conn.Records().Get(t.Context(), key)
		return err == nil && rec.State == sessions.StateMoved
	})
	if heard := spy.found(session.SessionID, "ada-lovelace"); len(heard) > 0 {
		t.Errorf("heard outside: %v", heard)
	}
	for _, name := range []string{jetstream.StreamEvents, jetstream.StreamCopies, "KV_berth_sessions", jetstream.StreamViews} {
		stream, err := listener.JetStream().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
			m, err := stream.GetMsg(t.Context(), seq)
			if err == nil && (bytes.Contains(m.Data, []byte(session.SessionID)) || strings.Contains(m.Subject, session.SessionID) || bytes.Contains(m.Data, []byte("ada-lovelace"))) {
				t.Errorf("%s holds %s: %s", name, m.Subject, m.Data)
			}
		}
	}
}
