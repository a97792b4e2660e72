package api

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Skew is how far two machines' clocks may differ before one refuses the other's tokens.
const Skew = 60 * time.Second

// MaxToken is the length in bytes of a token that is looked at.
const MaxToken = 16 << 10

// MaxKeyID is the length in bytes of a key id that is looked for.
const MaxKeyID = 128

// ErrUnknownKey says that a token names a key that is not known here (yet). It is answered
// with 503, never 401, for the key may be on its way (V18).
var ErrUnknownKey = errors.New("unknown signing key")

// errRetiredKey says that a token names a key that is not trusted any more.
var errRetiredKey = errors.New("retired signing key")

// Verifier checks tokens. The zero value of Audience and Issuer accepts none.
type Verifier struct {
	// Key returns the public key of an id.
	Key func(kid string) (ed25519.PublicKey, bool)
	// Retired reports whether a key that is not to be had was retired: what it signed is
	// refused for good. nil: no key ever was.
	Retired func(kid string) bool
	// Issuer and Audience are what the tokens must name.
	Issuer, Audience string
}

// Access returns the claims of a good access token. It fails with an *Error of
// CodeInvalidToken or CodeTokenExpired, or with ErrUnknownKey.
func (v *Verifier) Access(token string, now time.Time) (*AccessClaims, error) {
	var c AccessClaims
	if err := v.verify(token, TypeAccess, &c, now); err != nil {
		return nil, err
	}
	if c.SessionID == "" || c.ServerID == "" || c.Epoch == 0 || c.EpochRegion == "" {
		return nil, &Error{Code: CodeInvalidToken, Detail: "the access token has no lock"}
	}
	return &c, nil
}

// Refresh returns the claims of a good refresh token. It fails as Access does.
func (v *Verifier) Refresh(token string, now time.Time) (*RefreshClaims, error) {
	var c RefreshClaims
	if err := v.verify(token, TypeRefresh, &c, now); err != nil {
		return nil, err
	}
	if c.SessionID == "" || c.Jurisdiction == "" || c.Epoch == 0 || c.EpochRegion == "" || c.Generation == 0 {
		return nil, &Error{Code: CodeInvalidToken, Detail: "the refresh token names no place in a session"}
	}
	return &c, nil
}

func (v *Verifier) verify(token, typ string, c jwt.Claims, now time.Time) error {
	if len(token) > MaxToken {
		return &Error{Code: CodeInvalidToken, Detail: "the token is too long"}
	}
	if v.Issuer == "" || v.Audience == "" {
		// The parser would take an empty issuer for "any".
		return &Error{Code: CodeInvalidToken, Detail: "no issuer and audience are configured to accept"}
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(v.Issuer), jwt.WithAudience(v.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(Skew), jwt.WithIssuedAt(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	_, err := parser.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		if got, _ := t.Header["typ"].(string); got != typ {
			return nil, fmt.Errorf("token of type %q where %q is wanted", got, typ)
		}
		kid, _ := t.Header["kid"].(string)
		if kid == "" || len(kid) > MaxKeyID {
			return nil, errors.New("token names no possible key")
		}
		key, ok := v.Key(kid)
		switch {
		case ok:
			return key, nil
		case v.Retired != nil && v.Retired(kid):
			return nil, fmt.Errorf("%w %q", errRetiredKey, kid)
		}
		// Whoever signed it, by its own word it is over: no key on its way would make it good.
		if exp, err := t.Claims.GetExpirationTime(); err == nil && exp != nil && !now.Before(exp.Add(Skew)) {
			return nil, jwt.ErrTokenExpired
		}
		return nil, fmt.Errorf("%w %q", ErrUnknownKey, kid)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnknownKey):
		return err
	case errors.Is(err, errRetiredKey):
		return &Error{Code: CodeInvalidToken, Detail: "the key that signed the token was retired; log in again", Cause: err}
	case errors.Is(err, jwt.ErrTokenExpired):
		return &Error{Code: CodeTokenExpired, Detail: "the token is past its exp", Cause: err}
	default:
		return &Error{Code: CodeInvalidToken, Detail: "the token is not one of ours, or was altered", Cause: err}
	}
}
