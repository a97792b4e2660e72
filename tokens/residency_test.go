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

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

const (
	frankfurt = "eu-central-1"
	virginia  = "us-east-1"
)

// fixedOrgs are organizations by name; a test changes them.
type fixedOrgs struct {
	mu   sync.Mutex
	orgs map[string]residency.Org
}

func (f *fixedOrgs) Org(name string) (residency.Org, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o, ok := f.orgs[name]; ok {
		return o, nil
	}
	return residency.Default(name), nil
}

func (f *fixedOrgs) set(o residency.Org) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orgs[o.Org] = o
}

// bounded is an organization of a jurisdiction.
func bounded(name, jurisdiction, home string, allowed ...string) residency.Org {
	o := residency.Default(name)
	o.Allowed, o.Jurisdiction, o.Home = allowed, jurisdiction, home
	return o
}

// europe are the jurisdictions of these tests.
func europe() residency.Jurisdictions {
	return residency.Jurisdictions{"eu": {frankfurt, dublin}, "fra": {frankfurt}}
}

// threeRegions is a token service in dublin which knows a server of each of three regions.
func threeRegions(t *testing.T, orgs ...residency.Org) (*fleet, *tokens.Service, *fixedOrgs) {
	t.Helper()
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)))
	known := &fixedOrgs{orgs: map[string]residency.Org{}}
	for _, o := range orgs {
		known.orgs[o.Org] = o
	}
	f.set(worldly(t)...)
	return f, f.service(func(c *tokens.Config) { c.Orgs, c.Jurisdictions = known, europe() }), known
}

// worldly are servers of three regions, where they belong.
func worldly(t *testing.T) []events.Server {
	t.Helper()
	var list []events.Server
	for _, region := range []string{dublin, frankfurt, virginia} {
		s, _ := healthy(t, region+"-a", region)
		s.Location = places()[region]
		list = append(list, s)
	}
	return list
}

// without returns the servers of which those of regions are down.
func without(list []events.Server, regions ...string) []events.Server {
	next := append([]events.Server{}, list...)
	for i := range next {
		for _, region := range regions {
			if next[i].Region == region {
				next[i].State = events.StateDown
			}
		}
	}
	return next
}

// starting asks for a session of an organization.
func starting(t *testing.T, s *tokens.Service, org string) (api.TokensReply, api.Problem, http.Header) {
	t.Helper()
	data, err := json.Marshal(api.StartRequest{Subject: "ada", Org: org})
	if err != nil {
		t.Fatal(err)
	}
	header, body := s.Serve(t.Context(), api.MethodStart, nil, data)
	var reply api.TokensReply
	var p api.Problem
	if http.Header(header).Get(api.HeaderStatus) == "200" {
		err = json.Unmarshal(body, &reply)
	} else {
		err = json.Unmarshal(body, &p)
	}
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return reply, p, header
}

// TestLoginWhereItMayBe: sessions begin in allowed regions alone, in the home region first.
func TestLoginWhereItMayBe(t *testing.T) {
	t.Parallel()
	f, s, _ := threeRegions(t, bounded("fra", "fra", "", frankfurt), bounded("acme", "eu", frankfurt, frankfurt, dublin), bounded("lost", "mars", ""))
	all := worldly(t)
	f.set(all...)
	_, p, _ := starting(t, s, "fra")
	if p.Code != string(api.CodeLockedElsewhere) || p.Status != 421 || p.Server == nil || p.Server.Region != frankfurt || p.Server.URL == "" {
		t.Errorf("a login outside: %+v, %+v", p, p.Server)
	}
	if _, p, header := starting(t, s, "lost"); p.Code != string(api.CodeUnavailable) || header.Get("Retry-After") == "" {
		t.Errorf("a jurisdiction that nobody knows: %+v", p)
	}
	reply, p, _ := starting(t, s, "acme")
	if reply.Server.Region != frankfurt || reply.Notice != nil {
		t.Errorf("not at home: %+v, %+v", reply, p)
	}
	if diff := cmp.Diff([]string{dublin}, regionsOfFallbacks(reply)); diff != "" {
		t.Errorf("fallbacks (-want +got):\n%s", diff)
	}
	if reply, _, _ = starting(t, s, "other"); len(reply.Fallbacks) != 2 || reply.Server.Region != dublin {
		t.Errorf("an organization of which nothing is set: %+v", reply)
	}

	f.set(without(all, frankfurt)...)
	reply, _, _ = starting(t, s, "acme")
	if reply.Server.Region != dublin || reply.Notice == nil || reply.Notice.Code != api.NoticeCodeTemporaryRegion || reply.ServerChanged {
		t.Errorf("on a fallback: %+v, %+v", reply, reply.Notice)
	}
	if again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: reply.RefreshToken}); again.Notice != nil || again.Server.Region != dublin {
		t.Errorf("told again: %+v", again)
	}
	_, p, header := starting(t, s, "fra")
	if p.Code != string(api.CodeNoAllowedRegion) || p.Status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("no region is left: %+v", p)
	}
	f.set(without(all, frankfurt, dublin)...)
	if _, p, _ = starting(t, s, "acme"); p.Code != string(api.CodeNoAllowedRegion) {
		t.Errorf("no server is left: %+v", p)
	}
}

