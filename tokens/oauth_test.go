package tokens_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestOAuthClient lets golang.org/x/oauth2, as it is, refresh against /oauth/token.
func TestOAuthClient(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	config := oauth2.Config{ClientID: "berth", Endpoint: oauth2.Endpoint{TokenURL: srv.URL + "/oauth/token", AuthStyle: oauth2.AuthStyleInParams}}
	first := login(t, s)

	source := func(refresh string) oauth2.TokenSource {
		return config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: refresh, Expiry: time.Now().Add(-time.Hour)})
	}
	second, err := source(first.RefreshToken).Token()
	if err != nil {
		t.Fatal(err)
	}
	if second.AccessToken == "" || second.RefreshToken == first.RefreshToken || second.TokenType != "Bearer" ||
		second.Extra("server_url") != a.URL || time.Until(second.Expiry) < time.Minute {
		t.Errorf("token %+v, server_url %v", second, second.Extra("server_url"))
	}
	third, err := source(second.RefreshToken).Token()
	if err != nil {
		t.Fatal(err)
	}
	// A slow tab is told to try again, not to log in.
	var refusal *oauth2.RetrieveError
	if _, err := source(first.RefreshToken).Token(); !errors.As(err, &refusal) || refusal.ErrorCode != "temporarily_unavailable" {
		t.Errorf("a superseded token: %v", err)
	}
	revoke := func(token string) int {
		t.Helper()
		form := url.Values{"token": {token}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/oauth/revoke", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if status := revoke(third.AccessToken); status != http.StatusBadRequest {
		t.Errorf("revoke an access token: status %d", status)
	}
	if status := revoke(third.RefreshToken); status != http.StatusOK {
		t.Errorf("revoke: status %d", status)
	}
	if _, err := source(third.RefreshToken).Token(); !errors.As(err, &refusal) || refusal.ErrorCode != "invalid_grant" {
		t.Errorf("a revoked session's token: %v", err)
	}
}

// TestOAuthErrors sends what the refresh grant refuses: RFC 6749 errors, never a problem.
func TestOAuthErrors(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	for _, c := range []struct {
		name   string
		form   url.Values
		status int
		want   string
	}{
		{"nothing", url.Values{}, 400, "invalid_request"},
		{"another grant", url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
		{"no token", url.Values{"grant_type": {"refresh_token"}}, 400, "invalid_request"},
		{"no token of ours", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400, "invalid_grant"},
		{"an access token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.AccessToken}}, 400, "invalid_grant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token", strings.NewReader(c.form.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			var e struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error != c.want || w.Code != c.status {
				t.Errorf("status %d, %s; want %d %s", w.Code, w.Body, c.status, c.want)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control %q", w.Header().Get("Cache-Control"))
			}
		})
	}
}

// TestMetadata checks the documents that a standard client reads first.
func TestMetadata(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	get := func(path string) []byte {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Body.Bytes()
	}
	var m struct {
		Issuer  string `json:"issuer"`
		Token   string `json:"token_endpoint"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(get("/.well-known/oauth-authorization-server"), &m); err != nil {
		t.Fatal(err)
	}
	if m.Issuer != issuer || m.Token != issuer+"/oauth/token" || m.JWKSURI != issuer+"/.well-known/jwks.json" {
		t.Errorf("metadata %+v", m)
	}
	set, err := api.ParseKeySet(get("/.well-known/jwks.json"))
	if err != nil {
		t.Fatal(err)
	}
	v := api.Verifier{Key: set.Key, Issuer: issuer, Audience: issuer}
	claims, err := v.Access(login(t, s).AccessToken, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if claims.Subject != "ada" || claims.Scope != "orders" || claims.Own["role"] != "captain" || claims.ServerID != "eu-west-1-a" {
		t.Errorf("claims %+v", claims)
	}
}

// TestOverNATS reaches a service by rpc.tokens, as regional servers and applications do.
func TestOverNATS(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	f := newFleet(t, conn, a)
	s := f.service()
	call := func(method string, in any) (string, []byte) {
		t.Helper()
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		header, body := s.Serve(t.Context(), method, nil, data)
		return http.Header(header).Get(api.HeaderStatus), body
	}
	status, body := call(api.MethodStart, api.StartRequest{Subject: "grace", Scope: "orders", Claims: map[string]any{"tier": "gold"}})
	var reply api.TokensReply
	if err := json.Unmarshal(body, &reply); err != nil || status != "200" {
		t.Fatalf("start: status %s: %s", status, body)
	}
	if status, body = call(api.MethodRefresh, api.RefreshRequest{RefreshToken: reply.RefreshToken}); status != "200" {
		t.Errorf("refresh: status %s: %s", status, body)
	}
	if status, body = call(api.MethodStart, api.StartRequest{Subject: "grace", Claims: map[string]any{"sub": "root"}}); status != "400" {
		t.Errorf("a claim of berth's own: status %s: %s", status, body)
	}
	if status, body = call("sink", nil); status != "400" {
		t.Errorf("an unknown method: status %s: %s", status, body)
	}
	header, body := s.Serve(t.Context(), api.MethodRefresh, map[string][]string{
		api.HeaderDeadline: {time.Now().Add(-time.Second).Format(time.RFC3339Nano)},
	}, []byte(`{"refreshToken":"`+reply.RefreshToken+`"}`))
	if got := http.Header(header).Get(api.HeaderStatus); got != "503" {
		t.Errorf("past its deadline: status %s: %s", got, body)
	}
	header, body = s.Serve(t.Context(), api.MethodRefresh, map[string][]string{
		api.HeaderFloor: {"7.eu-west-1"},
	}, []byte(`{"refreshToken":"`+reply.RefreshToken+`"}`))
	if got := http.Header(header).Get(api.HeaderStatus); got != "503" {
		t.Errorf("below the passing server's floor: status %s: %s", got, body)
	}
}
