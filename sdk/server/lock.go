package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// HeaderLock carries the access token where the API keeps Authorization for itself; it then
// comes first.
const HeaderLock = "Berth-Lock"

// claimsKey is the key of a request's claims in its context.
type claimsKey struct{}

// ClaimsFrom returns the claims of the access token that Lock has let through. They are
// shared by all requests with that token: read them, do not change them.
func ClaimsFrom(ctx context.Context) (*api.AccessClaims, bool) {
	c, ok := ctx.Value(claimsKey{}).(*api.AccessClaims)
	return c, ok && c != nil
}

// A LockOption sets what Lock does on the routes that it stands before.
type LockOption func(*locking)

// locking is what Lock does.
type locking struct{ shadow bool }

// Enforce sets whether requests are refused, or all served as with Config.Shadow.
func Enforce(enforce bool) LockOption { return func(l *locking) { l.shadow = !enforce } }

// Lock serves a request by next if it carries a good access token whose session is locked to
// this server, and refuses it otherwise, with an RFC 9457 problem document:
//
//	401 invalid_token, token_expired, session_revoked   with WWW-Authenticate
//	421 locked_elsewhere   with the right server, for a token of another server or an epoch
//	                       that is over
//	429 rate_limited       with Retry-After: more than Config.Limits
//	503 unavailable        with Retry-After: the server has just started and does not know
//	                       yet which locks were released, or not the key that signed
//
// It speaks to nobody, but for a key that it does not know, which it asks for once a second
// at most.
//
// The context of a request ends, with the cause *Released, if the request is still in progress
// Config.OpenGrace after its session has left the server or has ended: as streams are.
//
// Where it is not enforced, next serves what would be refused: with the claims of a token whose
// signature is good, without any otherwise.
func (a *Agent) Lock(next http.Handler, options ...LockOption) http.Handler {
	l := locking{shadow: a.cfg.Shadow}
	for _, option := range options {
		option(&l)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		claims, refusal := a.permit(r, now)
		switch {
		case refusal == nil:
		case l.shadow:
			a.shadow(r, refusal)
		default:
			a.refuse(w, refusal)
			return
		}
		ctx := &admitted{Context: r.Context(), claims: claims}
		if !l.shadow {
			ctx.open = a.open
		}
		a.meter.begin()
		defer func() {
			ctx.done()
			a.meter.done(now)
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// errNoToken is the cause of the refusal of a request without a token.
var errNoToken = errors.New("no token")

// permit is admit within the limits.
func (a *Agent) permit(r *http.Request, now time.Time) (*api.AccessClaims, *api.Error) {
	claims, refusal := a.admit(r, now)
	if refusal == nil && a.cfg.Limits != (Limits{}) {
		refusal = a.limiters.take(claims.Org, a.part(), now)
	}
	return claims, refusal
}

// admit returns the claims of the request's token, and why it may not be served here and now, nil if it
// may. There are no claims where the token is not good.
func (a *Agent) admit(r *http.Request, now time.Time) (*api.AccessClaims, *api.Error) {
	if err := a.Ready(); err != nil {
		return nil, unavailable(err.Error(), nil)
	}
	token, refusal := tokenOf(r.Header)
	if refusal != nil {
		return nil, refusal
	}
	generation := a.keys.generation()
	v := a.cache.get(token, generation, now)
	if v == nil {
		return a.meet(r.Context(), token, generation, now)
	}
	switch l := v.session.lock.Load(); {
	case l == nil: // forgotten in the meantime
		return a.meet(r.Context(), token, generation, now)
	case l != v.lock:
		if refusal := l.judge(v.claims, a.cfg.Server); refusal != nil {
			return v.claims, refusal
		}
	}
	v.session.touch(now)
	return v.claims, nil
}

// meet admits a token that is not in the cache.
func (a *Agent) meet(ctx context.Context, token string, generation uint64, now time.Time) (*api.AccessClaims, *api.Error) {
	claims, refusal := a.verify(ctx, token, now)
	if refusal != nil {
		return nil, refusal
	}
	s, l := a.sessions.observe(claims, now)
	v := verified{token: token, generation: generation, claims: claims, session: s}
	if refusal = l.judge(claims, a.cfg.Server); refusal == nil {
		v.lock = l
		s.touch(now)
	}
	a.cache.put(v, now)
	return claims, refusal
}

// verify checks a token's signature, type, issuer, audience and times.
func (a *Agent) verify(ctx context.Context, token string, now time.Time) (*api.AccessClaims, *api.Error) {
	a.metrics.verified.Inc()
	claims, err := a.verifier.Access(token, now)
	if errors.Is(err, api.ErrUnknownKey) {
		a.keys.ask(ctx)
		claims, err = a.verifier.Access(token, now)
	}
	var refusal *api.Error
	switch {
	case err == nil:
		return claims, nil
	case errors.As(err, &refusal):
		return nil, refusal
	default: // the key may be on its way
		return nil, unavailable("the key that signed the token is not known here yet", err)
	}
}

// tokenOf returns the access token of a request.
func tokenOf(h http.Header) (string, *api.Error) {
	values, bare := h[HeaderLock], true
	if len(values) == 0 {
		values, bare = h["Authorization"], false
	}
	switch len(values) {
	case 0:
		return "", &api.Error{Code: api.CodeInvalidToken, Detail: "the request carries no access token", Cause: errNoToken}
	case 1:
	default:
		return "", &api.Error{Code: api.CodeInvalidToken, Detail: "the request carries more than one token"}
	}
	if bare {
		return values[0], nil
	}
	const scheme = "Bearer "
	if v := values[0]; len(v) > len(scheme) && strings.EqualFold(v[:len(scheme)], scheme) {
		return v[len(scheme):], nil
	}
	return "", &api.Error{Code: api.CodeInvalidToken, Detail: "Authorization is not of the scheme Bearer"}
}
