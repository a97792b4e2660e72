package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// The methods of rpc.tokens.<jurisdiction>.<region> that are for operators and for other token
// services. None of them is a route of HTTP, nor one that a regional server passes on: who may
// ask is settled by NATS permissions (docs/nats.md).
const (
	// MethodSessions lists sessions: SessionsRequest, SessionsReply.
	MethodSessions = "sessions"
	// MethodSession shows one: SessionRequest, SessionReply.
	MethodSession = "session"
	// MethodRevokeSessions ends sessions: RevokeRequest, RevokeReply.
	MethodRevokeSessions = "revoke_sessions"
)

// OperatorMethods lists what ServeOperator answers.
func OperatorMethods() []string {
	return []string{MethodSessions, MethodSession, MethodRevokeSessions}
}

// ServeOperator answers one request of an operator about the sessions of a jurisdiction that
// this region has records of. Every refusal is an answer, a problem document with its status.
func (s *Service) ServeOperator(ctx context.Context, jurisdiction, method string, header map[string][]string, data []byte) (map[string][]string, []byte) {
	c := s.callFrom(header, time.Now())
	ctx, cancel := context.WithDeadline(ctx, c.deadline)
	defer cancel()
	m, err := s.operate(ctx, operatorCall{s: s, call: c, jurisdiction: jurisdiction}, method, data)
	if err != nil {
		m = s.refusal(ctx, method, err)
	}
	return s.overNATS(m)
}

// callFrom reads what a request of one of ours tells of itself.
func (s *Service) callFrom(header map[string][]string, now time.Time) call {
	r := (&http.Request{Header: http.Header{}}).WithContext(context.WithValue(context.Background(), busKey{}, true))
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	return s.callOf(r, now)
}

// operatorCall is one request of an operator.
type operatorCall struct {
	s            *Service
	call         call
	jurisdiction string
}

func (s *Service) operate(ctx context.Context, o operatorCall, method string, data []byte) (message, error) {
	if len(data) > api.MaxBody {
		return message{}, tooLarge()
	}
	if !events.ValidToken(o.jurisdiction) {
		return message{}, wrong("jurisdiction", "is no name of one")
	}
	switch method {
	case MethodSessions:
		return answerOperator(ctx, data, o.list)
	case MethodSession:
		return answerOperator(ctx, data, o.show)
	case MethodRevokeSessions:
		return answerOperator(ctx, data, o.revoke)
	default:
		return message{}, &api.Error{Code: api.CodeInvalidRequest, Detail: fmt.Sprintf("unknown method %q", method)}
	}
}

// answerOperator decodes a request, answers it and encodes the reply. A field that is not known
// is refused: it may be the one that was to keep sessions from being meant.
func answerOperator[In, Out any](ctx context.Context, data []byte, fn func(context.Context, In) (Out, error)) (message, error) {
	var in In
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return message{}, &api.Error{Code: api.CodeInvalidRequest, Detail: "body: " + err.Error()}
	}
	out, err := fn(ctx, in)
	if err != nil {
		return message{}, err
	}
	return success(out)
}

// Bounds of one answer, so that it is a message of NATS and takes seconds at most.
const (
	maxPage      = 1000
	maxPageBytes = 512 << 10
	maxScanned   = 50_000
	maxScanTime  = 2 * time.Second
)

// SessionsRequest asks for sessions, oldest change first: those that the region owns, and those
// that have ended. Where a state is given, for all records of that state.
type SessionsRequest struct {
	SessionFilter
	// Limit is how many are wanted at most, 1 to 1000; 0: 100.
	Limit int `json:"limit,omitempty"`
	// Count asks only how many there are.
	Count bool `json:"count,omitempty"`
	// Cursor is that of the answer before; empty at first.
	Cursor string `json:"cursor,omitempty"`
}

// SessionsReply is a page of sessions. It may hold fewer than were wanted, even none, and go on.
type SessionsReply struct {
	Region   string         `json:"region"`
	Sessions []SessionEntry `json:"sessions"`
	// Matched is how many were found in this page, listed or only counted, Ended how many of them
	// are revoked; Scanned how many records were looked at, Unreadable how many of those are none.
	Matched    int `json:"matched"`
	Ended      int `json:"ended"`
	Scanned    int `json:"scanned"`
	Unreadable int `json:"unreadable,omitempty"`
	// Cursor goes on from here; empty: this was all. A session that changes meanwhile comes again.
	Cursor string `json:"cursor,omitempty"`
}

