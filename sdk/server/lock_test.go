package server_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

const challenge = `Bearer error="invalid_token"`

func TestLockRefuses(t *testing.T) {
	conn, good := newRegion(t)
	other := newSigner(t, good.kid) // claims to be the good key
	stranger := newSigner(t, region+".key-9")
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, good.access(t)) == "" })
	tell(t, conn, release("moved", 5))
	tell(t, conn, revocation("us-east-1", "ended", "ended-too"))
	jetstreamtest.Eventually(t, 5*time.Second, "the events were heard", func() bool {
		return shop.code(t, good.access(t, of("ended-too"))) == api.CodeSessionRevoked
	})

	there := &api.Server{ID: region + "-b", Region: region, URL: "https://b.example.com"}
	tests := []struct {
		name      string
		headers   []string
		status    int
		code      api.Code
		challenge string
		server    *api.Server
	}{
		{"no token", nil, 401, api.CodeInvalidToken, "Bearer", nil},
		{"no token after the scheme", []string{"Authorization", "Bearer "}, 401, api.CodeInvalidToken, challenge, nil},
		{"another scheme", []string{"Authorization", "Basic YWRhOmFkYQ=="}, 401, api.CodeInvalidToken, challenge, nil},
		{"two tokens", []string{"Authorization", "Bearer " + good.access(t), "Authorization", "Bearer " + good.access(t)}, 401, api.CodeInvalidToken, challenge, nil},
		{"two locks", []string{"Berth-Lock", good.access(t), "Berth-Lock", good.access(t)}, 401, api.CodeInvalidToken, challenge, nil},
		{"an empty lock beside a good token", []string{"Berth-Lock", "", "Authorization", "Bearer " + good.access(t)}, 401, api.CodeInvalidToken, challenge, nil},
		{"nonsense", bearer("nonsense"), 401, api.CodeInvalidToken, challenge, nil},
		{"three empty parts", bearer(".."), 401, api.CodeInvalidToken, challenge, nil},
		{"too long", bearer(good.access(t) + strings.Repeat("A", api.MaxToken)), 401, api.CodeInvalidToken, challenge, nil},
		{"alg none", bearer(unsigned(t, good.kid)), 401, api.CodeInvalidToken, challenge, nil},
		{"HS256 with the public key", bearer(symmetric(t, good)), 401, api.CodeInvalidToken, challenge, nil},
		{"another key under the same id", bearer(other.access(t)), 401, api.CodeInvalidToken, challenge, nil},
		{"a payload of one token, the signature of another", bearer(swapped(t, good)), 401, api.CodeInvalidToken, challenge, nil},
		{"a signature cut short", bearer(good.access(t)[:len(good.access(t))-2]), 401, api.CodeInvalidToken, challenge, nil},
		{"a refresh token", bearer(good.sign(t, api.TypeRefresh, refreshClaims())), 401, api.CodeInvalidToken, challenge, nil},
		{"access claims under the type of a refresh token", bearer(good.sign(t, api.TypeRefresh, goodClaims())), 401, api.CodeInvalidToken, challenge, nil},
		{"a JWT of no type", bearer(good.sign(t, "JWT", goodClaims())), 401, api.CodeInvalidToken, challenge, nil},
		{"another issuer", bearer(good.access(t, func(c *api.AccessClaims) { c.Issuer = "https://evil.example.com" })), 401, api.CodeInvalidToken, challenge, nil},
		{"another audience", bearer(good.access(t, func(c *api.AccessClaims) { c.Audience = api.Audience{"https://other.example.com"} })), 401, api.CodeInvalidToken, challenge, nil},
		{"no lock", bearer(good.access(t, func(c *api.AccessClaims) { c.Lock = api.Lock{} })), 401, api.CodeInvalidToken, challenge, nil},
		{"no expiry", bearer(good.access(t, func(c *api.AccessClaims) { c.ExpiresAt = 0 })), 401, api.CodeInvalidToken, challenge, nil},
		{"issued in the future", bearer(good.access(t, func(c *api.AccessClaims) { c.IssuedAt = time.Now().Add(2 * api.Skew).Unix() })), 401, api.CodeInvalidToken, challenge, nil},
		{"expired", bearer(good.access(t, func(c *api.AccessClaims) { c.ExpiresAt = time.Now().Add(-api.Skew - time.Second).Unix() })), 401, api.CodeTokenExpired, challenge, nil},
		{"of a revoked session", bearer(good.access(t, of("ended"))), 401, api.CodeSessionRevoked, challenge, nil},
		{"of another server", bearer(good.access(t, func(c *api.AccessClaims) {
			c.Lock = api.Lock{ServerID: there.ID, ServerURL: there.URL, Region: there.Region, Epoch: 1, EpochRegion: region}
			c.SessionID = "elsewhere"
		})), 421, api.CodeLockedElsewhere, "", there},
		{"of an epoch that is over", bearer(good.access(t, of("moved"), at(4, region))), 421, api.CodeLockedElsewhere, "", there},
		{"of an unknown key", bearer(stranger.access(t)), 503, api.CodeUnavailable, "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := shop.served.Load()
			for range 2 { // the second time the cache has seen it
				r := ask(t, http.MethodPost, shop.URL+"/api/checkout", strings.NewReader("{}"), test.headers...)
				if r.StatusCode != test.status || r.problem.Code != string(test.code) {
					t.Fatalf("got %d %s, want %d %s", r.StatusCode, r.body, test.status, test.code)
				}
				if diff := cmp.Diff(test.server, r.problem.Server); diff != "" {
					t.Errorf("server (-want +got):\n%s", diff)
				}
				if r.problem.Status != test.status || r.problem.Title == "" {
					t.Errorf("problem %+v", r.problem)
				}
				retryAfter := ""
				if test.status == 503 {
					retryAfter = "1"
				}
				for name, want := range map[string]string{
					"Www-Authenticate": test.challenge, "Cache-Control": "no-store", "Retry-After": retryAfter,
				} {
					if got := r.Header.Get(name); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
			}
			if shop.served.Load() != before {
				t.Error("the request was served")
			}
		})
	}
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func refreshClaims() *api.RefreshClaims {
	now := time.Now()
	return &api.RefreshClaims{
		SessionClaims: api.SessionClaims{
			Issuer: issuer, Subject: "ada", Audience: api.Audience{issuer}, ID: "r-1", ClientID: "shop",
			IssuedAt: now.Unix(), ExpiresAt: now.Add(time.Hour).Unix(), SessionID: "session-1",
		},
		Jurisdiction: "global", Epoch: 1, EpochRegion: region, Generation: 1, SessionStarted: now.Unix(),
	}
}

