package tokens_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

var update = flag.Bool("update", false, "write tokens/api/openapi.yaml")

// TestOpenAPI checks that the committed description is the one that the service registers.
func TestOpenAPI(t *testing.T) {
	const path = "api/openapi.yaml"
	got, err := tokens.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the service registers; run: go test ./tokens -run TestOpenAPI -update", path)
	}
}

// TestBadRequests sends what is no proper request: each gets a problem document with its
// code, and nothing changes.
func TestBadRequests(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	for _, c := range []struct {
		name, path, body string
		code             api.Code
		detail           string
	}{
		{"no JSON", "/v1/refresh", "{", api.CodeInvalidRequest, "body: not JSON at byte 1"},
		{"another type", "/v1/refresh", `{"refreshToken":7}`, api.CodeInvalidRequest, "body.refreshToken: want string, got number"},
		{"an array", "/v1/refresh", `[]`, api.CodeInvalidRequest, "want"},
		{"no body", "/v1/refresh", "", api.CodeInvalidRequest, "body"},
		{"no token", "/v1/refresh", `{}`, api.CodeInvalidRequest, "body.refreshToken: is required"},
		{"a long id", "/v1/refresh", `{"refreshToken":"x","closestServerId":"` + strings.Repeat("x", 65) + `"}`, api.CodeInvalidRequest, "body.closestServerId: want at most 64 bytes"},
		{"a long bookmark", "/v1/refresh", `{"refreshToken":"x","bookmark":"` + strings.Repeat("x", 1025) + `"}`, api.CodeInvalidRequest, "body.bookmark: want at most 1024 bytes"},
		{"a word", "/v1/refresh", `{"refreshToken":"x"}`, api.CodeInvalidToken, ""},
		{"too large", "/v1/refresh", `{"refreshToken":"` + strings.Repeat("x", api.MaxBody) + `"}`, api.CodeTooLarge, "65536"},
		{"no user", "/v1/login", `{"password":"x"}`, api.CodeInvalidRequest, "body.username"},
		{"no password", "/v1/login", `{"username":"ada"}`, api.CodeInvalidRequest, "body.password"},
		{"wrong password", "/v1/login", `{"username":"ada","password":"x"}`, api.CodeInvalidCredentials, ""},
		{"unknown user", "/v1/login", `{"username":"eve","password":"x"}`, api.CodeInvalidCredentials, ""},
		{"another org", "/v1/login", `{"username":"ada","password":"ada-dev","org":"acme"}`, api.CodeInvalidCredentials, ""},
		{"upstream token", "/v1/login", `{"idToken":"x"}`, api.CodeInvalidRequest, "body.idToken"},
		{"no such path", "/v2/refresh", `{}`, api.CodeInvalidRequest, "no such path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := refused(t, s, c.path, c.body, c.code)
			if !strings.Contains(p.Detail, c.detail) {
				t.Errorf("detail %q does not say %q", p.Detail, c.detail)
			}
		})
	}
	// Unknown fields are a newer client's: they are no fault.
	granted(t, s, "/v1/login", `{"username":"ada","password":"ada-dev","colour":"blue"}`)
}

// TestForgedTokens presents refresh tokens that this service never signed.
func TestForgedTokens(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	var claims jwt.MapClaims = map[string]any{}
	segment(t, first.RefreshToken, 1, &claims)
	var head map[string]any
	segment(t, first.RefreshToken, 0, &head)
	kid, _ := head["kid"].(string)
	pub := f.keys.Public()[kid]

	sign := func(method jwt.SigningMethod, key any, change func(head map[string]any, claims jwt.MapClaims)) string {
		t.Helper()
		forged := jwt.MapClaims{}
		maps.Copy(forged, claims)
		token := jwt.NewWithClaims(method, forged)
		token.Header["typ"], token.Header["kid"] = api.TypeRefresh, kid
		change(token.Header, forged)
		signed, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	same := func(map[string]any, jwt.MapClaims) {}
	parts := strings.Split(first.RefreshToken, ".")
	other := login(t, s)
	for _, c := range []struct {
		name, token string
		code        api.Code
	}{
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, same), api.CodeInvalidToken},
		{"HS256 with the public key", sign(jwt.SigningMethodHS256, []byte(pub), same), api.CodeInvalidToken},
		{"another key", sign(jwt.SigningMethodEdDSA, newKey(t), same), api.CodeInvalidToken},
		{"an unknown key", sign(jwt.SigningMethodEdDSA, newKey(t), func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "eu-west-1.unknown" }), api.CodeUnavailable},
		{"a key of a region that is not there", sign(jwt.SigningMethodEdDSA, newKey(t), func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "atlantis.key" }), api.CodeUnavailable},
		{"no key", sign(jwt.SigningMethodEdDSA, newKey(t), func(h map[string]any, _ jwt.MapClaims) { delete(h, "kid") }), api.CodeInvalidToken},
		{"the access token", first.AccessToken, api.CodeInvalidToken},
		{"cut short", first.RefreshToken[:len(first.RefreshToken)-4], api.CodeInvalidToken},
		{"without a signature", parts[0] + "." + parts[1] + ".", api.CodeInvalidToken},
		{"the claims of another", parts[0] + "." + strings.Split(other.RefreshToken, ".")[1] + "." + parts[2], api.CodeInvalidToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: c.token}, c.code)
			refused(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: c.token}, c.code)
		})
	}
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
}

