package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// Request is one refresh as the owner sees it.
type Request struct {
	Key   Key
	Token Stamp
	// Critical is criticalTaskInProgress; Bookmark the session's newest position, if told.
	Critical bool
	Bookmark string
	// Measured are the times that the client tells; nil: none, and those of the record count on.
	Measured *Measured
	// Deadline is the absolute time after which nothing is answered or written (V3).
	Deadline time.Time
	// Floor is the lowest epoch that the passing server accepts; nothing below is issued
	// (V10).
	Floor events.Epoch
	// Rebuilt returns the record that the token's claims alone give, for a store that lost it: a
	// record is too large to come along with every refresh. nil: there is none.
	Rebuilt func() Record
	// Held is what the cache handed out for the token. nil: the store is read.
	Held *Hold
}

// rebuilt returns what the token says of the session.
func (r *Request) rebuilt() Record {
	if r.Rebuilt == nil {
		return Record{}
	}
	return r.Rebuilt()
}

// Decider gives what the owner cannot decide itself. It is asked again, with the newer
// record, whenever another write came first.
type Decider interface {
	// Dead reports whether the session's server is dead in this judgement, by the view or
	// by a probe. Its error ends the refresh with nothing written.
	Dead(ctx context.Context, rec Record) (bool, error)
	// Answer decides where the session goes on. A supersede inside the window has to be a
	// move: with no other server it fails. Its error ends the refresh with nothing written.
	Answer(ctx context.Context, rec Record, j Judgement) (Answer, error)
	Stayer
}

// Stayer gives what it takes to leave a session where it is.
type Stayer interface {
	// Stay returns the answer of a session that stays on its server, for a reason of a handover
	// that was given up.
	Stay(rec Record) Answer
	// Sign sets the hash of the refresh token of a record about to be written.
	Sign(rec *Record) error
}

// Busier is a Decider with work that it can do while a record is being written, before that is
// known to have succeeded.
type Busier interface {
	Decider
	Meanwhile(rec *Record)
}

// Outcome is what a refresh came to.
type Outcome struct {
	Judgement Judgement
	// Record is the session afterwards; the answer to the client is its.
	Record Record
	// Written says that this call changed the record (a replay did not).
	Written bool
	// Owner is the region that owns the session where the verdict is Elsewhere.
	Owner string
	// Cause is why the store could not be read or written where the verdict is Unrotated for that.
	Cause error
}

// Refresh redeems a token: read, judge, decide, one compare-and-swap; whenever that fails
// or its outcome is unknown, all again from the read. The verdict in the outcome says what
// to answer: the tokens of the record after Rotate, Replay and Supersede, a refusal after
// the others. Elsewhere asks the caller to pass the request on to the region of Owner and, if
// that is out of reach of everybody, to take over. Unrotated has the client go on where it is,
// if its server lives: nothing was settled. Errors: ErrUnavailable, ErrDeadline, ErrFloor,
// ErrStranded, or the decider's.
func (o *Owner) Refresh(ctx context.Context, req Request, d Decider) (Outcome, error) {
	var out Outcome
	if req.Held == nil {
		req.Held = o.Cache.hold(req.Key)
	}
	defer req.Held.Release()
	err := retry(ctx, func() (err error) {
		out, err = o.refresh(ctx, req, d)
		return err
	})
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrNewer) {
		if out, ok := o.unrotated(ctx, req); ok {
			out.Cause = err
			return out, nil
		}
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("refresh session %s: %w", req.Key, err)
	}
	return out, nil
}

func (o *Owner) refresh(ctx context.Context, req Request, d Decider) (Outcome, error) {
	if out, known, err := o.refreshKnown(ctx, req, d); known || err != nil {
		return out, err
	}
	s, err := o.situate(ctx, req.Key)
	req.Held.saw(s.Record)
	if err != nil {
		return Outcome{}, err
	}
	if o.late(req.Deadline) {
		return Outcome{}, ErrDeadline
	}
	rec := s.Record
	proven := rec != nil && rec.State == StatePrepared && rec.Epoch == req.Token.Epoch
	switch {
	case s.Revoked:
		return s.refuse(req, Ended), nil
	case proven: // only a committed handover gives out tokens of its epoch
		active := rec.Activate()
		rec = &active
		if s.rev, err = o.write(ctx, active, s.rev, req.Deadline); err != nil {
			return Outcome{}, err
		}
	case s.Owner(req.Token) != o.Region:
		out := s.refuse(req, Elsewhere)
		out.Owner = s.Owner(req.Token)
		return out, nil
	}
	j := o.judge(rec, req.Token, o.Region, o.Now())
	if rec == nil {
		lost := req.rebuilt()
		rec = &lost
	}
	switch j.Verdict {
	case Rotate, Replay, Supersede:
		if rec.State == StateMoving && !j.Lost { // a later token of this region's own says that the handover is over
			return o.whileMoving(ctx, req, d, *rec, s.rev, j)
		}
		return o.redeem(ctx, req, d, *rec, s.rev, j)
	case Reused:
		return o.reuse(ctx, req, *rec, s.rev, j)
	default:
		return Outcome{Judgement: j, Record: *rec}, nil
	}
}

