package tokens_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// run runs a service until the test ends, or until stop.
func run(t *testing.T, s *tokens.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	jetstreamtest.Eventually(t, 10*time.Second, "the service to be ready", func() bool { return s.Ready() == nil })
	return stop
}

// about calls a method about keys.
func about(t *testing.T, s *tokens.Service, method string, request any) (reply tokens.KeysReply, err error) {
	t.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.KeyMethods()[method].Answer(t.Context(), data)
	if err == nil {
		err = json.Unmarshal(answer, &reply)
	}
	return reply, err
}

// put writes a document to the bucket, over what is there.
func (f *fleet) put(kid string, document []byte) {
	f.t.Helper()
	_, revision, err := f.conn.Keys().Get(f.t.Context(), kid)
	if err == nil {
		err = f.conn.Keys().Put(f.t.Context(), kid, document, revision)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// document returns what stands in the bucket.
func (f *fleet) document(kid string) *api.KeySet {
	f.t.Helper()
	data, _, err := f.conn.Keys().Get(f.t.Context(), kid)
	if err != nil {
		f.t.Fatal(err)
	}
	set, err := api.ParseKeySet(data)
	if err != nil {
		return api.NewKeySet(nil)
	}
	return set
}

func mustMarshal(t *testing.T, set *api.KeySet) []byte {
	t.Helper()
	data, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestGarbageInKeyBucket writes what does not belong into berth_keys, before a service starts and
// while it runs: it signs and serves by its own key, and mends its own document.
func TestGarbageInKeyBucket(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	kid, evil := f.keys.Signing(), newKey(t)
	evilPublic := evil.Public().(ed25519.PublicKey)
	soon := time.Now().Add(-time.Second)
	garbage := map[string][]byte{
		kid:                 []byte("nonsense"),
		"nothing":           []byte(`{"keys":[{"kty":"OKP"}],"berth":7}`),
		"us-east-1.garbage": []byte("\x00\xff"),
		// A key under an id that is another's, and under its own id in another's document.
		"eu-west-1.AAAAAAAAAAAA": mustMarshal(t, api.NewKeySet(map[string]ed25519.PublicKey{"eu-west-1.AAAAAAAAAAAA": evilPublic})),
		"us-east-1.BBBBBBBBBBBB": mustMarshal(t, api.NewKeySet(map[string]ed25519.PublicKey{tokens.KeyID(dublin, evilPublic): evilPublic})),
		// A key that nobody has is said to sign.
		"eu-west-1.CCCCCCCCCCCC": mustMarshal(t, api.NewKeySetOf(nil, map[string]api.KeyLife{"eu-west-1.CCCCCCCCCCCC": {Published: soon, Wanted: soon, Signs: soon}})),
		"eu-west-1.DDDDDDDDDDDD": []byte(`{"keys":[],"berth":{"eu-west-1.DDDDDDDDDDDD":{"signs_at":"yesterday"}}}`),
	}
	for id, document := range garbage {
		f.put(id, document)
	}
	s := f.service()
	run(t, s)
	check := func() {
		t.Helper()
		jetstreamtest.Eventually(t, 10*time.Second, "the own document to be mended", func() bool {
			set := f.document(kid)
			life, _ := set.Life(kid)
			_, has := set.Key(kid)
			return has && !life.Signs.IsZero()
		})
		reply, err := about(t, s, tokens.MethodKeysList, nil)
		if err != nil || reply.Signing != kid || len(reply.Keys) != 1 {
			t.Errorf("%v: %+v", err, reply)
		}
		if first := login(t, s); !strings.Contains(first.AccessToken, ".") {
			t.Errorf("login: %+v", first)
		}
	}
	check()
	for id, document := range garbage {
		f.put(id, document)
	}
	check()
}

// refreshClaims are those of a session that the region could have started.
func refreshClaims(now time.Time) jwt.MapClaims {
	return jwt.MapClaims{
		"iss": issuer, "aud": issuer, "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "sub": "ada", "jti": "s1.1.1.r",
		"client_id": "berth", "sid": "s1", "jurisdiction": "global", "lock_epoch": 1, "lock_region": dublin, "gen": 1, "session_started": now.Unix(),
	}
}

func signed(t *testing.T, key ed25519.PrivateKey, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"], token.Header["kid"] = api.TypeRefresh, kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestForgedKeys has another region pass off its key as this one's or a third's: nothing that it
// signed under such a name is honoured, nor a good token signed anew.
func TestForgedKeys(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	there, _ := healthy(t, "ap-southeast-1-a", "ap-southeast-1")
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a, there)
	evil := newKey(t)
	public := evil.Public().(ed25519.PublicKey)
	own, wrong, third := tokens.KeyID(dublin, public), "ap-southeast-1.AAAAAAAAAAAA", tokens.KeyID("us-east-1", public)
	theirs := tokens.KeyID("ap-southeast-1", public)
	answer := api.NewKeySetOf(map[string]ed25519.PublicKey{own: public, wrong: public, third: public, theirs: public}, map[string]api.KeyLife{
		f.keys.Signing(): {Revoked: time.Now()}, own: {Signs: time.Now()}, theirs: {Signs: time.Now()},
	})
	s := f.service(func(c *tokens.Config) { c.Caller = slowKeys{mustMarshal(t, answer), make(chan struct{}, 1)} })
	run(t, s)
	good := login(t, s)
	refresh := func(token string) (int, string) {
		status, body, _ := post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token})
		return status, string(body)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the region's true key to be known", func() bool {
		reply, err := about(t, s, tokens.MethodKeysList, nil)
		return err == nil && len(reply.Keys) == 2
	})
	claims := refreshClaims(time.Now())
	for name, kid := range map[string]string{"the own region's": own, "a wrong hash": wrong, "a third region's": third} {
		if status, body := refresh(signed(t, evil, kid, claims)); status != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d: %s", name, status, body)
		}
	}
	resigned := strings.Split(good.RefreshToken, ".")
	forged := strings.Split(signed(t, evil, f.keys.Signing(), claims), ".")
	for name, token := range map[string]string{
		"another key under the signing key's name": strings.Join(forged, "."),
		"its claims under the good signature":      forged[0] + "." + forged[1] + "." + resigned[2],
		"the good claims signed anew":              resigned[0] + "." + resigned[1] + "." + forged[2],
	} {
		if status, body := refresh(token); status != http.StatusUnauthorized {
			t.Errorf("%s: status %d: %s", name, status, body)
		}
	}
	// What the other region says of this one's keys is not heard.
	if status, body := refresh(good.RefreshToken); status != http.StatusOK {
		t.Errorf("the good token: status %d: %s", status, body)
	}
}

