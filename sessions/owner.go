package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
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
	// ErrFull says that the store had no room for a write, which was not done; ErrGone that there
	// is no store; ErrNewer that a newer build than this has written the record. Who returns one of
	// them says ErrUnavailable, too.
	ErrFull  = errors.New("session store is full")
	ErrGone  = errors.New("session store is gone")
	ErrNewer = errors.New("record of a newer version")
	// ErrDeadline says that the request's deadline passed before its change was known to be
	// written (V3).
	ErrDeadline = errors.New("request deadline passed")
	// ErrFloor says that the server that passed the request on has seen a higher epoch than
	// any that could be issued here (V10).
	ErrFloor = errors.New("lock floor above the session's epoch")
	// ErrStranded says that the session's server is dead and that the region which it was to
	// move to has not taken it. A repeat decides anew.
	ErrStranded = errors.New("no region has taken the session of a dead server")
)

// Revision is an opaque compare-and-swap token: what a Store's Get or a Pending's Wait returned, to
// be handed to the next Begin. The zero Revision stands for "no record".
type Revision uint64

// Store holds the records that one region owns, durably.
//
// Get returns what the last acknowledged write wrote, never an older replica's state, or
// ErrNotFound. Begin begins to write rec, which data is, as by Record.Append, if the record's revision
// is still rev, and returns at once. What comes of it Wait returns, which has to be called: until then
// data is not changed, nor is it kept afterwards. The record is kept until its ExpiresAt + Keep. Neither
// retries. All are safe for concurrent use, and Get and Wait end with ctx.
//
// A store has a leader that alone answers, and may be away. Contact returns when it last proved
// itself: when the last Get or Begin was called that it has answered; zero for never.
type Store interface {
	Get(ctx context.Context, key Key) (Record, Revision, error)
	Begin(rec *Record, data []byte, rev Revision) Pending
	Contact() time.Time
}

// Pending is a write under way. Wait returns the record's new revision. On ErrConflict and ErrFull
// nothing was written; on any other error it is unknown whether it was, and the caller reads again.
type Pending interface {
	Wait(ctx context.Context) (Revision, error)
}

// Owner changes the sessions of one region.
type Owner struct {
	Config
	rules
}

// rules are the pure parts of the protocol: Judge, Fold, Adopt, Record.Undo, Record.Settle and Unrotate.
// Tests take one rule out of them at a time.
type rules struct {
	judge    func(rec *Record, t Stamp, region string, now time.Time) Judgement
	fold     func(own *Record, region string, copies []Copy, op func() string) Folding
	adopt    func(own *Record, moving Record) (prepared *Record, refusal string)
	undo     func(moving Record, a Answer, op string, now time.Time) Record
	settle   func(moving Record, theirs *Record) (next *Record, undo bool)
	unrotate func(rec *Record, t Stamp, region string, contact, now time.Time) bool
}

// Config is what an Owner needs. Fields without a stated zero value are required.
type Config struct {
	// Region is the region whose sessions these are.
	Region string
	Store  Store
	// Cache remembers what was written. nil: every refresh reads the store, and the copies. Where
	// there are Copies, who learns of one has to tell Cache.Forget of it.
	Cache *Cache
	// Now tells the time, NewOp a fresh name for a write.
	Now   func() time.Time
	NewOp func() string
	// Copies are other regions' records, Peers their token services. nil: there is no other
	// region, and no session leaves this one.
	Copies Copies
	Peers  Peers
	// Wait waits, or fails with ctx's error. nil: sessions that are being handed over are not
	// waited for.
	Wait func(ctx context.Context, d time.Duration) error
	// Unsettled is told of sessions that Sweep has to see through, Yielded of those that
	// another region has gone on with. Neither blocks. nil: nobody is told.
	Unsettled func(Key)
	Yielded   func(Yield)
	// Edge reports whether copies come from a region. nil: they do from all. One that they do not come
	// from any more, as it is gone for good, never shows anything.
	Edge func(region string) bool
	// Unheard is told, by each Sweep, of a session that was taken over here from a region which does
	// not show that yet. Before is what was last copied of that region's record, or the place that the
	// client has left. It does not block. nil: nobody is told.
	Unheard func(Yield)
}