func regionsOfFallbacks(reply api.TokensReply) []string {
	var list []string
	for _, f := range reply.Fallbacks {
		list = append(list, f.Region)
	}
	return list
}

// TestDeadServersOfAllAllowedRegions: then there is no region to go to, and the session stays where it is written.
func TestDeadServersOfAllAllowedRegions(t *testing.T) {
	t.Parallel()
	f, s, _ := threeRegions(t, bounded("acme", "eu", dublin, frankfurt, dublin))
	all := worldly(t)
	reply, p, _ := starting(t, s, "acme")
	if reply.Server.Region != dublin {
		t.Fatalf("%+v, %+v", reply, p)
	}
	f.set(without(all, dublin, frankfurt)...)
	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: reply.RefreshToken}, api.CodeNoAllowedRegion)
	f.set(all...)
	if again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: reply.RefreshToken}); again.Server.Region != dublin {
		t.Errorf("%+v", again)
	}
}

// TestHomeGoesBeforeCloseness: who has a home region stays there, wherever the client is.
func TestHomeGoesBeforeCloseness(t *testing.T) {
	t.Parallel()
	o := residency.Default("acme")
	o.Home = dublin
	_, s, _ := threeRegions(t, o)
	reply, _, _ := starting(t, s, "acme")
	token := reply.RefreshToken
	for range 2 {
		again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token, ClosestServerID: virginia + "-a", RTTMs: map[string]float64{virginia + "-a": 1, dublin + "-a": 90}})
		if again.Server.Region != dublin {
			t.Fatalf("left home: %+v", again)
		}
		token = again.RefreshToken
	}
}