// TestRetiredKeyOfAnotherRegion: a region's word that its key is revoked is heard, outlasts a
// restart, and is not taken back by who says otherwise later.
func TestRetiredKeyOfAnotherRegion(t *testing.T) {
	t.Parallel() // it mostly waits
	a, _ := healthy(t, "eu-west-1-a", dublin)
	there, _ := healthy(t, "ap-southeast-1-a", "ap-southeast-1")
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a, there)
	key := newKey(t)
	public := key.Public().(ed25519.PublicKey)
	kid := tokens.KeyID("ap-southeast-1", public)
	live := mustMarshal(t, api.NewKeySetOf(map[string]ed25519.PublicKey{kid: public}, map[string]api.KeyLife{kid: {Signs: time.Now()}}))
	ended := mustMarshal(t, api.NewKeySetOf(nil, map[string]api.KeyLife{kid: {Signs: time.Now(), Revoked: time.Now()}}))
	claims := refreshClaims(time.Now())
	token := signed(t, key, kid, claims)
	says := func(document []byte) func(*tokens.Config) {
		return func(c *tokens.Config) { c.Caller = slowKeys{document, make(chan struct{}, 1)} }
	}
	status := func(s *tokens.Service) int {
		code, body, _ := post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token})
		if code == http.StatusUnauthorized && !strings.Contains(string(body), "retired; log in again") {
			t.Errorf("refused with %s", body)
		}
		return code
	}
	first := f.service(says(live))
	stop := run(t, first)
	jetstreamtest.Eventually(t, 10*time.Second, "the key to be good", func() bool { return status(first) != http.StatusServiceUnavailable })
	if got := status(first); got == http.StatusUnauthorized {
		t.Errorf("status %d while the key is good", got)
	}
	stop()
	second := f.service(says(ended))
	stop = run(t, second)
	jetstreamtest.Eventually(t, 10*time.Second, "the key to be refused", func() bool { return status(second) == http.StatusUnauthorized })
	jetstreamtest.Eventually(t, 10*time.Second, "the bucket to say so", func() bool { return f.document(kid).Retired(kid) })
	stop()
	third := f.service(says(live))
	run(t, third)
	for range 3 {
		if got := status(third); got != http.StatusUnauthorized {
			t.Errorf("said to be good again: status %d", got)
		}
	}
}

