package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Bounds in bytes of what an application puts into tokens: what is granted has to be short
// enough to be redeemed (api.MaxToken).
const (
	maxOwnClaims = 4096
	maxSubject   = 256
	maxScope     = 1024
	maxClientID  = 256
)

// call is what is known of a request besides its body.
type call struct {
	// arrived is the region where the client's request arrived.
	arrived string
	// address is the client's network address, for limits and to find out where it is.
	address string
	// location is where the client is, if known.
	location *events.Location
	// deadline is the time after which nothing is answered or written.
	deadline time.Time
	// floor is the passing server's lock floor (V10).
	floor events.Epoch
	// hops is how often token services have passed the request on.
	hops int
}

// start begins a session for a user that the application has authenticated. Errors are of
// type *api.Error.
func (s *Service) start(ctx context.Context, c call, req api.StartRequest) (api.TokensReply, error) {
	if err := checkStart(req); err != nil {
		return api.TokensReply{}, err
	}
	if req.ClientAddress != "" {
		c.address = req.ClientAddress
	}
	view, err := s.able()
	if err != nil {
		return api.TokensReply{}, err
	}
	b, jurisdiction, err := s.begins(req.Org)
	if err != nil {
		return api.TokensReply{}, err
	}
	if !b.Allows(s.cfg.Region) {
		return api.TokensReply{}, s.elsewhere(&b, c.arrived, req.Org)
	}
	now := time.Now()
	rec := sessions.Record{
		Session: newID(), Subject: req.Subject, ClientID: req.ClientID, Org: req.Org, Scope: req.Scope,
		Claims: req.Claims, Jurisdiction: jurisdiction,
		StartedAt: now.UTC().Truncate(time.Second), ExpiresAt: now.Add(SessionTTL).UTC().Truncate(time.Second),
	}
	if rec.ClientID == "" {
		rec.ClientID = "berth"
	}
	if err := s.mayAnswer(&rec); err != nil {
		s.countStrict(ctx, err)
		return api.TokensReply{}, asError(err)
	}
	pr := placement.Request{Session: rec.Session, Arrived: c.arrived, Location: s.whereabouts(&c), StartedAt: now}
	bind(&pr, &b, view)
	founded := s.decide(pr, view, now)
	d := founded.said
	if d.Server == "" {
		return api.TokensReply{}, nowhere(view, &b)
	}
	answer, err := s.answer(view, &rec, d, &b, now)
	if err != nil {
		return api.TokensReply{}, err
	}
	rec = sessions.Start(rec, s.cfg.Region, answer, newID(), now.UTC())
	refresh, err := s.signRefresh(&rec)
	if err != nil {
		return api.TokensReply{}, unavailable("the tokens could not be signed", err)
	}
	if err := s.owner.Create(ctx, rec); err != nil {
		return api.TokensReply{}, unavailable("the session could not be stored", err)
	}
	s.metrics.decided(d)
	s.outbox.put(s.decisionEvent(&founded, d, events.Epoch{}), s.sessionEvent(&rec, events.SessionCreated, string(d.Reason), now))
	access, err := s.mint.access(&rec, s.public)
	if err != nil {
		return api.TokensReply{}, unavailable("the tokens could not be signed", err)
	}
	return s.reply(&rec, access, refresh, now), nil
}

func checkStart(req api.StartRequest) error {
	var fields []api.FieldError
	if req.Subject == "" || len(req.Subject) > maxSubject {
		fields = append(fields, api.FieldError{Location: "body.subject", Message: "want 1 to 256 bytes"})
	}
	if req.Org != "" && !events.ValidToken(req.Org) {
		fields = append(fields, api.FieldError{Location: "body.org", Message: "want 1 to 64 of a-z 0-9 - _"})
	}
	if len(req.Scope) > maxScope {
		fields = append(fields, api.FieldError{Location: "body.scope", Message: fmt.Sprintf("want at most %d bytes", maxScope)})
	}
	if len(req.ClientID) > maxClientID {
		fields = append(fields, api.FieldError{Location: "body.clientId", Message: fmt.Sprintf("want at most %d bytes", maxClientID)})
	}
	if _, ok := addressOf(req.ClientAddress); req.ClientAddress != "" && !ok {
		fields = append(fields, api.FieldError{Location: "body.clientAddress", Message: "want an IP address"})
	}
	if err := checkOwn(req.Claims); err != nil {
		fields = append(fields, api.FieldError{Location: "body.claims", Message: err.Error()})
	}
	if own, err := json.Marshal(req.Claims); err != nil || len(own) > maxOwnClaims {
		fields = append(fields, api.FieldError{Location: "body.claims", Message: fmt.Sprintf("want at most %d bytes of JSON", maxOwnClaims)})
	}
	return invalid(fields...)
}

// login authenticates by the users file and starts a session.
func (s *Service) login(ctx context.Context, c call, req api.LoginRequest) (api.TokensReply, error) {
	if req.IDToken != "" {
		return api.TokensReply{}, invalid(api.FieldError{Location: "body.idToken", Message: "no upstream issuer is configured"})
	}
	var fields []api.FieldError
	if req.Username == "" || len(req.Username) > 256 {
		fields = append(fields, api.FieldError{Location: "body.username", Message: "want 1 to 256 bytes"})
	}
	if req.Password == "" || len(req.Password) > 1024 {
		fields = append(fields, api.FieldError{Location: "body.password", Message: "want 1 to 1024 bytes"})
	}
	if err := invalid(fields...); err != nil {
		return api.TokensReply{}, err
	}
	if !s.logins.allow(req.Username, c.address) {
		return api.TokensReply{}, &api.Error{Code: api.CodeRateLimited, Detail: "too many logins of this user or from this address", RetryAfter: loginRetryAfter}
	}
	if s.cfg.Users == nil {
		return api.TokensReply{}, &api.Error{Code: api.CodeInvalidCredentials, Detail: "this service has no users file"}
	}
	user, ok, err := s.cfg.Users.authenticate(ctx, req.Username, req.Password)
	switch {
	case err != nil:
		return api.TokensReply{}, unavailable("too many logins at once", err)
	case !ok, req.Org != "" && req.Org != user.Org:
		return api.TokensReply{}, &api.Error{Code: api.CodeInvalidCredentials}
	}
	return s.start(ctx, c, api.StartRequest{
		Subject: user.Username, Org: user.Org, Scope: user.Scope, Claims: user.Claims,
	})
}

// unavailable is a 503 whose cause stays inside.
func unavailable(detail string, cause error) *api.Error {
	return &api.Error{Code: api.CodeUnavailable, Detail: detail, Cause: cause, RetryAfter: 1}
}

func noServer() *api.Error {
	return &api.Error{Code: api.CodeNoHealthyServer, Detail: "no server takes new sessions now; try again in a moment", RetryAfter: 1}
}

// invalid returns an error naming the fields, nil if there are none.
func invalid(fields ...api.FieldError) error {
	if len(fields) == 0 {
		return nil
	}
	return &api.Error{Code: api.CodeInvalidRequest, Detail: fields[0].Location + ": " + fields[0].Message, Fields: fields}
}

// asError returns err as the edge's typed error.
func asError(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, api.ErrUnknownKey):
		return unavailable("the key that signed the token is not known here yet", err)
	default:
		return unavailable("the request could not be served", err)
	}
}
