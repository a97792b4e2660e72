package tokens_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestMangledTokens cuts a good refresh token short, changes bytes of its claims and signature, and
// makes it too long: nothing of that is honoured, or does anything to the session, be it remembered
// or not.
func TestMangledTokens(t *testing.T) {
	o := newOperated(t, embedded.RegionConfig{})
	good := login(t, o.warm).RefreshToken
	claims := strings.IndexByte(good, '.') + 1
	var mangled []string
	for i := 0; i < len(good); i += 7 {
		mangled = append(mangled, good[:i])
		if i < claims || good[i] == '.' || i == len(good)-1 { // of the last character some bits do not count
			continue
		}
		other := byte('A')
		if good[i] == other {
			other = 'B'
		}
		mangled = append(mangled, good[:i]+string(other)+good[i+1:])
	}
	mangled = append(mangled, good+"A", good+"."+good, good+strings.Repeat("=", 4), strings.Repeat(good, 8), good+strings.Repeat(".", 20_000))
	for name, s := range map[string]*tokens.Service{"remembered": o.warm, "not remembered": o.cold} {
		for _, token := range mangled {
			for _, path := range []string{"/v1/refresh", "/v1/logout"} {
				status, body, _ := post(t, s, path, api.RefreshRequest{RefreshToken: token})
				if status != http.StatusUnauthorized && (status != http.StatusBadRequest || token != "") {
					t.Fatalf("%s, %s: %d bytes of %d: status %d: %s", name, path, len(token), len(good), status, body)
				}
			}
		}
	}
	status, body, _ := post(t, o.warm, "/v1/refresh", api.RefreshRequest{RefreshToken: strings.Repeat("x", api.MaxBody)})
	if status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: status %d: %s", status, body)
	}
	reply := granted(t, o.warm, "/v1/refresh", api.RefreshRequest{RefreshToken: good})
	if rec := o.record(reply.SessionID); rec.Gen != 2 || rec.State != sessions.StateActive {
		t.Errorf("the session is %s at %s", rec.State, rec.Current())
	}
}