func get(t *testing.T, s *tokens.Service, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// TestOrgLookUp says where to log in, over HTTP and over NATS, and the same of organizations that nobody knows.
func TestOrgLookUp(t *testing.T) {
	t.Parallel()
	f, s, orgs := threeRegions(t, bounded("acme", "eu", frankfurt, frankfurt, dublin))
	url := func(region string) string {
		server, _ := f.view.Load().Server(region + "-a")
		return server.Auth()
	}
	for name, want := range map[string]api.OrgReply{
		"acme":   {HomeRegion: frankfurt, AllowedRegions: []string{frankfurt, dublin}, URL: url(frankfurt), Region: frankfurt, FallbackRegions: []string{dublin}},
		"nobody": {HomeRegion: dublin, AllowedRegions: []string{frankfurt, dublin, virginia}, URL: url(dublin), Region: dublin, FallbackRegions: []string{frankfurt, virginia}},
	} {
		w := get(t, s, "/v1/orgs/"+name)
		var reply, over api.OrgReply
		if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s, %v", name, w.Code, w.Body, err)
		}
		if diff := cmp.Diff(want, reply); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if w.Header().Get("Cache-Control") != "private, max-age=1" || w.Header().Get("Etag") == "" {
			t.Errorf("%s: %v", name, w.Header())
		}
		if again := get(t, s, "/v1/orgs/"+name, "If-None-Match", w.Header().Get("Etag")); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s: asked again: %d %s", name, again.Code, again.Body)
		}
		header, body := s.Serve(t.Context(), api.MethodOrg, map[string][]string{api.HeaderOrg: {name}}, nil)
		if err := json.Unmarshal(body, &over); err != nil || !cmp.Equal(over, want) || http.Header(header).Get("Etag") != w.Header().Get("Etag") {
			t.Errorf("%s over NATS: %s, %v", name, body, err)
		}
	}
	tag := get(t, s, "/v1/orgs/acme").Header().Get("Etag")
	orgs.set(bounded("acme", "eu", dublin, frankfurt, dublin))
	if w := get(t, s, "/v1/orgs/acme", "If-None-Match", tag); w.Code != 200 {
		t.Errorf("a change is not seen: %d", w.Code)
	}
	f.set(without(worldly(t), dublin, frankfurt)...)
	if w := get(t, s, "/v1/orgs/acme"); w.Code != 200 || strings.Contains(w.Body.String(), `"url"`) {
		t.Errorf("nobody takes sessions: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/v1/orgs/A%20B", "/v1/closestToMe?org=A%20B"} {
		if w := get(t, s, path); w.Code != 400 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if header, _ := s.Serve(t.Context(), api.MethodOrg, nil, nil); http.Header(header).Get(api.HeaderStatus) != "400" {
		t.Errorf("no name over NATS: %v", header)
	}
}

// TestClosestOfAnOrganization names servers of its regions alone.
func TestClosestOfAnOrganization(t *testing.T) {
	t.Parallel()
	f, s, _ := threeRegions(t, bounded("acme", "eu", frankfurt, frankfurt, dublin))
	login, _, _ := starting(t, s, "acme")
	for what, w := range map[string]*httptest.ResponseRecorder{
		"the query": get(t, s, "/v1/closestToMe?org=acme", "X-Berth-Client-Location", "39.0,-77.5"),
		"its token": get(t, s, "/v1/closestToMe", "X-Berth-Client-Location", "39.0,-77.5", "Authorization", "Bearer "+login.AccessToken),
	} {
		var reply api.ClosestReply
		if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || reply.Region != frankfurt || len(reply.Candidates) != 2 || strings.Contains(w.Body.String(), virginia) {
			t.Errorf("by %s: %s, %v", what, w.Body, err)
		}
	}
	if w := get(t, s, "/v1/closestToMe", "X-Berth-Client-Location", "39.0,-77.5"); !strings.Contains(w.Body.String(), virginia) {
		t.Errorf("of no organization: %s", w.Body)
	}
	f.set(without(worldly(t), dublin, frankfurt)...)
	if w := get(t, s, "/v1/closestToMe?org=acme"); w.Code != 503 || !strings.Contains(w.Body.String(), string(api.CodeNoAllowedRegion)) {
		t.Errorf("nobody takes sessions: %d %s", w.Code, w.Body)
	}
}

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

// restless never waits between two moves.
type restless struct{}

func (restless) For(string) placement.Policy { return placement.Policy{Cooldown: time.Nanosecond} }

// TestHomeIsLeftAndRestored: a session goes to the fallback that its organization has chosen while its home region has no server,
// and back when it has; its user is told of both.
func TestHomeIsLeftAndRestored(t *testing.T) {
	t.Parallel()
	acme := residency.Default("acme")
	acme.Home, acme.Fallbacks = dublin, []string{virginia}
	r := provisionedRegions(t, dublin, frankfurt, virginia)
	orgs := &fixedOrgs{orgs: map[string]residency.Org{"acme": acme}}
	r.configure = func(_ string, c *tokens.Config) { c.Orgs, c.Policies = orgs, restless{} }
	all := worldly(t)
	for _, name := range []string{dublin, frankfurt, virginia} {
		r.fleets[name].set(all...)
		r.start(t, name)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the regions in reach", func() bool {
		_, there := r.fleets[dublin].conn.Call(t.Context(), rpc("global", virginia, "jwks"), nil, nil)
		_, back := r.fleets[virginia].conn.Call(t.Context(), rpc("global", dublin, "jwks"), nil, nil)
		return there == nil && back == nil
	})
	session, p, _ := starting(t, r.services[dublin], "acme")
	if session.Server.Region != dublin || len(session.Fallbacks) != 2 || session.Fallbacks[0].Region != virginia {
		t.Fatalf("%+v, %+v", session, p)
	}
	see := func(list []events.Server) {
		for _, f := range r.fleets {
			f.set(list...)
		}
	}
	see(without(all, dublin))
	away := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: session.RefreshToken})
	if away.Server.Region != virginia || away.Notice == nil || away.Notice.Code != api.NoticeCodeTemporaryRegion || away.Notice.Message != api.NoticeTemporaryRegion {
		t.Fatalf("%s %s to %+v, notice %+v", away.Decision, away.Reason, away.Server, away.Notice)
	}
	see(all)
	back := granted(t, r.services[virginia], "/v1/refresh", api.RefreshRequest{RefreshToken: away.RefreshToken})
	if back.Server.Region != dublin || back.Reason != "home_restored" || back.Notice == nil || back.Notice.Code != api.NoticeCodeHomeRegionRestored {
		t.Fatalf("%s %s to %+v, notice %+v", back.Decision, back.Reason, back.Server, back.Notice)
	}
}
