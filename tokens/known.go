package tokens

import (
	"bytes"
	"encoding/base64"
	"strings"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// known returns the refresh of a token that this service has minted last for its session, and
// still remembers: then it is authentic because its hash is that of the one that was signed,
// and what its claims would say stands in the record. False: it has to be verified.
func (s *Service) known(token string, now time.Time) (sessions.Request, bool) {
	var buf [1024]byte
	held := s.cache.Take(claimedSession(token, buf[:]), token)
	if held == nil {
		return sessions.Request{}, false
	}
	rec := held.Record()
	if !s.public.vouches(rec.Answer.KID) || rec.Epoch.Region != s.cfg.Region || !now.Before(rec.Answer.RefreshExp) {
		held.Release() // what has expired, or was signed by a retired key, is for the verification to judge
		return sessions.Request{}, false
	}
	return sessions.Request{Key: rec.Key(), Token: rec.Current(), Held: held, Rebuilt: func() sessions.Record { return rebuiltOf(rec) }}, true
}

// rebuiltOf returns what the claims of the record's current token would say of it.
func rebuiltOf(rec *sessions.Record) sessions.Record {
	return sessions.Record{
		Version: rec.Version, Session: rec.Session, Subject: rec.Subject, ClientID: rec.ClientID, Org: rec.Org, Scope: rec.Scope,
		Claims: rec.Claims, Jurisdiction: rec.Jurisdiction, StartedAt: rec.StartedAt, ExpiresAt: rec.ExpiresAt, Epoch: rec.Epoch, Gen: rec.Gen,
	}
}

// sid stands before the session in a token's claims.
const sid = `"sid":"`

// claimedSession returns the session that a token claims to be of, decoded into buf if that is
// long enough; empty if it claims none. It is for looking up only.
func claimedSession(token string, buf []byte) []byte {
	_, rest, _ := strings.Cut(token, ".")
	claims, _, ok := strings.Cut(rest, ".")
	if !ok || len(token) > api.MaxToken {
		return nil
	}
	if n := base64.RawURLEncoding.DecodedLen(len(claims)); n > len(buf) {
		buf = make([]byte, n)
	}
	n, err := base64.RawURLEncoding.Decode(buf, []byte(claims))
	if err != nil {
		return nil
	}
	_, after, _ := bytes.Cut(buf[:n], []byte(sid))
	session, _, ok := bytes.Cut(after, []byte{'"'})
	if !ok {
		return nil
	}
	return session
}