// Yield is a session that this region owned until it learned that another does.
type Yield struct {
	// Before is the record until now: its server has to hear that the lock is released. After
	// is the one that follows.
	Before, After Record
	// Conflict says that both regions have made tokens meanwhile.
	Conflict bool
}

// NewOwner returns the owner of a region's sessions. It fails if a field is missing.
func NewOwner(c Config) (*Owner, error) {
	if c.Region == "" || c.Store == nil || c.Now == nil || c.NewOp == nil {
		return nil, errors.New("new session owner: region, store, now and op are required")
	}
	if c.Unsettled == nil {
		c.Unsettled = func(Key) {}
	}
	if c.Yielded == nil {
		c.Yielded = func(Yield) {}
	}
	if c.Edge == nil {
		c.Edge = func(string) bool { return true }
	}
	if c.Unheard == nil {
		c.Unheard = func(Yield) {}
	}
	return &Owner{Config: c, rules: rules{Judge, Fold, Adopt, Record.Undo, Record.Settle, Unrotate}}, nil
}

// Bounds of how often a change is judged again. Each loss to another is that one's success,
// so attempts is reached only if something is broken; a store that refuses writes and still
// answers reads is given up sooner.
const (
	attempts = 64
	unsures  = 3
)

// lookTimeout bounds the look for a write of unknown outcome: a store that has just failed to
// acknowledge it may well be away.
const lookTimeout = time.Second

// errUnsure marks a write of unknown outcome that was not there when it was looked for.
var errUnsure = errors.New("the write has not been seen")

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

// late reports whether a deadline has passed; the zero one never does.
func (o *Owner) late(deadline time.Time) bool {
	return !deadline.IsZero() && o.Now().After(deadline)
}

// read returns the record, nil where the store has none.
func (o *Owner) read(ctx context.Context, key Key) (*Record, Revision, error) {
	rec, rev, err := o.Store.Get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read session %s: %w", key, err)
	case rec.Version > RecordVersion:
		return nil, 0, fmt.Errorf("read session %s: %w: %w: %d, this build knows up to %d",
			key, ErrUnavailable, ErrNewer, rec.Version, RecordVersion)
	}
	return &rec, rev, nil
}

// write puts a record, as rewrite does, and has what is remembered of its session forgotten.
func (o *Owner) write(ctx context.Context, rec Record, rev Revision, deadline time.Time) (Revision, error) {
	o.Cache.doubt(rec.Key())
	rev, err := o.rewrite(ctx, &rec, rev, deadline, nil, nil)
	if err == nil || errors.Is(err, ErrConflict) {
		o.Cache.Forget(rec.Key())
	}
	return rev, err
}

// rewrite puts the record unless the deadline has passed, which is asked again right here
// (V3), and returns its revision. An unknown outcome is resolved by reading once more: if the
// record's op is ours the write was done; if not, the caller judges again, for op settles only
// the last write. (The writes of one handover share an op and differ in state.) What is held is
// remembered only after a plain success.
func (o *Owner) rewrite(ctx context.Context, rec *Record, rev Revision, deadline time.Time, held *Hold, d Stayer) (Revision, error) {
	if o.late(deadline) {
		return 0, ErrDeadline
	}
	next, err := o.put(ctx, rec, rev, held, d)
	if err == nil {
		held.keep(rec, next)
		return next, nil
	}
	switch {
	case errors.Is(err, ErrConflict):
		held.drop()
		return 0, err
	case errors.Is(err, ErrFull):
		held.Release()
		return 0, fmt.Errorf("write session %s: %w", rec.Key(), err)
	}
	held.Release()
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	seen, next, readErr := o.Store.Get(looking, rec.Key())
	switch {
	case readErr == nil && seen.Op == rec.Op && seen.State == rec.State:
		return next, nil
	case readErr == nil:
		return 0, fmt.Errorf("%w: %w: %w", ErrConflict, errUnsure, err)
	default:
		return 0, fmt.Errorf("write session %s: %w", rec.Key(), err)
	}
}