// TestOperatorsMistakes asks for what cannot be.
func TestOperatorsMistakes(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	if _, err := about(t, s, tokens.MethodKeysRotate, nil); err == nil || !strings.Contains(err.Error(), "not known here yet") {
		t.Errorf("before the bucket is read: %v", err)
	}
	run(t, s)
	kid := f.keys.Signing()
	for _, bad := range []struct {
		method  string
		request any
		want    string
	}{
		{tokens.MethodKeysRotate, nil, "cannot make keys"}, // a Keyring cannot
		{tokens.MethodKeysRotate, tokens.RotateRequest{To: "eu-west-1.none"}, "does not hold a key eu-west-1.none"},
		{tokens.MethodKeysRotate, tokens.RotateRequest{To: kid}, "only a key that never signed"},
		{tokens.MethodKeysRotate, "text", "cannot be read"},
		{tokens.MethodKeysRotate, strings.Repeat("x", 100_000), "a request may have"},
		{tokens.MethodKeysRetire, tokens.RetireRequest{KID: "us-east-1.x"}, "not of region eu-west-1"},
		{tokens.MethodKeysRetire, tokens.RetireRequest{KID: "eu-west-1.x"}, `has no key "eu-west-1.x"`},
		{tokens.MethodKeysRetire, tokens.RetireRequest{}, "cannot make keys"}, // nothing could follow
		{tokens.MethodKeysKnown, map[string]string{"region": "mars"}, "not in the view"},
		{tokens.MethodKeysKnown, map[string]string{"region": dublin}, "not in the view"},
	} {
		_, err := about(t, s, bad.method, bad.request)
		if err == nil {
			t.Errorf("%s %v: no error", bad.method, bad.request)
			continue
		}
		if status, detail := tokens.KeyRefusal(err); !strings.Contains(detail, bad.want) || status < 400 || strings.Contains(detail, "\n") {
			t.Errorf("%s %.60v: status %d, %q, want %q", bad.method, bad.request, status, detail, bad.want)
		}
	}
	if reply, err := about(t, s, tokens.MethodKeysList, nil); err != nil || reply.Signing != kid {
		t.Errorf("afterwards %q signs: %v", reply.Signing, err)
	}
}

