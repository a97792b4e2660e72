package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Bounds of ending many sessions, so that refreshes go on beside it: one page at a time in a
// service, with so many writes at once.
const (
	maxRevokePage = 500
	revokePage    = 250
	revokeWriters = 4
	maxBy         = 128
	// passOnTimeout is how long an owner in another region may take for those of one page.
	passOnTimeout = 3 * time.Second
)

// reasonOperator is the reason of a session that an operator has ended.
const reasonOperator = "operator"

// tellLife is how long a revocation is of interest to regional servers: no access token that
// was given before it lives longer.
const tellLife = MaxAccessTTL + time.Minute + api.Skew

// RevokeRequest ends sessions: those of Sessions, or those that Filter means, page by page.
type RevokeRequest struct {
	// Sessions are at most 500 ids.
	Sessions []string `json:"sessions,omitempty"`
	// Filter names at least one of subject, org, server and region.
	Filter *SessionFilter `json:"filter,omitempty"`
	// Limit is how many of those that Filter means are ended in this page, 1 to 500; 0: 250.
	// Cursor is that of the answer before; empty at first. After an error, begin again: what has
	// ended stays so.
	Limit  int    `json:"limit,omitempty"`
	Cursor string `json:"cursor,omitempty"`
	// By says who asks, for the record.
	By string `json:"by,omitempty"`
}

// RevokeReply says what has become of the sessions. Those that have ended have durably, and the
// region's servers know or can read of it.
type RevokeReply struct {
	Region string `json:"region"`
	// Ended is how many have ended by this request, Already how many had before; they were told
	// of again.
	Ended   int `json:"ended"`
	Already int `json:"already"`
	// Unknown are those without a record here, Failed those that go on.
	Unknown []string        `json:"unknown,omitempty"`
	Failed  []RevokeFailure `json:"failed,omitempty"`
	// Scanned is how many records were looked at; Cursor goes on from here; empty: this was all.
	Scanned int    `json:"scanned,omitempty"`
	Cursor  string `json:"cursor,omitempty"`
}

// RevokeFailure says why a session goes on.
type RevokeFailure struct {
	Session string `json:"session"`
	Reason  string `json:"reason"`
}

func (q *RevokeRequest) validate() error {
	switch {
	case (len(q.Sessions) > 0) == (q.Filter != nil):
		return wrong("sessions", "want either sessions or a filter")
	case len(q.Sessions) > maxRevokePage:
		return wrong("sessions", fmt.Sprintf("want at most %d", maxRevokePage))
	case q.Limit < 0 || q.Limit > maxRevokePage:
		return wrong("limit", fmt.Sprintf("want 1 to %d", maxRevokePage))
	case len(q.By) > maxBy:
		return wrong("by", fmt.Sprintf("want at most %d bytes", maxBy))
	}
	if slices.ContainsFunc(q.Sessions, func(id string) bool { return !events.ValidToken(id) }) {
		return notASession()
	}
	if q.Filter == nil {
		return nil
	}
	if *q.Filter == (SessionFilter{State: q.Filter.State}) {
		return wrong("filter", "want at least one of subject, org, server and region")
	}
	if q.Filter.State != "" {
		return wrong("filter.state", "only sessions that go on can be ended")
	}
	return q.Filter.Validate()
}

// revoke answers MethodRevokeSessions.
func (o operatorCall) revoke(ctx context.Context, q RevokeRequest) (RevokeReply, error) {
	if err := q.validate(); err != nil {
		return RevokeReply{}, err
	}
	at, err := parseCursor(q.Cursor)
	if err != nil {
		return RevokeReply{}, err
	}
	if o.call.hops == 0 { // who passes sessions on holds up nobody, so that no two regions wait for each other
		select {
		case o.s.revoking <- struct{}{}:
			defer func() { <-o.s.revoking }()
		case <-ctx.Done():
			return RevokeReply{}, unavailable("others are ending sessions here", ctx.Err())
		}
	}
	r := &revocation{operatorCall: o, by: q.By, reply: RevokeReply{Region: o.s.cfg.Region}}
	ids := slices.Compact(slices.Sorted(slices.Values(q.Sessions)))
	if q.Filter != nil {
		if ids, err = r.find(ctx, &q, at); err != nil {
			return RevokeReply{}, unavailable("the sessions could not be read", err)
		}
	}
	r.end(ctx, ids)
	if err := r.tell(ctx); err != nil {
		return RevokeReply{}, err
	}
	return r.reply, nil
}

// revocation is one request that ends sessions.
type revocation struct {
	operatorCall
	by string

	// mu guards the fields below while several sessions are ended at once: what is answered,
	// the sessions whose end is to be told here, and the records of those that have just ended.
	mu     sync.Mutex
	reply  RevokeReply
	told   []string
	events []events.Event
}

