package tokens

import (
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// mint makes a session's tokens. All that stands in them comes from the record, and Ed25519
// is deterministic, so the same record gives the same bytes for as long as the keyring holds
// the key that the record names.
type mint struct {
	issuer   string
	audience api.Audience
}

// access returns the access token of the record's answer.
func (m mint) access(r *sessions.Record, keys *Keyring) (string, error) {
	a := &r.Answer
	fallbacks := make([]string, len(a.Fallbacks))
	for i, f := range a.Fallbacks {
		fallbacks[i] = f.URL
	}
	return sign(keys, a.KID, api.TypeAccess, &api.AccessClaims{
		SessionClaims: m.session(r, "a", a.AccessExp),
		Lock: api.Lock{
			ServerID: a.Server, ServerURL: a.URL, Region: a.Region,
			Epoch: r.Epoch.Number, EpochRegion: r.Epoch.Region,
		},
		Fallbacks: fallbacks, Own: r.Claims,
	})
}

// refresh returns the record's current refresh token.
func (m mint) refresh(r *sessions.Record, keys *Keyring) (string, error) {
	a := &r.Answer
	return sign(keys, a.KID, api.TypeRefresh, &api.RefreshClaims{
		SessionClaims: m.session(r, "r", a.RefreshExp),
		Jurisdiction:  r.Jurisdiction, Epoch: r.Epoch.Number, EpochRegion: r.Epoch.Region,
		Generation: r.Gen, SessionStarted: r.StartedAt.Unix(), Own: r.Claims,
	})
}

// session returns what both tokens say.
func (m mint) session(r *sessions.Record, kind string, expires time.Time) api.SessionClaims {
	return api.SessionClaims{
		Issuer: m.issuer, Subject: r.Subject, Audience: m.audience,
		ExpiresAt: expires.Unix(), IssuedAt: r.Answer.IssuedAt.Unix(), ID: tokenID(r, kind),
		ClientID: r.ClientID, SessionID: r.Session, Org: r.Org, Scope: r.Scope,
	}
}

// tokenID returns the claim jti: <session>.<epoch>.<generation>.<a|r>.
func tokenID(r *sessions.Record, kind string) string {
	return r.Session + "." + strconv.FormatUint(r.Epoch.Number, 10) + "." + strconv.FormatUint(r.Gen, 10) + "." + kind
}

func sign(keys *Keyring, kid, typ string, claims jwt.Claims) (string, error) {
	key, err := keys.signer(kid)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	t.Header["typ"], t.Header["kid"] = typ, kid
	signed, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	return signed, nil
}