// TestRotationsOneAfterAnother rotates a single region's key several times, by what the region
// serves at each change, with a service that is started over in between.
func TestRotationsOneAfterAnother(t *testing.T) {
	t.Parallel() // it mostly waits
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	file, _ := keyFile(t)
	s := f.service(func(c *tokens.Config) { c.Keys = file })
	stop := run(t, s)
	token := login(t, s).RefreshToken
	seen := []string{file.Signing()}
	for i := range 3 {
		reply, err := about(t, s, tokens.MethodKeysRotate, tokens.RotateRequest{By: "a test"})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 { // right after the wish was noted
			stop()
			s = f.service(func(c *tokens.Config) { c.Keys = file })
			run(t, s)
		}
		jetstreamtest.Eventually(t, 10*time.Second, reply.KID+" signs", func() bool {
			now, err := about(t, s, tokens.MethodKeysList, nil)
			return err == nil && now.Signing == reply.KID
		})
		seen = append(seen, reply.KID)
		token = granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token}).RefreshToken
	}
	reply, err := about(t, s, tokens.MethodKeysList, nil)
	if err != nil || len(reply.Keys) != len(seen) {
		t.Fatalf("%v: %+v", err, reply)
	}
	for i, k := range reply.Keys { // the newest first
		if want := seen[len(seen)-1-i]; k.KID != want {
			t.Errorf("key %d is %s, want %s", i, k.KID, want)
		}
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/.well-known/jwks.json", nil))
	for _, kid := range seen {
		if !strings.Contains(w.Body.String(), fmt.Sprintf("%q", kid)) {
			t.Errorf("the key set lacks %s: %s", kid, w.Body)
		}
	}
}

// kms is a Signer whose keys are elsewhere, and which may not answer.
type kms struct {
	ring atomic.Pointer[tokens.Keyring]
	down atomic.Bool
}

func (k *kms) Public() map[string]ed25519.PublicKey { return k.ring.Load().Public() }
func (k *kms) Signing() string                      { return k.ring.Load().Signing() }
func (k *kms) Sign(kid string, data []byte) ([]byte, error) {
	if k.down.Load() {
		return nil, errors.New("the KMS does not answer")
	}
	return k.ring.Load().Sign(kid, data)
}

// TestKMS keeps the private keys behind an interface of two methods: a key that is added there is
// rotated to by its id, and while it does not answer nothing is lost.
func TestKMS(t *testing.T) {
	t.Parallel() // it mostly waits
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	first, second := newKey(t), newKey(t)
	vault := &kms{}
	vault.ring.Store(keyring(t, first))
	reg := prometheus.NewRegistry()
	s := f.service(func(c *tokens.Config) { c.Keys, c.Metrics = vault, reg })
	run(t, s)
	start := login(t, s)
	vault.ring.Store(keyring(t, second, first)) // the order is of no account
	next := vault.Signing()
	jetstreamtest.Eventually(t, 10*time.Second, "the added key to be published", func() bool {
		reply, err := about(t, s, tokens.MethodKeysList, nil)
		return err == nil && len(reply.Keys) == 2 && reply.Signing != next
	})
	if _, err := about(t, s, tokens.MethodKeysRotate, tokens.RotateRequest{To: next}); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the added key to sign", func() bool {
		reply, err := about(t, s, tokens.MethodKeysList, nil)
		return err == nil && reply.Signing == next
	})
	vault.down.Store(true)
	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: start.RefreshToken}, api.CodeUnavailable)
	vault.down.Store(false)
	after := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: start.RefreshToken})
	if !strings.HasPrefix(after.RefreshToken, strings.Split(signed(t, second, next, refreshClaims(time.Now())), ".")[0]) {
		t.Errorf("the refresh token is not signed by %s: %s", next, after.RefreshToken)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if m := family.GetMetric(); len(m) == 1 && m[0].GetGauge() != nil {
			got[family.GetName()] = m[0].GetGauge().GetValue()
		}
	}
	if age, ok := got["berth_signing_key_age_seconds"]; !ok || age < 0 || age > 60 {
		t.Errorf("the signing key is %g s old by its metric", age)
	}
	if waiting, ok := got["berth_key_rotation_waiting_seconds"]; !ok || waiting != 0 || got["berth_key_rotation_missing"] != 0 {
		t.Errorf("a rotation waits by the metrics: %v", got)
	}
}
