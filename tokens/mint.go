package tokens

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/berthhq/berth/events/wire"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// mint makes a session's tokens. All that stands in them comes from the record, and Ed25519
// is deterministic, so the same record gives the same bytes for as long as there is the key that
// the record names.
//
// Tokens are written here by appending, to the byte what a JWT library makes of api.AccessClaims
// and api.RefreshClaims: two of them are made for every refresh.
type mint struct {
	issuer   string
	audience string
	rooms    *sync.Pool // of *mintRoom
}

// mintRoom is what one token is made in, over and over.
type mintRoom struct {
	claims, header wire.Writer
	token          []byte
}

func newMint(issuer, audience string) mint {
	return mint{issuer: issuer, audience: audience, rooms: &sync.Pool{New: func() any { return new(mintRoom) }}}
}

// room returns room for one token, to be put back when that is made.
func (m mint) room() *mintRoom {
	room, ok := m.rooms.Get().(*mintRoom)
	if !ok {
		return new(mintRoom)
	}
	room.claims.Reset()
	room.header.Reset()
	return room
}

// signs is the part of a Signer that makes tokens.
type signs interface {
	Sign(kid string, data []byte) ([]byte, error)
}

// access returns the access token of the record's answer.
func (m mint) access(r *sessions.Record, keys signs) (string, error) { return m.accessAs(r, "a", keys) }

// unrotated returns an access token of an answer that the record was not written with: no second
// one is like it.
func (m mint) unrotated(r *sessions.Record, keys signs) (string, error) {
	return m.accessAs(r, newID(), keys)
}

func (m mint) accessAs(r *sessions.Record, kind string, keys signs) (string, error) {
	a := &r.Answer
	room := m.room()
	defer m.rooms.Put(room)
	w := &room.claims
	w.Open()
	m.session(w, r, kind, a.AccessExp)
	w.String("server_id", a.Server)
	w.String("server_url", a.URL)
	w.String("region", a.Region)
	w.Uint("lock_epoch", r.Epoch.Number)
	w.String("lock_region", r.Epoch.Region)
	w.Array("fallbacks")
	for _, f := range a.Fallbacks {
		w.Item(f.URL)
	}
	w.End()
	w.Fields(r.Claims, api.Reserved)
	w.Close()
	return room.sign(keys, a.KID, api.TypeAccess)
}

// refresh returns the record's current refresh token.
func (m mint) refresh(r *sessions.Record, keys signs) (string, error) {
	a := &r.Answer
	room := m.room()
	defer m.rooms.Put(room)
	w := &room.claims
	w.Open()
	m.session(w, r, "r", a.RefreshExp)
	w.String("jurisdiction", r.Jurisdiction)
	w.Uint("lock_epoch", r.Epoch.Number)
	w.String("lock_region", r.Epoch.Region)
	w.Uint("gen", r.Gen)
	w.Int("session_started", r.StartedAt.Unix())
	if len(r.Claims) > 0 {
		w.Object("own")
		w.Fields(r.Claims, nil)
		w.Close()
	}
	w.Close()
	return room.sign(keys, a.KID, api.TypeRefresh)
}

// session writes what both tokens say.
func (m mint) session(w *wire.Writer, r *sessions.Record, kind string, expires time.Time) {
	w.String("iss", m.issuer)
	w.String("sub", r.Subject)
	w.String("aud", m.audience)
	w.Int("exp", expires.Unix())
	w.Int("iat", r.Answer.IssuedAt.Unix())
	w.String("jti", tokenID(r, kind))
	w.String("client_id", r.ClientID)
	w.String("sid", r.Session)
	w.Filled("org", r.Org)
	w.Filled("scope", r.Scope)
}

// tokenID returns the claim jti: <session>.<epoch>.<generation>.<a|r>, or a fresh id in the place of a.
func tokenID(r *sessions.Record, kind string) string {
	return r.Session + "." + strconv.FormatUint(r.Epoch.Number, 10) + "." + strconv.FormatUint(r.Gen, 10) + "." + kind
}

// sign returns the token of the claims, RFC 7515 section 7.1, signed by EdDSA, RFC 8037.
func (room *mintRoom) sign(keys signs, kid, typ string) (string, error) {
	token, err := room.signed(keys, kid, typ)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	return token, nil
}

func (room *mintRoom) signed(keys signs, kid, typ string) (string, error) {
	claims, err := room.claims.Bytes()
	if err != nil {
		return "", err
	}
	w := &room.header
	w.Open()
	w.String("alg", "EdDSA")
	w.String("kid", kid)
	w.String("typ", typ)
	w.Close()
	header, err := w.Bytes()
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding
	token := b64.AppendEncode(room.token[:0], header)
	token = b64.AppendEncode(append(token, '.'), claims)
	signature, err := keys.Sign(kid, token)
	if err != nil {
		return "", err
	}
	room.token = b64.AppendEncode(append(token, '.'), signature)
	return string(room.token), nil
}