// put writes the record while the decider, if it has something to do besides, does that.
func (o *Owner) put(ctx context.Context, rec *Record, rev Revision, held *Hold, d Stayer) (Revision, error) {
	if err := ctx.Err(); err != nil { // nobody would wait for it
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	data, err := held.encode(rec)
	if err != nil {
		return 0, fmt.Errorf("encode session %s: %w", rec.Key(), err)
	}
	pending := o.Store.Begin(rec, data, rev)
	if busy, ok := d.(Busier); ok {
		busy.Meanwhile(rec)
	}
	return pending.Wait(ctx)
}

// situation is a session as a region knows it: its own record with the copies folded in, and
// the revision of that.
type situation struct {
	Folding
	rev    Revision
	copies []Copy
}

// situate reads a session, folds what has arrived of other regions' records, and some more
// that the caller knows of, and writes what follows from them before anybody judges by it
// (V14). Where that fails the situation has the record that could not be written, and no more.
func (o *Owner) situate(ctx context.Context, key Key, more ...Copy) (situation, error) {
	own, rev, err := o.read(ctx, key)
	if err != nil {
		return situation{}, err
	}
	copies := more
	if o.Copies != nil {
		arrived, err := o.Copies.Copies(ctx, key)
		if err != nil {
			return situation{}, fmt.Errorf("read copies of session %s: %w: %w", key, ErrUnavailable, err)
		}
		copies = append(arrived, more...)
	}
	s := situation{o.fold(own, o.Region, copies, o.NewOp), rev, copies}
	if !s.Changed {
		return s, nil
	}
	if s.rev, err = o.write(ctx, *s.Record, rev, time.Time{}); err != nil {
		return situation{Folding: Folding{Record: s.Record}}, err
	}
	if s.Yielded != nil {
		o.Yielded(Yield{Before: *s.Yielded, After: *s.Record, Conflict: s.Conflict})
	}
	return s, nil
}

// Locate returns the region that owns a session, as far as this region and the token know, and
// whether the session was revoked.
func (o *Owner) Locate(ctx context.Context, key Key, t Stamp) (region string, revoked bool, err error) {
	err = retry(ctx, func() error {
		s, err := o.situate(ctx, key)
		if err == nil {
			region, revoked = s.Owner(t), s.Revoked
		}
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("locate session %s: %w", key, err)
	}
	return region, revoked, nil
}

// Create writes a session's first record. Its errors are those of Pending.Wait.
func (o *Owner) Create(ctx context.Context, rec Record) error {
	held := o.Cache.hold(rec.Key())
	defer held.Release()
	if _, err := o.rewrite(ctx, &rec, 0, time.Time{}, held, nil); err != nil {
		return fmt.Errorf("create session %s: %w", rec.Key(), err)
	}
	return nil
}

// Revoke ends a session and returns its record, and whether this call has ended it. A session
// that the store has lost gets a revoked record from rebuilt, so that its tokens stay refused;
// one already revoked is left as it is. It returns only after a durable write (V8).
func (o *Owner) Revoke(ctx context.Context, key Key, rebuilt Record) (revoked Record, ended bool, err error) {
	o.Cache.Forget(key)
	err = retry(ctx, func() error {
		rec, rev, err := o.read(ctx, key)
		if err != nil {
			return err
		}
		if rec == nil {
			rec = &rebuilt
		}
		if rec.State == StateRevoked {
			revoked, ended = *rec, false
			return nil
		}
		revoked, ended = rec.Revoke(o.NewOp()), true
		_, err = o.write(ctx, revoked, rev, time.Time{})
		return err
	})
	if err != nil {
		return Record{}, false, fmt.Errorf("revoke session %s: %w", key, err)
	}
	return revoked, ended, nil
}
