package server_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// TestVerify: what a proxy is told of a request, in the way of nginx and in that of Envoy.
func TestVerify(t *testing.T) {
	conn, key := newRegion(t)
	stranger := newSigner(t, region+".key-9")
	a, _ := start(t, config(t, conn))
	s := httptest.NewServer(a.Verify())
	t.Cleanup(s.Close)
	good := key.access(t, func(c *api.AccessClaims) { c.Org = "acme" })
	verify := func(query string, headers ...string) reply {
		return ask(t, "GET", s.URL+"/verify"+query, nil, headers...)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return verify("", bearer(good)...).StatusCode == 200 })
	away := key.access(t, func(c *api.AccessClaims) { c.ServerID, c.ServerURL = region+"-b", "https://b.example.com" })

	tests := []struct {
		name    string
		headers []string
		// plain and direct are the statuses of either style.
		plain, direct int
		code, server  string
	}{
		{"good", bearer(good), 200, 200, "", ""},
		{"in the header of its own", []string{server.HeaderLock, good, "Authorization", "Basic YTpi"}, 200, 200, "", ""},
		{"none", nil, 401, 401, "invalid_token", ""},
		{"of another server", bearer(away), 403, 421, "locked_elsewhere", "https://b.example.com"},
		{"of an unknown key", bearer(stranger.access(t)), 403, 503, "unavailable", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plain, direct := verify("", test.headers...), verify("?style=direct", test.headers...)
			if plain.StatusCode != test.plain || direct.StatusCode != test.direct {
				t.Fatalf("%d and direct %d, want %d and %d", plain.StatusCode, direct.StatusCode, test.plain, test.direct)
			}
			if got := plain.Header.Get(server.HeaderCode); got != test.code {
				t.Errorf("code %q, want %q", got, test.code)
			}
			if got := plain.Header.Get(server.HeaderServer); got != test.server {
				t.Errorf("server %q, want %q", got, test.server)
			}
			if test.code == "unavailable" && plain.Header.Get("Retry-After") != "1" {
				t.Errorf("%v", plain.Header)
			}
			if test.direct != 200 && (direct.problem.Code != test.code || (direct.problem.Server != nil) != (test.server != "")) {
				t.Errorf("direct: %+v", direct.problem)
			}
			if plain.Header.Get("Cache-Control") != "no-store" || (plain.Header.Get("WWW-Authenticate") != "") != (test.plain == 401) {
				t.Errorf("%v", plain.Header)
			}
		})
	}
	h := verify("", bearer(good)...).Header
	if h.Get("Berth-Subject") != "ada" || h.Get("Berth-Session") != "session-1" || h.Get("Berth-Org") != "acme" || h.Get("Berth-Scope") != "orders" {
		t.Errorf("the application is told %v", h)
	}
	odd := key.access(t, func(c *api.AccessClaims) { c.Subject = "ada\r\nBerth-Org: evil" })
	if h := verify("", bearer(odd)...).Header; h.Get("Berth-Subject") != "" || h.Get("Berth-Org") != "" {
		t.Errorf("of a subject that no header can hold: %v", h)
	}
}
