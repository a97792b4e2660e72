package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

func (s *Service) serveLogin(ctx context.Context, c call, _ *http.Request, req api.LoginRequest) (message, error) {
	reply, err := s.login(ctx, c, req)
	if err != nil {
		return message{}, err
	}
	return s.granted(&reply)
}

func (s *Service) serveRefresh(ctx context.Context, c call, _ *http.Request, req api.RefreshRequest) (message, error) {
	if err := checkRefresh(req); err != nil {
		return message{}, err
	}
	var claims *api.RefreshClaims
	in, known := s.known(req.RefreshToken, time.Now())
	if !known {
		var err error
		if claims, err = s.claims(ctx, req.RefreshToken); err != nil {
			return message{}, err
		}
		if !s.cfg.Jurisdictions.Has(claims.Jurisdiction, s.cfg.Region) { // it cannot be here
			return message{}, s.outside(&c, claims)
		}
		in = claimed(claims)
	}
	reply, owner, err := s.refresh(ctx, c, in, req)
	switch {
	case err != nil:
		return message{}, err
	case owner == "":
		return s.granted(&reply)
	case known: // until now
		if claims, err = s.claims(ctx, req.RefreshToken); err != nil {
			return message{}, err
		}
	}
	return s.refreshAt(ctx, c, owner, claims, req)
}

// refreshAt has the region redeem a token that owns its session or, if that is out of reach, takes
// the session over.
func (s *Service) refreshAt(ctx context.Context, c call, owner string, claims *api.RefreshClaims, req api.RefreshRequest) (message, error) {
	if err := s.serves(claims.Org, claims.Jurisdiction, &c, claims.SessionID); err != nil {
		return message{}, err
	}
	m, err := s.passOn(ctx, c, api.MethodRefresh, claims.Jurisdiction, owner, req)
	if err == nil || !s.mayTakeOver(owner) {
		return m, err
	}
	switch heir, err := s.mayTakeStrictly(claims, owner); {
	case err != nil:
		s.countStrict(ctx, err)
		return message{}, asError(err)
	case heir != s.cfg.Region:
		return s.passOn(ctx, c, api.MethodRefresh, claims.Jurisdiction, heir, req)
	}
	reply, err := s.takeOver(ctx, c, claims, owner, req)
	if err != nil {
		return message{}, err
	}
	return s.granted(&reply)
}

// outside sends somebody on whose session is of a jurisdiction that this region is not in.
func (s *Service) outside(c *call, claims *api.RefreshClaims) error {
	if err := s.serves(claims.Org, claims.Jurisdiction, c, claims.SessionID); err != nil {
		return err
	}
	return rulesUnknown(fmt.Errorf("region %s is not in jurisdiction %s", s.cfg.Region, claims.Jurisdiction))
}

// Bounds of a refresh request, which stands in records and events.
const (
	maxBookmark = 1024
	maxRTTs     = 64
)

func checkRefresh(req api.RefreshRequest) error {
	var fields []api.FieldError
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"closestServerId", req.ClosestServerID, events.MaxToken},
		{"failedServerId", req.FailedServerID, events.MaxToken},
		{"bookmark", req.Bookmark, maxBookmark},
	} {
		if len(f.value) > f.most {
			fields = append(fields, api.FieldError{Location: "body." + f.name, Message: fmt.Sprintf("want at most %d bytes", f.most)})
		}
	}
	if len(req.RTTMs) > maxRTTs {
		fields = append(fields, api.FieldError{Location: "body.rttMs", Message: fmt.Sprintf("want at most %d servers", maxRTTs)})
	}
	return invalid(fields...)
}