// find returns the next sessions that the filter means. Those that have ended a moment ago are
// told of again: perhaps whoever ended them was killed before that.
func (r *revocation) find(ctx context.Context, q *RevokeRequest, at cursor) (ids []string, err error) {
	limit := q.Limit
	if limit == 0 {
		limit = revokePage
	}
	if at.next == 0 {
		if at.until, err = r.s.cfg.Ledger.End(ctx); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	at.next, err = r.s.cfg.Ledger.Scan(ctx, r.jurisdiction, at.next, func(e Entry) bool {
		r.reply.Scanned++
		switch {
		case e.Fault != nil || !q.Filter.matches(&e.Record):
		case e.Record.State != sessions.StateRevoked:
			ids = append(ids, e.Record.Session)
		case e.At <= at.until && began.Sub(e.Written) < tellLife:
			r.reply.Already++
			r.told = append(r.told, e.Record.Session)
		}
		return len(ids) < limit && len(r.told) < maxRevokePage && !spent(r.reply.Scanned, began)
	})
	r.reply.Cursor = at.String()
	return ids, err
}

// end ends sessions, a few at a time. Those of another region are passed on to it; if it is out
// of reach they are ended here: what is revoked in one place becomes so in all (V8).
func (r *revocation) end(ctx context.Context, ids []string) {
	elsewhere := map[string][]sessions.Record{}
	few(ids, func(id string) {
		rec, _, err := r.s.cfg.Store.Get(ctx, sessions.Key{Jurisdiction: r.jurisdiction, Session: id})
		owner := rec.Epoch.Region
		switch {
		case isNotFound(err):
			r.note(func() { r.reply.Unknown = append(r.reply.Unknown, id) })
		case err != nil:
			r.failed(ctx, id, err)
		case passedOn(&rec, r.s.cfg.Region):
			r.note(func() { elsewhere[owner] = append(elsewhere[owner], rec) })
		default:
			r.endHere(ctx, rec)
		}
	})
	for owner, records := range elsewhere {
		if !r.passOn(ctx, owner, records) {
			few(records, func(rec sessions.Record) { r.endHere(ctx, rec) })
		}
	}
	slices.Sort(r.reply.Unknown)
	slices.SortFunc(r.reply.Failed, func(a, b RevokeFailure) int { return strings.Compare(a.Session, b.Session) })
}

// few does something with each item, for a few at a time.
func few[T any](items []T, do func(T)) {
	var g errgroup.Group
	g.SetLimit(revokeWriters)
	for _, item := range items {
		g.Go(func() error { do(item); return nil })
	}
	_ = g.Wait() // nothing fails
}

// endHere ends a session by this region's record of it.
func (r *revocation) endHere(ctx context.Context, before sessions.Record) {
	rec, ended, err := r.s.owner.Revoke(ctx, before.Key(), before)
	if err != nil {
		r.failed(ctx, before.Session, err)
		return
	}
	r.note(func() {
		r.told = append(r.told, rec.Session)
		if !ended {
			r.reply.Already++
			return
		}
		r.reply.Ended++
		e := r.s.sessionEvent(&rec, events.SessionRevoked, reasonOperator, time.Now())
		e.By = r.by
		r.events = append(r.events, e)
	})
}

func (r *revocation) note(what func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what()
}

func (r *revocation) failed(ctx context.Context, id string, err error) {
	r.s.log.LogAttrs(ctx, slog.LevelWarn, "session could not be ended", slog.String("session", id), slog.String("error", err.Error()))
	r.note(func() {
		r.reply.Failed = append(r.reply.Failed, RevokeFailure{Session: id, Reason: "the session store did not answer, or not with a record"})
	})
}

// passOn has another region end sessions that it owns, and reports whether it has ended all.
func (r *revocation) passOn(ctx context.Context, owner string, records []sessions.Record) bool {
	c := r.call
	if c.hops++; c.hops > api.MaxHops {
		return false
	}
	q := RevokeRequest{By: r.by}
	for i := range records {
		q.Sessions = append(q.Sessions, records[i].Session)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, passOnTimeout)
	defer cancel()
	m, err := r.s.ask(ctx, events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: r.jurisdiction, Region: owner, Method: MethodRevokeSessions,
	}, c.headers(), body)
	var answer RevokeReply
	if err != nil || m.status != http.StatusOK || json.Unmarshal(m.body, &answer) != nil || len(answer.Unknown)+len(answer.Failed) > 0 {
		return false
	}
	r.reply.Ended += answer.Ended
	r.reply.Already += answer.Already
	return true
}

// tell tells every region of the sessions that have ended. What is acknowledged holds at once
// in this region: its servers hear it, or read it in the stream.
func (r *revocation) tell(ctx context.Context) error {
	now := time.Now()
	var failure error
	for ids := range slices.Chunk(r.told, events.MaxRevoked) {
		e := r.s.revokedEvent(now, ids...)
		if err := r.s.outbox.send(ctx, e); err != nil {
			r.s.outbox.put(e) // the operator may not try again
			failure = err
		}
	}
	r.s.outbox.put(r.events...)
	if r.reply.Ended > 0 {
		r.s.log.LogAttrs(ctx, slog.LevelInfo, "sessions ended by an operator",
			slog.Int("sessions", r.reply.Ended), slog.String("by", r.by))
	}
	if failure != nil {
		return unavailable(fmt.Sprintf("%d sessions have ended, but the region's servers could not be told; try again", r.reply.Ended), failure)
	}
	return nil
}

func isNotFound(err error) bool { return errors.Is(err, sessions.ErrNotFound) }