// SessionEntry is a session in a list.
type SessionEntry struct {
	Session string         `json:"session"`
	State   sessions.State `json:"state"`
	Subject string         `json:"subject"`
	Org     string         `json:"org,omitempty"`
	// Server is the lock, ServerRegion its region; Region owns the session.
	Server       string `json:"server"`
	ServerRegion string `json:"server_region"`
	Region       string `json:"region"`
	// StartedAt is the login, RefreshedAt the last rotation, ExpiresAt the absolute end.
	StartedAt   time.Time `json:"started_at"`
	RefreshedAt time.Time `json:"refreshed_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

func entryOf(r *sessions.Record) SessionEntry {
	return SessionEntry{
		Session: r.Session, State: r.State, Subject: r.Subject, Org: r.Org,
		Server: r.Server, ServerRegion: r.Answer.Region, Region: r.Epoch.Region,
		StartedAt: r.StartedAt, RefreshedAt: r.MintedAt, ExpiresAt: r.ExpiresAt,
	}
}

// list answers MethodSessions.
func (o operatorCall) list(ctx context.Context, q SessionsRequest) (reply SessionsReply, err error) {
	if err := q.Validate(); err != nil {
		return reply, err
	}
	if q.Limit < 0 || q.Limit > maxPage {
		return reply, wrong("limit", fmt.Sprintf("want 1 to %d", maxPage))
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	at, err := parseCursor(q.Cursor)
	if err != nil {
		return reply, err
	}
	reply.Region, reply.Sessions = o.s.cfg.Region, []SessionEntry{}
	began, size := time.Now(), 0
	at.next, err = o.s.cfg.Ledger.Scan(ctx, o.jurisdiction, at.next, func(e Entry) bool {
		reply.Scanned++
		switch {
		case e.Fault != nil:
			reply.Unreadable++
		case q.State == "" && passedOn(&e.Record, o.s.cfg.Region): // its owner lists it
		case q.matches(&e.Record):
			reply.Matched++
			if e.Record.State == sessions.StateRevoked {
				reply.Ended++
			}
			if !q.Count {
				entry := entryOf(&e.Record)
				reply.Sessions = append(reply.Sessions, entry)
				size += sizeOf(&entry)
			}
		}
		return len(reply.Sessions) < q.Limit && size < maxPageBytes && !spent(reply.Scanned, began)
	})
	if err != nil {
		return reply, unavailable("the sessions could not be read", err)
	}
	reply.Cursor = at.String()
	return reply, nil
}

// passedOn reports whether a record only says which other region owns the session.
func passedOn(r *sessions.Record, region string) bool {
	return r.State != sessions.StateRevoked && r.Epoch.Region != region
}

// spent reports whether a walk has to be cut into another page. The clock is read now and then.
func spent(scanned int, began time.Time) bool {
	return scanned >= maxScanned || scanned%256 == 0 && time.Since(began) > maxScanTime
}

// sizeOf bounds an entry's JSON, in which one byte of a subject may become six.
func sizeOf(e *SessionEntry) int {
	return 320 + 6*len(e.Subject) + len(e.Session) + len(e.Org) + len(e.Server) + len(e.ServerRegion) + len(e.Region)
}

// SessionRequest asks for one session.
type SessionRequest struct {
	Session string `json:"session"`
}

// SessionReply is the record of a session without what tokens are made or known by.
type SessionReply struct {
	Jurisdiction string `json:"jurisdiction"`
	SessionEntry
	Epoch      events.Epoch `json:"epoch"`
	Generation uint64       `json:"generation"`
	ClientID   string       `json:"client_id"`
	Scope      string       `json:"scope,omitempty"`
	// Decision and Reason are of the last answer; AccessExpiresAt and RefreshExpiresAt are its tokens'.
	Decision         string              `json:"decision"`
	Reason           string              `json:"reason"`
	ServerURL        string              `json:"server_url"`
	Fallbacks        []sessions.Fallback `json:"fallbacks"`
	AccessExpiresAt  time.Time           `json:"access_expires_at"`
	RefreshExpiresAt time.Time           `json:"refresh_expires_at"`
	MovedAt          time.Time           `json:"moved_at,omitzero"`
	// Home is the region that load or a failure sent it away from, empty if none did; Measured the times
	// that its client told last.
	Home          string             `json:"home,omitempty"`
	Measured      *sessions.Measured `json:"measured,omitempty"`
	CriticalSince time.Time          `json:"critical_since,omitzero"`
	Bookmark      string             `json:"bookmark,omitempty"`
}

// show answers MethodSession. A session without a record here is "not found" by an empty state.
func (o operatorCall) show(ctx context.Context, q SessionRequest) (reply SessionReply, err error) {
	if !events.ValidToken(q.Session) {
		return reply, notASession()
	}
	rec, _, err := o.s.cfg.Store.Get(ctx, sessions.Key{Jurisdiction: o.jurisdiction, Session: q.Session})
	switch {
	case isNotFound(err):
		return SessionReply{SessionEntry: SessionEntry{Session: q.Session}, Fallbacks: []sessions.Fallback{}}, nil
	case err != nil:
		return reply, unavailable("the session could not be read", err)
	}
	a := &rec.Answer
	return SessionReply{
		Jurisdiction: rec.Jurisdiction, SessionEntry: entryOf(&rec), Epoch: rec.Epoch, Generation: rec.Gen,
		ClientID: rec.ClientID, Scope: rec.Scope, Decision: a.Decision, Reason: a.Reason, ServerURL: a.URL,
		Fallbacks: a.Fallbacks, AccessExpiresAt: a.AccessExp, RefreshExpiresAt: a.RefreshExp,
		MovedAt: rec.MovedAt, Home: rec.Home, Measured: rec.Measured.At(time.Now()), CriticalSince: rec.CriticalSince, Bookmark: rec.Bookmark,
	}, nil
}

func notASession() error {
	return wrong("session", fmt.Sprintf("want a session's id: 1 to %d of a-z 0-9 - _", events.MaxToken))
}