// TestSignedForeignTokens presents tokens that carry a good signature of this region's key
// but not what a service would put in them.
func TestSignedForeignTokens(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	key := newKey(t)
	f.keys = keyring(t, key)
	s := f.service()
	first := login(t, s)
	base := jwt.MapClaims{}
	segment(t, first.RefreshToken, 1, &base)
	for _, c := range []struct {
		name   string
		change func(jwt.MapClaims)
		code   api.Code
	}{
		{"expired", func(m jwt.MapClaims) { m["exp"] = time.Now().Add(-2 * time.Minute).Unix() }, api.CodeTokenExpired},
		{"no exp", func(m jwt.MapClaims) { delete(m, "exp") }, api.CodeInvalidToken},
		{"another issuer", func(m jwt.MapClaims) { m["iss"] = "https://evil.example" }, api.CodeInvalidToken},
		{"another audience", func(m jwt.MapClaims) { m["aud"] = "https://other.example" }, api.CodeInvalidToken},
		{"a wild region", func(m jwt.MapClaims) { m["lock_region"] = "*.>" }, api.CodeInvalidToken},
		{"a wild session", func(m jwt.MapClaims) { m["sid"] = "a.b" }, api.CodeInvalidToken},
		{"no generation", func(m jwt.MapClaims) { delete(m, "gen") }, api.CodeInvalidToken},
		{"a region out of reach", func(m jwt.MapClaims) { m["lock_region"] = "us-east-1" }, api.CodeUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := jwt.MapClaims{}
			maps.Copy(claims, base)
			c.change(claims)
			token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
			token.Header["typ"], token.Header["kid"] = api.TypeRefresh, f.keys.Signing()
			signed, err := token.SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: signed}, c.code)
		})
	}
}

// TestLoginLimit slows down whoever guesses a password: ten guesses, then one every 2 s.
func TestLoginLimit(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		s := newFleet(t, connect(), server("eu-west-1-a", dublin, "http://127.0.0.1:1")).service()
		for range 10 {
			refused(t, s, "/v1/login", api.LoginRequest{Username: "ada", Password: "guess"}, api.CodeInvalidCredentials)
		}
		status, _, header := post(t, s, "/v1/login", api.LoginRequest{Username: "ada", Password: "ada-dev"})
		if status != http.StatusTooManyRequests || header.Get("Retry-After") != "2" {
			t.Errorf("after ten guesses: status %d, Retry-After %q", status, header.Get("Retry-After"))
		}
		time.Sleep(2 * time.Second)
		login(t, s)
	})
}

// TestServers lists the region's servers, and saves a client what it has already.
func TestServers(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	get := func(tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/servers", nil)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w
	}
	first := get("")
	if !strings.Contains(first.Body.String(), `"eu-west-1-a"`) || strings.Contains(first.Body.String(), "load") {
		t.Errorf("servers: %s", first.Body)
	}
	if again := get(first.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("again: status %d, %s", again.Code, again.Body)
	}
}

// segment decodes a part of a token.
func segment(t *testing.T, token string, i int, out any) {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
}

// TestKeyFile refuses key files that others may read, and reads back what GenerateKey wrote.
func TestKeyFile(t *testing.T) {
	path := t.TempDir() + "/eu.key"
	if err := tokens.GenerateKey(path); err != nil {
		t.Fatal(err)
	}
	k, err := tokens.LoadKeyring(path, dublin)
	if err != nil {
		t.Fatal(err)
	}
	if pub := k.Public()[k.Signing()]; len(pub) != ed25519.PublicKeySize || !strings.HasPrefix(k.Signing(), dublin+".") {
		t.Errorf("signing key %q: %v", k.Signing(), pub)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.LoadKeyring(path, dublin); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key file of mode 0640: %v", err)
	}
}
