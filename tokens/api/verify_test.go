package api_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/tokens/api"
)

const (
	kid      = "eu-west-1.1"
	issuer   = "https://berth.example.com"
	audience = "api"
)

// now lies between iat and exp of the examples.
var now = time.Unix(1795257060, 0)

// key returns the private key of a one-byte seed.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func verifier() *api.Verifier {
	keys := api.NewKeySet(map[string]ed25519.PublicKey{kid: public(key(1)), "us-east-1.1": public(key(2))})
	return &api.Verifier{Key: keys.Key, Issuer: issuer, Audience: audience}
}

type object = map[string]any

func segment(t testing.TB, v any) string {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// mint makes one by hand, so that no library stands between the test and the bytes.
func mint(t testing.TB, header object, claims any, k ed25519.PrivateKey) string {
	t.Helper()
	text := segment(t, header) + "." + segment(t, claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text)))
}

func header(typ string) object { return object{"alg": "EdDSA", "typ": typ, "kid": kid} }

func access(t testing.TB) string { return mint(t, header(api.TypeAccess), accessClaims(), key(1)) }

func refresh(t testing.TB) string { return mint(t, header(api.TypeRefresh), refreshClaims(), key(1)) }

func TestVerify(t *testing.T) {
	v := verifier()
	a, err := v.Access(access(t), now)
	if diff := cmp.Diff(accessClaims(), a); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	r, err := v.Refresh(refresh(t), now)
	if diff := cmp.Diff(refreshClaims(), r); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got := a.Expiry(); !got.Equal(time.Unix(a.ExpiresAt, 0)) {
		t.Errorf("expires %v", got)
	}
	if got := r.Expiry(); !got.Equal(time.Unix(r.ExpiresAt, 0)) {
		t.Errorf("expires %v", got)
	}
	exp := a.Expiry()
	if _, err := v.Access(access(t), exp.Add(api.Skew-time.Second)); err != nil {
		t.Errorf("within the skew: %v", err)
	}
	if _, err := v.Access(access(t), time.Unix(a.IssuedAt, 0).Add(-api.Skew)); err != nil {
		t.Errorf("issued by a clock ahead: %v", err)
	}
}

// claimsWith returns the example's access claims with one changed; nil removes it.
func claimsWith(t testing.TB, claims any, name string, value any) object {
	t.Helper()
	data, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	var all object
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if all[name] = value; value == nil {
		delete(all, name)
	}
	return all
}

