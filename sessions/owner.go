package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// Faults that callers branch on.
var (
	// ErrNotFound says that the store has no record under the key.
	ErrNotFound = errors.New("session not found")
	// ErrConflict says that a write was not done, for another came before it.
	ErrConflict = errors.New("session changed meanwhile")
	// ErrUnavailable says that the store could not answer; whether a write was done is
	// unknown.
	ErrUnavailable = errors.New("session store unavailable")
	// ErrDeadline says that the request's deadline passed before its change was known to be
	// written (V3).
	ErrDeadline = errors.New("request deadline passed")
	// ErrFloor says that the server that passed the request on has seen a higher epoch than
	// any that could be issued here (V10).
	ErrFloor = errors.New("lock floor above the session's epoch")
)

// Revision is an opaque compare-and-swap token: what a Store's Get or Put returned, to be
// handed to the next Put. The zero Revision stands for "no record".
type Revision uint64

// Store holds the records that one region owns, durably.
//
// Get returns what the last acknowledged Put wrote, never an older replica's state, or
// ErrNotFound. Put writes rec if the record's revision is still rev and returns the new one;
// on ErrConflict nothing was written; on any other error it is unknown whether it was, and
// the caller reads again. Neither retries. Put keeps the record until its ExpiresAt + Keep.
// Both are safe for concurrent use and end with ctx.
type Store interface {
	Get(ctx context.Context, key Key) (Record, Revision, error)
	Put(ctx context.Context, rec Record, rev Revision) (Revision, error)
}

// Beginner is a Store whose writes go on while their caller does something else. Begin is a Put
// of a record that is encoded already, as by Record.Append, and returns at once; what Put would
// return, Wait does, and it has to be called. Until then data is not changed, nor kept afterwards.
type Beginner interface {
	Store
	Begin(rec *Record, data []byte, rev Revision) Pending
}

// Pending is a write under way.
type Pending interface {
	Wait(ctx context.Context) (Revision, error)
}

// Owner changes the sessions of one region.
type Owner struct {
	region string
	store  Store
	cache  *Cache
	now    func() time.Time
	op     func() string
	// judge is Judge; tests take one rule out of it at a time.
	judge func(rec *Record, t Stamp, region string, now time.Time) Judgement
}

// Config is what an Owner needs; every field without a stated zero value is required.
type Config struct {
	// Region is the region whose sessions these are.
	Region string
	Store  Store
	// Cache remembers what was written. nil: every refresh reads the store.
	Cache *Cache
	// Now tells the time, NewOp a fresh name for a write.
	Now   func() time.Time
	NewOp func() string
}

// NewOwner returns the owner of a region's sessions. It fails if a field is missing.
func NewOwner(c Config) (*Owner, error) {
	if c.Region == "" || c.Store == nil || c.Now == nil || c.NewOp == nil {
		return nil, errors.New("new session owner: region, store, now and op are required")
	}
	return &Owner{region: c.Region, store: c.Store, cache: c.Cache, now: c.Now, op: c.NewOp, judge: Judge}, nil
}

// Request is one refresh as the owner sees it.
type Request struct {
	Key   Key
	Token Stamp
	// Critical is criticalTaskInProgress; Bookmark the session's newest position, if told.
	Critical bool
	Bookmark string
	// Deadline is the absolute time after which nothing is answered or written (V3).
	Deadline time.Time
	// Floor is the lowest epoch that the passing server accepts; nothing below is issued
	// (V10).
	Floor events.Epoch
	// Rebuilt is the record that the token's claims alone give, for a store that lost it.
	Rebuilt Record
	// Held is what the cache handed out for the token. nil: the store is read.
	Held *Hold
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
}

// Bounds of how often a change is judged again. Each loss to another is that one's success,
// so attempts is reached only if something is broken; a store that refuses writes and still
// answers reads is given up sooner.
const (
	attempts = 64
	unsures  = 3
)

// errUnsure marks a write of unknown outcome that was not there when it was looked for.
var errUnsure = errors.New("the write has not been seen")

// Refresh redeems a token: read, judge, decide, one compare-and-swap; whenever that fails
// or its outcome is unknown, all again from the read. The verdict in the outcome says what
// to answer: the tokens of the record after Rotate, Replay and Supersede, a refusal after
// the others. Errors: ErrUnavailable, ErrDeadline, ErrFloor, or the decider's.
func (o *Owner) Refresh(ctx context.Context, req Request, d Decider) (Outcome, error) {
	var out Outcome
	if req.Held == nil {
		req.Held = o.cache.hold(req.Key)
	}
	defer req.Held.Release()
	err := retry(ctx, func() (err error) {
		out, err = o.refresh(ctx, req, d)
		return err
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("refresh session %s: %w", req.Key, err)
	}
	return out, nil
}

// retry repeats a change that lost to another, or whose outcome is unknown: the new
// judgement finds the write, if it was done, and repeats its answer.
func retry(ctx context.Context, change func() error) error {
	var err error
	for tried, unsure := 0, 0; tried < attempts && unsure < unsures; tried++ {
		if err = change(); !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errUnsure) {
			unsure++
		}
	}
	return err
}

func (o *Owner) refresh(ctx context.Context, req Request, d Decider) (Outcome, error) {
	rec, rev, known := req.Held.take()
	if !known {
		var err error
		if rec, rev, err = o.read(ctx, req.Key); err != nil {
			return Outcome{}, err
		}
	}
	if o.late(req.Deadline) {
		return Outcome{}, ErrDeadline
	}
	j := o.judge(rec, req.Token, o.region, o.now())
	if known && j.Verdict != Rotate { // the store shall say so
		return o.refresh(ctx, req, d)
	}
	if rec == nil {
		lost := req.Rebuilt
		rec = &lost
	}
	switch j.Verdict {
	case Rotate, Replay, Supersede:
		return o.redeem(ctx, req, d, *rec, rev, j)
	case Reused:
		return o.reuse(ctx, req, *rec, rev, j)
	default:
		return Outcome{Judgement: j, Record: *rec}, nil
	}
}

