package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/berthhq/berth/tokens/api"
)

// TestForeignTokensStayOutside: of a token whose organization may not be in this region nothing goes to NATS but the
// organization's name, and its client is sent to where it belongs.
func TestForeignTokensStayOutside(t *testing.T) {
	conn, s, a := paths(t, "/")
	elsewhere := `{"homeRegion":"us-east-1","allowedRegions":["us-east-1"],"url":"https://us.example.com","region":"us-east-1","fallbackRegions":[]}`
	lookUps := answerRPC(t, conn, "global", api.MethodOrg, always(httpAnswer(200, elsewhere)))
	refreshes := answerRPC(t, conn, "us", api.MethodRefresh, always(httpAnswer(200, "{}")))
	starts := answerRPC(t, conn, "global", api.MethodStart, always(httpAnswer(200, "{}")))
	token := func(org, jurisdiction string) string {
		return fmt.Sprintf(`{"refreshToken":%q}`, unverified(fmt.Sprintf(`{"sid":"secret","org":%q,"jurisdiction":%q}`, org, jurisdiction)))
	}
	r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader(token("acme", "us")))
	var p api.Problem
	if err := json.Unmarshal(r.body, &p); err != nil || r.StatusCode != 421 || p.Code != string(api.CodeLockedElsewhere) || p.Server == nil || p.Server.URL != "https://us.example.com" || p.Server.Region != "us-east-1" {
		t.Errorf("%d %s, %v", r.StatusCode, r.body, err)
	}
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", r.Header)
	}
	asked := <-lookUps.requests
	if asked.Header.Get(api.HeaderOrg) != "acme" || strings.Contains(fmt.Sprint(asked.Header, string(asked.Data)), "secret") {
		t.Errorf("the look-up says %v %s", asked.Header, asked.Data)
	}
	refused := (*api.Error)(nil)
	if _, err := a.StartSession(t.Context(), api.StartRequest{Subject: "ada", Org: "acme"}); !errors.As(err, &refused) || refused.Code != api.CodeLockedElsewhere {
		t.Errorf("a start outside: %v", err)
	}
	if len(refreshes.requests)+len(starts.requests) > 0 {
		t.Error("a token, or a user, was passed on")
	}
	if r := ask(t, http.MethodPost, s.URL+"/oauth/token", strings.NewReader("grant_type=refresh_token&refresh_token="+unverified(`{"org":"acme","jurisdiction":"us"}`)),
		"Content-Type", "application/x-www-form-urlencoded"); r.StatusCode != 421 || !strings.Contains(string(r.body), "https://us.example.com") {
		t.Errorf("OAuth: %d %s", r.StatusCode, r.body)
	}
}

// TestTokensOfTheRegionsJurisdictions are passed on, and the organization is looked up until one was answered.
func TestTokensOfTheRegionsJurisdictions(t *testing.T) {
	conn, s, _ := paths(t, "/")
	here := fmt.Sprintf(`{"homeRegion":%q,"allowedRegions":[%q],"fallbackRegions":[]}`, region, region)
	lookUps := answerRPC(t, conn, "global", api.MethodOrg, always(httpAnswer(200, here)))
	refreshes := answerRPC(t, conn, "us", api.MethodRefresh, always(httpAnswer(200, "{}")))
	body := fmt.Sprintf(`{"refreshToken":%q}`, unverified(`{"sid":"s","org":"acme","jurisdiction":"us"}`))
	for range 3 {
		if r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader(body)); r.StatusCode != 200 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
	}
	if len(lookUps.requests) != 1 || len(refreshes.requests) != 3 {
		t.Errorf("%d looked up, %d passed on", len(lookUps.requests), len(refreshes.requests))
	}
}

// TestWhereNobodyKnowsTheOrganization nothing of its tokens is passed on.
func TestWhereNobodyKnowsTheOrganization(t *testing.T) {
	conn, s, _ := paths(t, "/")
	body := fmt.Sprintf(`{"refreshToken":%q}`, unverified(`{"sid":"s","org":"acme","jurisdiction":"us"}`))
	for _, c := range []struct {
		status int
		answer string
		want   api.Code
	}{
		{503, `{"code":"unavailable"}`, api.CodeUnavailable},
		{200, `nonsense`, api.CodeUnavailable},
		{200, `{"allowedRegions":["us-east-1"],"fallbackRegions":[]}`, api.CodeNoAllowedRegion},
	} {
		t.Run(c.answer, func(t *testing.T) {
			answerRPC(t, conn, "global", api.MethodOrg, always(httpAnswer(c.status, c.answer)))
			r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader(body))
			if r.StatusCode != 503 || !strings.Contains(string(r.body), string(c.want)) || r.Header.Get("Retry-After") == "" {
				t.Errorf("%d %s", r.StatusCode, r.body)
			}
		})
	}
}

// TestLookUpsArePassedOn with the organization that they are for.
func TestLookUpsArePassedOn(t *testing.T) {
	conn, s, _ := paths(t, "/berth")
	orgs := answerRPC(t, conn, "global", api.MethodOrg, always(httpAnswer(200, "{}", "ETag", `"v"`, "Cache-Control", "private, max-age=1")))
	closest := answerRPC(t, conn, "global", api.MethodClosest, always(httpAnswer(200, "{}")))
	r := ask(t, http.MethodGet, s.URL+"/berth/v1/orgs/acme", nil, "If-None-Match", `"v"`)
	if r.StatusCode != 200 || r.Header.Get("Etag") != `"v"` || r.Header.Get("Cache-Control") != "private, max-age=1" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if m := <-orgs.requests; m.Header.Get(api.HeaderOrg) != "acme" || m.Header.Get("If-None-Match") != `"v"` {
		t.Errorf("%v", m.Header)
	}
	for path, want := range map[string]string{"/berth/v1/closestToMe?org=acme": "acme", "/berth/v1/closestToMe": "", "/berth/v1/closestToMe?org=A%0AB": ""} {
		ask(t, http.MethodGet, s.URL+path, nil)
		if m := <-closest.requests; m.Header.Get(api.HeaderOrg) != want {
			t.Errorf("%s: %v", path, m.Header)
		}
	}
}