func unsigned(t *testing.T, kid string) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodNone, goodClaims())
	token.Header["typ"], token.Header["kid"] = api.TypeAccess, kid
	signed, err := token.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// symmetric uses the public key, which everybody knows, as if it were a shared secret.
func symmetric(t *testing.T, s *signer) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, goodClaims())
	token.Header["typ"], token.Header["kid"] = api.TypeAccess, s.kid
	signed, err := token.SignedString([]byte(s.public()))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// swapped gives another user's payload to a good token.
func swapped(t *testing.T, s *signer) string {
	t.Helper()
	parts := strings.Split(s.access(t), ".")
	payload, err := json.Marshal(goodClaims(func(c *api.AccessClaims) { c.Subject = "mallory" }))
	if err != nil {
		t.Fatal(err)
	}
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2]
}

func TestLockServes(t *testing.T) {
	conn, good := newRegion(t)
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, good.access(t)) == "" })
	token := good.access(t)
	for name, headers := range map[string][]string{
		"Authorization":          {"Authorization", "Bearer " + token},
		"a scheme in lower case": {"Authorization", "bearer " + token},
		"Berth-Lock":             {"Berth-Lock", token},
		"Berth-Lock beside the API's own credentials": {"Berth-Lock", token, "Authorization", "Basic YWRhOmFkYQ=="},
		"expired, but by less than clocks may differ": bearer(good.access(t, func(c *api.AccessClaims) { c.ExpiresAt = time.Now().Add(-api.Skew / 2).Unix() })),
		"of another region's epoch, locked here":      bearer(good.access(t, of("s-2"), at(7, "us-east-1"))),
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				r := ask(t, http.MethodGet, shop.URL+"/api/cart", nil, headers...)
				if r.StatusCode != http.StatusOK || !strings.Contains(string(r.body), `"sub":"ada"`) || !strings.Contains(string(r.body), `"tier":"gold"`) {
					t.Errorf("got %d %s", r.StatusCode, r.body)
				}
			}
		})
	}
	if _, ok := server.ClaimsFrom(t.Context()); ok {
		t.Error("claims in a context that never passed the lock")
	}
}

// TestSwappedPayloadIsNoHit presents the forgery right after the token that it was made of,
// so that the cache holds all but its payload.
func TestSwappedPayloadIsNoHit(t *testing.T) {
	conn, good := newRegion(t)
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	token := good.access(t)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, token) == "" })
	parts := strings.Split(token, ".")
	payload, err := json.Marshal(goodClaims(of("session-of-another")))
	if err != nil {
		t.Fatal(err)
	}
	forged := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2]
	for range 3 {
		if got := shop.code(t, token); got != "" {
			t.Errorf("the token: %s", got)
		}
		if got := shop.code(t, forged); got != api.CodeInvalidToken {
			t.Errorf("the forgery: %q", got)
		}
	}
}

