package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

// TestOnceInsideTheLock: an idempotency key belongs to the session of the access token, also to its later tokens, and to no
// other; what a session with an organization does is copied to no other region.
func TestOnceInsideTheLock(t *testing.T) {
	t.Parallel()
	conn, signer := newRegion(t)
	agent, _ := start(t, config(t, conn))
	guard, err := idempotency.New(idempotency.Config{
		Self: idempotency.Owner{Region: region, Server: self, Boot: "01"}, Store: conn.Idempotency(), Copies: conn.Idempotency(),
		Gone: idempotency.GoneByView(agent.View), Require: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	var orders atomic.Int64
	handler := guard.Once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := server.ClaimsFrom(r.Context())
		fmt.Fprint(w, claims.SessionID, " ", orders.Add(1))
	}))
	locked, unlocked := httptest.NewServer(agent.Lock(handler)), httptest.NewServer(handler)
	t.Cleanup(locked.Close)
	t.Cleanup(unlocked.Close)
	post := func(url, token, key string) reply {
		t.Helper()
		headers := []string{"Authorization", "Bearer " + token}
		if key != "" {
			headers = append(headers, "Idempotency-Key", key)
		}
		return ask(t, http.MethodPost, url+"/orders", strings.NewReader("{}"), headers...)
	}
	want := func(got reply, body string, replayed bool) {
		t.Helper()
		if string(got.body) != body || (got.Header.Get(idempotency.HeaderReplayed) != "") != replayed {
			t.Errorf("%d %s, replayed %q; want %s", got.StatusCode, got.body, got.Header.Get(idempotency.HeaderReplayed), body)
		}
	}
	first := signer.access(t)
	again := signer.access(t, func(c *api.AccessClaims) { c.ID = "t-2" })
	bound := signer.access(t, of("bound"), func(c *api.AccessClaims) { c.Org = "acme" })
	want(post(locked.URL, first, "1"), "session-1 1", false)
	want(post(locked.URL, again, "1"), "session-1 1", true)
	want(post(locked.URL, signer.access(t, of("other")), "1"), "other 2", false)
	want(post(locked.URL, bound, "1"), "bound 3", false)
	if got := post(locked.URL, first, ""); got.StatusCode != 400 || got.problem.Code != string(api.CodeIdempotencyKeyRequired) {
		t.Errorf("no key: %d %s", got.StatusCode, got.body)
	}
	if got := post(locked.URL, "nothing", "1"); got.StatusCode != 401 {
		t.Errorf("no good token: %d %s", got.StatusCode, got.body)
	}
	if got := post(unlocked.URL, first, "1"); got.StatusCode != 401 || got.problem.Code != string(api.CodeInvalidToken) {
		t.Errorf("outside of the lock: %d %s", got.StatusCode, got.body)
	}
	all, err := conn.Bucket(jetstream.BucketIdempotency).Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for key := range all {
		jurisdiction, _, _ := strings.Cut(key, ".")
		n[jurisdiction]++
	}
	if n["global"] != 2 || n["local"] != 1 || len(n) != 2 {
		t.Errorf("keys by jurisdiction: %v", n)
	}
}
