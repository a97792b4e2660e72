package api

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Types of the tokens, header typ.
const (
	TypeAccess  = "at+jwt" // RFC 9068
	TypeRefresh = "berth-rt+jwt"
)

// Lock is the place a session is bound to, and the epoch that binds it.
type Lock struct {
	ServerID  string `json:"server_id"`
	ServerURL string `json:"server_url"`
	Region    string `json:"region"`
	// Epoch and EpochRegion order locks of one session, as a pair.
	Epoch       uint64 `json:"lock_epoch"`
	EpochRegion string `json:"lock_region"`
}

// SessionClaims are what both tokens of a session say of it.
type SessionClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  Audience `json:"aud"`
	ExpiresAt int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	ID        string   `json:"jti"`
	ClientID  string   `json:"client_id"`
	SessionID string   `json:"sid"`
	Org       string   `json:"org,omitempty"`
	Scope     string   `json:"scope,omitempty"`
}

// AccessClaims are the claims of an access token.
type AccessClaims struct {
	SessionClaims
	Lock
	// Fallbacks are base URLs of token paths in other regions, best first.
	Fallbacks []string `json:"fallbacks"`
	// Own are the application's claims, beside the others in the token.
	Own map[string]any `json:"-"`
}

// RefreshClaims are the claims of a refresh token: enough to rebuild the session's record.
type RefreshClaims struct {
	SessionClaims
	Jurisdiction string `json:"jurisdiction"`
	// Epoch, EpochRegion and Generation are the token's place in its session's line.
	Epoch       uint64 `json:"lock_epoch"`
	EpochRegion string `json:"lock_region"`
	Generation  uint64 `json:"gen"`
	// SessionStarted is when the session began, in Unix seconds.
	SessionStarted int64 `json:"session_started"`
	// Own are the application's claims.
	Own map[string]any `json:"own,omitempty"`
}

// Audience is the claim aud: one string or several, RFC 7519 section 4.1.3.
type Audience []string

// UnmarshalJSON accepts a string or an array of strings.
func (a *Audience) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*a = make(Audience, 1)
		return json.Unmarshal(data, &(*a)[0])
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// MarshalJSON writes a single audience as a string.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// reserved are the names of claims that an application may not set.
var reserved = map[string]bool{
	"iss": true, "sub": true, "aud": true, "exp": true, "nbf": true, "iat": true, "jti": true,
	"client_id": true, "sid": true, "org": true, "scope": true, "region": true,
	"server_id": true, "server_url": true, "lock_epoch": true, "lock_region": true,
	"fallbacks": true, "gen": true, "jurisdiction": true, "session_started": true, "own": true,
	"cnf": true,
}

// Reserved reports whether name is a claim that berth sets itself, or would be read as one:
// encoding/json matches names without regard to case.
func Reserved(name string) bool {
	if reserved[name] {
		return true
	}
	for r := range reserved {
		if strings.EqualFold(r, name) {
			return true
		}
	}
	return false
}

// MarshalJSON writes the application's claims beside berth's.
func (c AccessClaims) MarshalJSON() ([]byte, error) {
	type plain AccessClaims
	base, err := json.Marshal(plain(c))
	if err != nil || len(c.Own) == 0 {
		return base, err
	}
	own := make(map[string]any, len(c.Own))
	for name, value := range c.Own {
		if !Reserved(name) {
			own[name] = value
		}
	}
	if len(own) == 0 {
		return base, nil
	}
	rest, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	return append(append(base[:len(base)-1], ','), rest[1:]...), nil
}

// UnmarshalJSON puts every claim that berth does not know into Own.
func (c *AccessClaims) UnmarshalJSON(data []byte) error {
	type plain AccessClaims
	if err := json.Unmarshal(data, (*plain)(c)); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for name := range all {
		if Reserved(name) {
			delete(all, name)
		}
	}
	if c.Own = nil; len(all) > 0 {
		c.Own = all
	}
	return nil
}

// Expiry returns the claim exp as a time.
func (c *SessionClaims) Expiry() time.Time { return time.Unix(c.ExpiresAt, 0) }

// The methods of jwt.Claims, for the parser.

func numeric(unix int64) *jwt.NumericDate {
	if unix == 0 {
		return nil
	}
	return jwt.NewNumericDate(time.Unix(unix, 0))
}

// GetExpirationTime implements jwt.Claims.
func (c *SessionClaims) GetExpirationTime() (*jwt.NumericDate, error) {
	return numeric(c.ExpiresAt), nil
}

// GetIssuedAt implements jwt.Claims.
func (c *SessionClaims) GetIssuedAt() (*jwt.NumericDate, error) { return numeric(c.IssuedAt), nil }

// GetNotBefore implements jwt.Claims; berth sets no nbf.
func (c *SessionClaims) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer implements jwt.Claims.
func (c *SessionClaims) GetIssuer() (string, error) { return c.Issuer, nil }

// GetSubject implements jwt.Claims.
func (c *SessionClaims) GetSubject() (string, error) { return c.Subject, nil }

// GetAudience implements jwt.Claims.
func (c *SessionClaims) GetAudience() (jwt.ClaimStrings, error) {
	return jwt.ClaimStrings(c.Audience), nil
}