func (s *Service) serveLogout(ctx context.Context, c call, _ *http.Request, req api.LogoutRequest) (message, error) {
	claims, err := s.claims(ctx, req.RefreshToken)
	if err != nil {
		return message{}, err
	}
	if !s.cfg.Jurisdictions.Has(claims.Jurisdiction, s.cfg.Region) {
		return message{}, s.outside(&c, claims)
	}
	owner, revoked, err := s.owner.Locate(ctx, keyOf(claims), stamp(claims))
	if err != nil {
		return message{}, unavailable("the session could not be read", err)
	}
	if owner != s.cfg.Region && !revoked {
		if err := s.serves(claims.Org, claims.Jurisdiction, &c, claims.SessionID); err != nil {
			return message{}, err // a record that refuses it would be one outside
		}
		if m, err := s.passOn(ctx, c, api.MethodLogout, claims.Jurisdiction, owner, req); err == nil {
			return m, nil
		}
		// A record of this region's own refuses the session here, and everywhere after the heal.
	}
	if err := s.logout(ctx, claims); err != nil {
		return message{}, err
	}
	return message{status: http.StatusNoContent}, nil
}

// logout ends the session of a refresh token. It returns nil only after the end is durable
// (V8) and the region's servers can know of it.
func (s *Service) logout(ctx context.Context, claims *api.RefreshClaims) error {
	key := keyOf(claims)
	rec, _, err := s.owner.Revoke(ctx, key, rebuilt(claims))
	if err != nil {
		return unavailable("the session could not be ended", err)
	}
	now := time.Now()
	// What is acknowledged holds at once in the region: its servers read it in the stream.
	revoked := s.revokedEvent(now, rec.Session)
	if err := s.outbox.send(ctx, revoked); err != nil {
		s.outbox.put(revoked) // the client may not try again
		return unavailable("the session has ended, but its servers could not be told; try again", err)
	}
	s.outbox.put(s.sessionEvent(&rec, events.SessionRevoked, "logout", now))
	return nil
}

func (s *Service) serveClosest(ctx context.Context, c call, r *http.Request, _ none) (message, error) {
	org, err := orgOf(r)
	if err != nil {
		return message{}, err
	}
	reply, err := s.closest(c, org, s.measuredBy(ctx, r))
	if err != nil {
		return message{}, err
	}
	return success(reply)
}

func (s *Service) serveServers(_ context.Context, _ call, r *http.Request, _ none) (message, error) {
	reply, tag, err := s.servers()
	if err != nil {
		return message{}, err
	}
	if strings.Contains(r.Header.Get("If-None-Match"), tag) {
		return message{status: http.StatusNotModified, header: http.Header{"Etag": {tag}}}, nil
	}
	m, err := success(reply)
	m.header = http.Header{"Etag": {tag}}
	return m, err
}

// claims verifies a refresh token. If its key is not known here yet, the region that the key
// names is asked once.
func (s *Service) claims(ctx context.Context, token string) (*api.RefreshClaims, error) {
	if token == "" {
		return nil, invalid(api.FieldError{Location: "body.refreshToken", Message: "is required"})
	}
	now := time.Now()
	claims, err := s.verify.Refresh(token, now)
	if errors.Is(err, api.ErrUnknownKey) && s.public.fetch(ctx, unverifiedKey(token), now) {
		claims, err = s.verify.Refresh(token, now)
	}
	if err != nil {
		if fault := s.cfg.Clock(); fault != nil { // by this clock a good token may look like a bad one
			return nil, unavailable(clockUntrusted, fault)
		}
		return nil, asError(err)
	}
	return claims, checkPlace(claims)
}

// checkPlace refuses a token whose names could not stand in a subject or a key. Only a
// faulty issuer signs such a one.
func checkPlace(c *api.RefreshClaims) error {
	for _, name := range []string{c.SessionID, c.Jurisdiction, c.EpochRegion} {
		if !events.ValidToken(name) {
			return &api.Error{Code: api.CodeInvalidToken, Detail: "the token names an impossible place"}
		}
	}
	return nil
}

// unverifiedKey returns the key id that a token claims, "" if it is no token.
func unverifiedKey(token string) string {
	head, _, ok := strings.Cut(token, ".")
	if !ok || len(token) > api.MaxToken {
		return ""
	}
	data, err := jwt.NewParser().DecodeSegment(head)
	if err != nil {
		return ""
	}
	var h struct {
		KID string `json:"kid"`
	}
	if json.Unmarshal(data, &h) != nil {
		return ""
	}
	return h.KID
}