// TestBadTokens tries one forgery or fault each against Access; those of a refresh token
// follow the same path.
func TestBadTokens(t *testing.T) {
	with := func(name string, value any) string {
		return mint(t, header(api.TypeAccess), claimsWith(t, accessClaims(), name, value), key(1))
	}
	good := access(t)
	parts := strings.Split(good, ".")
	other := strings.Split(with("sub", "mallory"), ".")
	exp := accessClaims().Expiry()
	tests := []struct {
		name  string
		token string
		now   time.Time
		want  api.Code // empty: ErrUnknownKey
	}{
		{"alg none", mint(t, object{"alg": "none", "typ": api.TypeAccess, "kid": kid}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"alg none, unsigned", segment(t, object{"alg": "none", "typ": api.TypeAccess, "kid": kid}) + "." + parts[1] + ".", now, api.CodeInvalidToken},
		{"HS256 with the public key", hs256(t, object{"alg": "HS256", "typ": api.TypeAccess, "kid": kid}, public(key(1))), now, api.CodeInvalidToken},
		{"HS256 said EdDSA", hs256(t, header(api.TypeAccess), public(key(1))), now, api.CodeInvalidToken},
		{"no alg", mint(t, object{"typ": api.TypeAccess, "kid": kid}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"alg in small letters", mint(t, object{"alg": "eddsa", "typ": api.TypeAccess, "kid": kid}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"other key, same kid", mint(t, header(api.TypeAccess), accessClaims(), key(3)), now, api.CodeInvalidToken},
		{"another region's key", mint(t, header(api.TypeAccess), accessClaims(), key(2)), now, api.CodeInvalidToken},
		{"unknown kid", mint(t, object{"alg": "EdDSA", "typ": api.TypeAccess, "kid": "eu-west-1.2"}, accessClaims(), key(1)), now, ""},
		{"no kid", mint(t, object{"alg": "EdDSA", "typ": api.TypeAccess}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"kid is a number", mint(t, object{"alg": "EdDSA", "typ": api.TypeAccess, "kid": 1}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"key in the header", mint(t, object{"alg": "EdDSA", "typ": api.TypeAccess, "kid": kid, "jwk": object{
			"kty": "OKP", "crv": "Ed25519", "x": segment(t, []byte(public(key(3)))),
		}}, accessClaims(), key(3)), now, api.CodeInvalidToken},
		{"refresh token as access token", refresh(t), now, api.CodeInvalidToken},
		{"typ JWT", mint(t, header("JWT"), accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"no typ", mint(t, object{"alg": "EdDSA", "kid": kid}, accessClaims(), key(1)), now, api.CodeInvalidToken},
		{"another issuer", with("iss", "https://berth.example.org"), now, api.CodeInvalidToken},
		{"no issuer", with("iss", nil), now, api.CodeInvalidToken},
		{"another audience", with("aud", "billing"), now, api.CodeInvalidToken},
		{"no audience", with("aud", nil), now, api.CodeInvalidToken},
		{"empty audience", with("aud", []string{}), now, api.CodeInvalidToken},
		{"expired beyond the skew", good, exp.Add(api.Skew), api.CodeTokenExpired},
		{"issued beyond the skew", good, time.Unix(accessClaims().IssuedAt, 0).Add(-api.Skew - time.Second), api.CodeInvalidToken},
		{"no exp", with("exp", nil), now, api.CodeInvalidToken},
		{"exp 0", with("exp", 0), now, api.CodeInvalidToken},
		{"exp is a string", with("exp", "1795257120"), now, api.CodeInvalidToken},
		{"no session", with("sid", nil), now, api.CodeInvalidToken},
		{"no server", with("server_id", ""), now, api.CodeInvalidToken},
		{"no epoch", with("lock_epoch", nil), now, api.CodeInvalidToken},
		{"no epoch's region", with("lock_region", ""), now, api.CodeInvalidToken},
		{"payload swapped", parts[0] + "." + other[1] + "." + parts[2], now, api.CodeInvalidToken},
		{"signature swapped", parts[0] + "." + parts[1] + "." + other[2], now, api.CodeInvalidToken},
		{"header swapped", segment(t, object{"alg": "EdDSA", "typ": api.TypeAccess, "kid": kid, "x": 1}) + "." + parts[1] + "." + parts[2], now, api.CodeInvalidToken},
		{"no signature", parts[0] + "." + parts[1] + ".", now, api.CodeInvalidToken},
		{"two parts", parts[0] + "." + parts[1], now, api.CodeInvalidToken},
		{"four parts", good + ".x", now, api.CodeInvalidToken},
		{"truncated", good[:len(good)-4], now, api.CodeInvalidToken},
		{"payload null", mint(t, header(api.TypeAccess), []byte("null"), key(1)), now, api.CodeInvalidToken},
		{"payload is a list", mint(t, header(api.TypeAccess), []byte("[]"), key(1)), now, api.CodeInvalidToken},
		{"payload is no JSON", mint(t, header(api.TypeAccess), []byte("{"), key(1)), now, api.CodeInvalidToken},
		{"padding", good + "=", now, api.CodeInvalidToken},
		{"a space before", " " + good, now, api.CodeInvalidToken},
		{"empty", "", now, api.CodeInvalidToken},
		{"oversized", with("tenant", strings.Repeat("x", api.MaxToken)), now, api.CodeInvalidToken},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			claims, err := verifier().Access(test.token, test.now)
			if claims != nil {
				t.Errorf("accepted: %+v", claims)
			}
			checkFault(t, err, test.want)
		})
	}
}

// checkFault fails unless err has the code, or is ErrUnknownKey if there is none.
func checkFault(t *testing.T, err error, want api.Code) {
	t.Helper()
	var e *api.Error
	switch {
	case want == "":
		if !errors.Is(err, api.ErrUnknownKey) {
			t.Errorf("fault %v, want %v", err, api.ErrUnknownKey)
		}
	case !errors.As(err, &e) || e.Code != want || errors.Is(err, api.ErrUnknownKey):
		t.Errorf("fault %v, want %s", err, want)
	}
}

// hs256 signs with a public key as the shared secret.
func hs256(t testing.TB, header object, secret []byte) string {
	t.Helper()
	text := segment(t, header) + "." + segment(t, accessClaims())
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func TestBadRefreshTokens(t *testing.T) {
	with := func(name string, value any) string {
		return mint(t, header(api.TypeRefresh), claimsWith(t, refreshClaims(), name, value), key(1))
	}
	tests := []struct {
		name  string
		token string
		now   time.Time
		want  api.Code
	}{
		{"access token as refresh token", access(t), now, api.CodeInvalidToken},
		{"no session", with("sid", nil), now, api.CodeInvalidToken},
		{"no jurisdiction", with("jurisdiction", nil), now, api.CodeInvalidToken},
		{"no epoch", with("lock_epoch", 0), now, api.CodeInvalidToken},
		{"no epoch's region", with("lock_region", nil), now, api.CodeInvalidToken},
		{"no generation", with("gen", nil), now, api.CodeInvalidToken},
		{"negative generation", with("gen", -1), now, api.CodeInvalidToken},
		{"wrong audience", with("aud", []string{"billing", "berth"}), now, api.CodeInvalidToken},
		{"expired beyond the skew", refresh(t), refreshClaims().Expiry().Add(api.Skew), api.CodeTokenExpired},
		{"unknown kid", mint(t, object{"alg": "EdDSA", "typ": api.TypeRefresh, "kid": "?"}, refreshClaims(), key(1)), now, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			claims, err := verifier().Refresh(test.token, test.now)
			if claims != nil {
				t.Errorf("accepted: %+v", claims)
			}
			checkFault(t, err, test.want)
		})
	}
}

// TestZeroVerifier: a verifier without issuer or audience accepts nothing, not everything.
func TestZeroVerifier(t *testing.T) {
	for name, v := range map[string]*api.Verifier{
		"no issuer":   {Key: verifier().Key, Audience: audience},
		"no audience": {Key: verifier().Key, Issuer: issuer},
		"neither":     {Key: verifier().Key},
	} {
		for _, aud := range []any{"api", "", nil, []string{"", ""}} {
			for _, iss := range []any{issuer, "", nil} {
				claims := claimsWith(t, accessClaims(), "aud", aud)
				claims = claimsWith(t, claims, "iss", iss)
				_, err := v.Access(mint(t, header(api.TypeAccess), claims, key(1)), now)
				if err == nil {
					t.Errorf("%s: accepted aud %v, iss %v", name, aud, iss)
				}
			}
		}
	}
}

// FuzzVerify: whatever is presented, no panic; and what is accepted is what was signed.
func FuzzVerify(f *testing.F) {
	genuine := map[string]bool{}
	for _, s := range []string{access(f), refresh(f)} {
		genuine[s[:strings.LastIndex(s, ".")]] = true
		f.Add(s)
		f.Add(s[:len(s)-1])
	}
	f.Add(hs256(f, header(api.TypeAccess), public(key(1))))
	f.Add(mint(f, object{"alg": "none", "typ": api.TypeAccess}, []byte("null"), key(1)))
	f.Add("..")
	v := verifier()
	f.Fuzz(func(t *testing.T, s string) {
		_, errAccess := v.Access(s, now)
		_, errRefresh := v.Refresh(s, now)
		for _, err := range []error{errAccess, errRefresh} {
			var e *api.Error
			if err != nil && !errors.Is(err, api.ErrUnknownKey) && !errors.As(err, &e) {
				t.Fatalf("%v is neither fault", err)
			}
		}
		if errAccess == nil && errRefresh == nil {
			t.Fatal("one token is both")
		}
		if (errAccess == nil || errRefresh == nil) && !genuine[s[:strings.LastIndex(s, ".")]] {
			t.Fatalf("forged: %s", s)
		}
	})
}

// TestRetiredKey: what a retired key signed is refused for good, where an unknown key's may be good
// yet; but a token that is over by its own word is over, whatever becomes known of its key.
func TestRetiredKey(t *testing.T) {
	v := &api.Verifier{
		Key:     func(string) (ed25519.PublicKey, bool) { return nil, false },
		Retired: func(id string) bool { return id == kid }, Issuer: issuer, Audience: audience,
	}
	other := func(typ string, claims any) string {
		return mint(t, object{"alg": "EdDSA", "typ": typ, "kid": "eu-west-1.other"}, claims, key(1))
	}
	exp := refreshClaims().Expiry()
	for _, test := range []struct {
		name  string
		token string
		now   time.Time
		want  api.Code // empty: ErrUnknownKey
	}{
		{"retired", refresh(t), now, api.CodeInvalidToken},
		{"unknown", other(api.TypeRefresh, refreshClaims()), now, ""},
		{"unknown, at the end of the skew", other(api.TypeRefresh, refreshClaims()), exp.Add(api.Skew - time.Second), ""},
		{"unknown and expired", other(api.TypeRefresh, refreshClaims()), exp.Add(api.Skew), api.CodeTokenExpired},
	} {
		_, err := v.Refresh(test.token, test.now)
		var refusal *api.Error
		switch {
		case test.want == "" && !errors.Is(err, api.ErrUnknownKey):
			t.Errorf("%s: %v, want ErrUnknownKey", test.name, err)
		case test.want != "" && (!errors.As(err, &refusal) || refusal.Code != test.want):
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}
