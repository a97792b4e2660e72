package tokens_test

import (
	"crypto/ed25519"
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// FuzzMint: the tokens are to the byte what a JWT library makes of their claims, whatever stands
// in them.
func FuzzMint(f *testing.F) {
	f.Add("https://api.example.com", "orders", "ada", "", "", "web", "https://a", `{"role":"captain"}`, uint64(1), uint64(1), int64(1_700_000_000))
	f.Add(`"<&>\`, "a\u2028b", "a\xff\x00", "acme", "read write", "ž", "https://x/?a=b&c=<d>", `{"a":{"sid":"x"},"b":[1,1e21,null,"<"],"":0.1,"IAT":1,"aud":"evil"}`, uint64(1<<63), uint64(7), int64(-1))
	f.Add("", "", "", "", "", "", "", `{"sub":"other"}`, uint64(0), uint64(0), int64(1<<40))
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	keys, err := tokens.NewKeyring(dublin, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, issuer, audience, subject, org, scope, client, url, own string, epoch, gen uint64, at int64) {
		r := sessions.Record{
			Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Subject: subject, Org: org, Scope: scope, ClientID: client, Jurisdiction: "global",
			Epoch: events.Epoch{Number: epoch, Region: dublin}, Gen: gen, StartedAt: time.Unix(at, 0),
			Answer: sessions.Answer{
				Server: "a", Region: dublin, URL: url, KID: keys.Signing(), Fallbacks: []sessions.Fallback{{Region: "us", URL: url}, {URL: "b"}},
				IssuedAt: time.Unix(at, 0), AccessExp: time.Unix(at+120, 0), RefreshExp: time.Unix(at+1e6, 0),
			},
		}
		if json.Unmarshal([]byte(own), &r.Claims) != nil {
			r.Claims = map[string]any{own: own}
		}
		refresh, access, err := tokens.Mint(issuer, audience, &r, keys)
		if err != nil {
			t.Fatal(err)
		}
		id := r.Session + "." + strconv.FormatUint(epoch, 10) + "." + strconv.FormatUint(gen, 10)
		claims := api.SessionClaims{
			Issuer: issuer, Subject: subject, Audience: api.Audience{audience}, ExpiresAt: at + 120, IssuedAt: at, ID: id + ".a",
			ClientID: client, SessionID: r.Session, Org: org, Scope: scope,
		}
		same(t, access, api.TypeAccess, key, keys, &api.AccessClaims{
			SessionClaims: claims, Fallbacks: []string{url, "b"}, Own: r.Claims,
			Lock: api.Lock{ServerID: "a", ServerURL: url, Region: dublin, Epoch: epoch, EpochRegion: dublin},
		})
		claims.ExpiresAt, claims.ID = at+1e6, id+".r"
		same(t, refresh, api.TypeRefresh, key, keys, &api.RefreshClaims{
			SessionClaims: claims, Jurisdiction: "global", Epoch: epoch, EpochRegion: dublin, Generation: gen, SessionStarted: at, Own: r.Claims,
		})
	})
}

// same fails unless the library makes this token.
func same(t *testing.T, got, typ string, key ed25519.PrivateKey, keys *tokens.Keyring, claims jwt.Claims) {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"], token.Header["kid"] = typ, keys.Signing()
	want, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s\n%s\nwant\n%s", typ, got, want)
	}
}

// TestMintWithoutItsKey: a record whose key is gone gives no tokens.
func TestMintWithoutItsKey(t *testing.T) {
	r := sessions.Record{Answer: sessions.Answer{KID: dublin + ".gone"}}
	if refresh, access, err := tokens.Mint(issuer, issuer, &r, keyring(t, newKey(t))); err == nil {
		t.Errorf("minted %q and %q", refresh, access)
	}
}