func TestReleaseIsHeardWithinMilliseconds(t *testing.T) {
	conn, good := newRegion(t)
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	old := good.access(t)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, old) == "" })
	began := time.Now()
	tell(t, conn, release("session-1", 2))
	jetstreamtest.Eventually(t, time.Second, "the old token is refused", func() bool { return shop.code(t, old) == api.CodeLockedElsewhere })
	t.Logf("refused %v after the release was published", time.Since(began))
	if got := shop.code(t, good.access(t, at(3, region))); got != "" {
		t.Errorf("back here at a higher epoch: %s", got)
	}
	if got := shop.code(t, old); got != api.CodeLockedElsewhere {
		t.Errorf("the old token after the return: %q", got)
	}
}

// TestHigherEpochRaisesTheFloor: no event says so, only the token of the later epoch.
func TestHigherEpochRaisesTheFloor(t *testing.T) {
	conn, good := newRegion(t)
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	first := good.access(t)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, first) == "" })
	for _, step := range []struct {
		name  string
		token string
		want  api.Code
	}{
		{"the next epoch", good.access(t, at(2, region)), ""},
		{"the first again", first, api.CodeLockedElsewhere},
		{"one of another server, later still", good.access(t, at(4, region), func(c *api.AccessClaims) { c.ServerID = region + "-b" }), api.CodeLockedElsewhere},
		{"between", good.access(t, at(3, region)), api.CodeLockedElsewhere},
		{"the last", good.access(t, at(5, region)), ""},
	} {
		if got := shop.code(t, step.token); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

// TestNothingIsAcceptedBeforeTheRecentPastIsRead starts a server that was away while a
// session was released and another revoked.
func TestNothingIsAcceptedBeforeTheRecentPastIsRead(t *testing.T) {
	conn, good := newRegion(t)
	tell(t, conn, release("moved", 2))
	tell(t, conn, revocation(region, "ended"))
	for range 1200 { // more than one batch
		if err := conn.NATS().Publish(events.Subject{Kind: events.KindRevoked, Region: region}.String(), mustEncode(t, revocation(region, "others"))); err != nil {
			t.Fatal(err)
		}
	}
	c := config(t, conn)
	gate := &gated{Recent: c.Recent, open: make(chan struct{})}
	c.Recent = gate
	a, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	shop := serve(t, a)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })

	for range 3 {
		r := shop.get(t, good.access(t))
		if r.StatusCode != 503 || r.problem.Code != string(api.CodeUnavailable) || r.Header.Get("Retry-After") != "1" {
			t.Fatalf("before the past is read: %d %s", r.StatusCode, r.body)
		}
	}
	close(gate.open)
	jetstreamtest.Eventually(t, 5*time.Second, "requests are served", func() bool { return shop.code(t, good.access(t)) == "" })
	if got := shop.code(t, good.access(t, of("moved"))); got != api.CodeLockedElsewhere {
		t.Errorf("released before the start: %q", got)
	}
	if got := shop.code(t, good.access(t, of("ended"))); got != api.CodeSessionRevoked {
		t.Errorf("revoked before the start: %q", got)
	}
}

func TestReconnectReadsWhatWasMissed(t *testing.T) {
	url := jetstreamtest.Shared(t)
	direct := jetstreamtest.Provisioned(t, url)
	good := newSigner(t, region+".key-1")
	putKey(t, direct, good)
	proxy := jetstreamtest.NewProxy(t, direct.NATS().ConnectedAddr())
	conn := jetstreamtest.Dial(t, through(proxy, url))
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	token := good.access(t)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, token) == "" })

	proxy.Cut()
	jetstreamtest.Eventually(t, 5*time.Second, "the connection is away", func() bool { return !conn.NATS().IsConnected() })
	tell(t, direct, release("session-1", 2))
	began := time.Now()
	for range 20 { // served from memory, old and new tokens
		if got := shop.code(t, token); got != "" {
			t.Fatalf("without NATS: %s", got)
		}
		if got := shop.code(t, good.access(t, of("another"))); got != "" {
			t.Fatalf("a token not seen before, without NATS: %s", got)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("40 requests took %v without NATS", took)
	}
	if err := a.Ready(); err != nil {
		t.Errorf("not ready without NATS: %v", err)
	}
	proxy.Heal()
	jetstreamtest.Eventually(t, 5*time.Second, "the release was read after the reconnect", func() bool {
		return shop.code(t, token) == api.CodeLockedElsewhere
	})
	if got := shop.code(t, good.access(t, of("another"))); got != "" {
		t.Errorf("after the reconnect: %s", got)
	}
}

