package tokens_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/residency"
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
