package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
)

// TestCORS: pages of the allowed origins may call what the lock guards, and read why it refuses.
func TestCORS(t *testing.T) {
	conn, key := newRegion(t)
	a, _ := start(t, config(t, conn))
	const page = "https://app.example.com"
	handler, err := server.CORS{Origins: []string{page}, Headers: []string{"X-Cart"}}.Handler(a.Lock(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "served")
	})))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool {
		return ask(t, "GET", s.URL, nil, bearer(key.access(t))...).StatusCode == http.StatusOK
	})

	preflight := func(origin, headers string) reply {
		return ask(t, http.MethodOptions, s.URL+"/orders", nil, "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", headers)
	}
	if r := preflight(page, "authorization,berth-bookmark,berth-lock,content-type,idempotency-key,x-cart"); r.StatusCode != http.StatusNoContent ||
		r.Header.Get("Access-Control-Allow-Origin") != page || r.Header.Get("Access-Control-Max-Age") != "600" || len(r.body) > 0 {
		t.Errorf("preflight: %d %v", r.StatusCode, r.Header)
	}
	for name, r := range map[string]reply{"another origin": preflight("https://evil.example.com", "authorization"), "another header": preflight(page, "x-evil")} {
		if got := r.Header.Get("Access-Control-Allow-Origin"); got != "" || len(r.body) > 0 {
			t.Errorf("preflight of %s: %d, allowed %q, %s", name, r.StatusCode, got, r.body)
		}
	}
	for name, headers := range map[string][]string{"served": bearer(key.access(t)), "refused": nil} {
		r := ask(t, "POST", s.URL, nil, append(headers, "Origin", page)...)
		exposed := strings.ToLower(r.Header.Get("Access-Control-Expose-Headers"))
		if r.Header.Get("Access-Control-Allow-Origin") != page || !strings.Contains(exposed, "retry-after") || !strings.Contains(exposed, "berth-bookmark") {
			t.Errorf("%s: %d %v", name, r.StatusCode, r.Header)
		}
		if r.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: cookies are allowed", name)
		}
	}
	for origin, want := range map[string]string{"*": "want http(s)://host", "https://a.example.com/": "without a path", "app.example.com": "want http(s)://host"} {
		if _, err := (server.CORS{Origins: []string{origin}}).Handler(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("origin %q: %v", origin, err)
		}
	}
	if _, err := (server.CORS{}).Handler(nil); err == nil {
		t.Error("no origins are taken")
	}
}