func TestRemovedKeyDropsWhatItSigned(t *testing.T) {
	conn, first := newRegion(t)
	second := newSigner(t, region+".key-2")
	putKey(t, conn, second)
	// The token service still tells of both: a key that was taken away is not trusted again.
	both, err := api.NewKeySet(map[string]ed25519.PublicKey{first.kid: first.public(), second.kid: second.public()}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	answerRPC(t, conn, "global", api.MethodJWKS, always(httpAnswer(200, string(both))))
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	one, two := first.access(t), second.access(t)
	jetstreamtest.Eventually(t, 5*time.Second, "both keys have come", func() bool { return shop.code(t, one) == "" && shop.code(t, two) == "" })
	if err := keys(t, conn).Delete(t.Context(), first.kid); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the cached token of the removed key is refused", func() bool {
		return shop.code(t, one) == api.CodeUnavailable
	})
	if got := shop.code(t, two); got != "" {
		t.Errorf("the other key's token: %s", got)
	}
	// Another key under the same id is another key.
	replaced := newSigner(t, second.kid)
	putKey(t, conn, replaced)
	jetstreamtest.Eventually(t, 5*time.Second, "the replaced key's token is refused", func() bool {
		return shop.code(t, two) == api.CodeInvalidToken
	})
	if got := shop.code(t, replaced.access(t)); got != "" {
		t.Errorf("the new key's token: %s", got)
	}
}

// TestRetiredKeyIsRefusedForGood: a key that the bucket names without its public half was retired;
// what it signed is refused, cached or not, and no 503 has the client try again. A server that
// starts later knows it too, whatever the token service says.
func TestRetiredKeyIsRefusedForGood(t *testing.T) {
	conn, first := newRegion(t)
	answerRPC(t, conn, "global", api.MethodJWKS, always(httpAnswer(200, string(first.document(t)))))
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	one, other := first.access(t), first.access(t, of("another"))
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, one) == "" })
	ended, err := api.NewKeySetOf(nil, map[string]api.KeyLife{first.kid: {Revoked: time.Now()}}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys(t, conn).Put(t.Context(), first.kid, ended); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the cached token of the retired key is refused", func() bool {
		return shop.code(t, one) == api.CodeInvalidToken
	})
	if got := shop.code(t, other); got != api.CodeInvalidToken {
		t.Errorf("a token that was not seen before: %q", got)
	}
	late, _ := start(t, config(t, conn))
	laterShop := serve(t, late)
	jetstreamtest.Eventually(t, 5*time.Second, "a server that starts later refuses it", func() bool {
		return laterShop.code(t, one) == api.CodeInvalidToken
	})
	// What was taken back by mistake, and stands there again, is good again.
	putKey(t, conn, first)
	jetstreamtest.Eventually(t, 5*time.Second, "the key is there again", func() bool { return shop.code(t, one) == "" })
}

// TestKeyUnderAnotherIdIsSkipped: whoever may write one key may not bring another.
func TestKeyUnderAnotherIdIsSkipped(t *testing.T) {
	conn, good := newRegion(t)
	evil := newSigner(t, region+".key-2")
	for key, value := range map[string][]byte{
		"us-east-1.key-1": evil.document(t), region + ".key-3": []byte("nonsense"), region + ".key-4": []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"` + region + `.key-4"}]}`),
	} {
		if _, err := keys(t, conn).Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, good.access(t)) == "" })
	if got := shop.code(t, evil.access(t)); got != api.CodeUnavailable {
		t.Errorf("a key under the id of another: %q", got)
	}
}

func TestUnknownKeyIsAskedForOnce(t *testing.T) {
	conn, good := newRegion(t)
	late := newSigner(t, "us-east-1.key-1")
	document := late.document(t)
	service := answerRPC(t, conn, "global", api.MethodJWKS, always(httpAnswer(200, string(document))))
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	if got := shop.code(t, late.access(t)); got != "" {
		t.Errorf("a key that only the token service knows: %s", got)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the bucket's key has come", func() bool { return shop.code(t, good.access(t)) == "" })
	// Made-up keys cost the token service next to nothing.
	stranger := newSigner(t, "us-east-1.key-9")
	asked, began := len(service.requests), time.Now()
	for range 200 {
		if got := shop.code(t, stranger.access(t)); got != api.CodeUnavailable {
			t.Fatalf("a key that nobody knows: %q", got)
		}
	}
	if more, most := len(service.requests)-asked, 1+int(time.Since(began)/time.Second); more > most {
		t.Errorf("asked %d times in %v, at most %d", more, time.Since(began), most)
	}
}