// refreshKnown redeems the token of a record that is remembered, and reports whether there was
// one. Only a rotation is done by it: whatever else is to be said of a token, also that there is no
// way to rotate it, the store says.
func (o *Owner) refreshKnown(ctx context.Context, req Request, d Decider) (out Outcome, known bool, err error) {
	rec, rev, known := req.Held.take()
	switch {
	case !known, rec.State != StateActive, rec.Epoch.Region != o.Region:
		return Outcome{}, false, nil
	case o.late(req.Deadline):
		return Outcome{}, false, ErrDeadline
	}
	j := o.judge(rec, req.Token, o.Region, o.Now())
	if j.Verdict != Rotate {
		return Outcome{}, false, nil
	}
	out, err = o.redeem(ctx, req, d, *rec, rev, j)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, ErrConflict), errors.Is(err, ErrUnavailable), errors.Is(err, ErrDeadline), errors.Is(err, ErrStranded):
		return out, true, err
	}
	return Outcome{}, false, nil // refused by a record that may be over: what it forbids, the store's may not
}

// refuse returns the outcome of a token that is not judged here.
func (s *situation) refuse(req Request, v Verdict) Outcome {
	out := Outcome{Judgement: Judgement{Verdict: v, Token: req.Token}}
	if s.Record != nil {
		out.Record = *s.Record
	} else {
		out.Record = req.rebuilt()
	}
	return out
}

// redeem replays, or makes and writes the next record.
func (o *Owner) redeem(ctx context.Context, req Request, d Decider, rec Record, rev Revision, j Judgement) (Outcome, error) {
	dead, err := d.Dead(ctx, rec)
	if err != nil {
		return Outcome{}, err
	}
	if dead {
		j = j.Forced()
	}
	if j.Verdict == Replay {
		return o.replay(ctx, req, rec, rev, j)
	}
	now := o.Now()
	rec = rec.Claim(req.Critical, now)
	if req.Bookmark != "" {
		rec.Bookmark = req.Bookmark
	}
	rec.Measured = cmp.Or(req.Measured, rec.Measured.At(now))
	answer, err := d.Answer(ctx, rec, j)
	if err != nil {
		return Outcome{}, err
	}
	if o.Peers != nil && answer.Region != o.Region {
		return o.handOver(ctx, req, d, rec, rev, j, answer, dead)
	}
	next := rec.Next(j, o.Region, answer, o.NewOp(), now)
	if j.Verdict == Supersede && j.Fresh && next.Epoch == rec.Epoch {
		return Outcome{}, errors.New("supersede inside the window: the decision is no move")
	}
	if next.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	if err := d.Sign(&next); err != nil {
		return Outcome{}, fmt.Errorf("sign tokens: %w", err)
	}
	if _, err := o.rewrite(ctx, &next, rev, req.Deadline, req.Held, d); err != nil {
		return Outcome{}, err
	}
	return Outcome{Judgement: j, Record: next, Written: true}, nil
}

// replay repeats the answer. A critical task that only the repeat tells of is recorded
// before it (V12).
func (o *Owner) replay(ctx context.Context, req Request, rec Record, rev Revision, j Judgement) (Outcome, error) {
	if rec.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	if o.late(req.Deadline) {
		return Outcome{}, ErrDeadline // the probe took too long
	}
	if !req.Critical || !rec.CriticalSince.IsZero() {
		return Outcome{Judgement: j, Record: rec}, nil
	}
	rec = rec.Claim(true, o.Now())
	rec.Op = o.NewOp()
	if _, err := o.rewrite(ctx, &rec, rev, req.Deadline, req.Held, nil); err != nil {
		return Outcome{}, err
	}
	return Outcome{Judgement: j, Record: rec}, nil
}

// reuse ends a session whose old token came back.
func (o *Owner) reuse(ctx context.Context, req Request, rec Record, rev Revision, j Judgement) (Outcome, error) {
	rec = rec.Revoke(o.NewOp())
	if _, err := o.write(ctx, rec, rev, req.Deadline); err != nil {
		return Outcome{}, err
	}
	return Outcome{Judgement: j, Record: rec, Written: true}, nil
}