// late reports whether a deadline has passed; the zero one never does.
func (o *Owner) late(deadline time.Time) bool {
	return !deadline.IsZero() && o.now().After(deadline)
}

// read returns the record, nil where the store has none.
func (o *Owner) read(ctx context.Context, key Key) (*Record, Revision, error) {
	rec, rev, err := o.store.Get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read session %s: %w", key, err)
	case rec.Version > RecordVersion:
		return nil, 0, fmt.Errorf("read session %s: %w: record of version %d, this build knows up to %d",
			key, ErrUnavailable, rec.Version, RecordVersion)
	}
	return &rec, rev, nil
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
	now := o.now()
	rec = rec.Claim(req.Critical, now)
	if req.Bookmark != "" {
		rec.Bookmark = req.Bookmark
	}
	answer, err := d.Answer(ctx, rec, j)
	if err != nil {
		return Outcome{}, err
	}
	next := rec.Next(j, o.region, answer, o.op(), now)
	if j.Verdict == Supersede && j.Fresh && next.Epoch == rec.Epoch {
		return Outcome{}, errors.New("supersede inside the window: the decision is no move")
	}
	if next.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	if err := d.Sign(&next); err != nil {
		return Outcome{}, fmt.Errorf("sign tokens: %w", err)
	}
	rev, err = o.write(ctx, &next, rev, req.Deadline, req.Held, d)
	if err != nil {
		return Outcome{}, err
	}
	req.Held.keep(&next, rev)
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
	rec = rec.Claim(true, o.now())
	rec.Op = o.op()
	rev, err := o.write(ctx, &rec, rev, req.Deadline, req.Held, nil)
	if err != nil {
		return Outcome{}, err
	}
	req.Held.keep(&rec, rev)
	return Outcome{Judgement: j, Record: rec}, nil
}

// reuse ends a session whose old token came back.
func (o *Owner) reuse(ctx context.Context, req Request, rec Record, rev Revision, j Judgement) (Outcome, error) {
	rec = rec.Revoke(o.op())
	if _, err := o.write(ctx, &rec, rev, req.Deadline, req.Held, nil); err != nil {
		return Outcome{}, err
	}
	return Outcome{Judgement: j, Record: rec, Written: true}, nil
}

// write puts the record unless the deadline has passed, which is asked again right here
// (V3), and returns its revision. An unknown outcome is resolved by reading once more: if the
// record's op is ours the write was done; if not, the caller judges again, for op settles only
// the last write.
func (o *Owner) write(ctx context.Context, rec *Record, rev Revision, deadline time.Time, held *Hold, d Decider) (Revision, error) {
	if o.late(deadline) {
		return 0, ErrDeadline
	}
	next, err := o.put(ctx, rec, rev, held, d)
	if err == nil || errors.Is(err, ErrConflict) {
		return next, err
	}
	seen, next, readErr := o.store.Get(ctx, rec.Key())
	switch {
	case readErr == nil && seen.Op == rec.Op:
		return next, nil
	case readErr == nil:
		return 0, fmt.Errorf("%w: %w: %w", ErrConflict, errUnsure, err)
	default:
		return 0, fmt.Errorf("write session %s: %w", rec.Key(), err)
	}
}

// put writes the record while the decider, if there is one, does what it has to do besides.
func (o *Owner) put(ctx context.Context, rec *Record, rev Revision, held *Hold, d Decider) (Revision, error) {
	busy, ok := d.(Busier)
	if !ok {
		return o.store.Put(ctx, *rec, rev)
	}
	store, ok := o.store.(Beginner)
	if !ok {
		busy.Meanwhile(rec)
		return o.store.Put(ctx, *rec, rev)
	}
	data, err := held.encode(rec)
	if err != nil {
		return 0, fmt.Errorf("encode session %s: %w", rec.Key(), err)
	}
	pending := store.Begin(rec, data, rev)
	busy.Meanwhile(rec)
	return pending.Wait(ctx)
}

// Create writes a session's first record. Its errors are those of Store.Put.
func (o *Owner) Create(ctx context.Context, rec Record) error {
	held := o.cache.hold(rec.Key())
	defer held.Release()
	rev, err := o.write(ctx, &rec, 0, time.Time{}, held, nil)
	if err != nil {
		return fmt.Errorf("create session %s: %w", rec.Key(), err)
	}
	held.keep(&rec, rev)
	return nil
}

// Revoke ends a session and returns its record. A session that the store has lost gets a
// revoked record from rebuilt, so that its tokens stay refused; one already revoked is left
// as it is. It returns only after a durable write (V8).
func (o *Owner) Revoke(ctx context.Context, key Key, rebuilt Record) (Record, error) {
	var revoked Record
	o.cache.Forget(key)
	err := retry(ctx, func() error {
		rec, rev, err := o.read(ctx, key)
		if err != nil {
			return err
		}
		if rec == nil {
			rec = &rebuilt
		}
		if rec.State == StateRevoked {
			revoked = *rec
			return nil
		}
		revoked = rec.Revoke(o.op())
		_, err = o.write(ctx, &revoked, rev, time.Time{}, nil, nil)
		return err
	})
	if err != nil {
		return Record{}, fmt.Errorf("revoke session %s: %w", key, err)
	}
	return revoked, nil
}
