package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
)

var (
	_ sessions.Store = (*Records)(nil)
	_ tokens.Ledger  = (*Records)(nil)
)

// Records is the bucket berth_sessions: the sessions that the region owns. Reads go to the
// stream's leader; every write expires with its session.
type Records struct{ bucket *Bucket }

// recordPatience bounds each request for a session's record. A client waits for it, and while there
// is no leader, 4 to 7 s at its election, it is better answered without one (V11).
const recordPatience = 2 * time.Second

// Records returns the region's bucket of sessions. Contact is known of what this value has read
// and written.
func (c *Conn) Records() *Records {
	b := c.Bucket(BucketSessions)
	b.patience = recordPatience
	return &Records{bucket: b}
}

// Contact implements sessions.Store.
func (r *Records) Contact() time.Time { return r.bucket.Contact() }

// Get implements sessions.Store.
func (r *Records) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	v, err := r.bucket.Get(ctx, key.String())
	if err != nil {
		return sessions.Record{}, 0, recordFault(err)
	}
	rec, err := decodeRecord(key.String(), v.Data)
	if err != nil {
		return rec, 0, fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
	}
	return rec, sessions.Revision(v.Revision), nil
}

// decodeRecord returns the record that a key holds. A value that is none is a fault, never a
// record with nothing in it: whoever can make NATS answer to a subject of their choice could
// put one in place of a revoked record.
func decodeRecord(key string, data []byte) (sessions.Record, error) {
	rec, err := sessions.DecodeRecord(data)
	if err != nil {
		return sessions.Record{}, fmt.Errorf("record of %s: %w", key, err)
	}
	if rec.Version < 1 || rec.Key().String() != key {
		return sessions.Record{}, fmt.Errorf("record of %s: the value is of version %d and of %s", key, rec.Version, rec.Key())
	}
	return *rec, nil
}

// Put writes a record, for who has nothing else to do meanwhile: Begin, then Wait.
func (r *Records) Put(ctx context.Context, rec sessions.Record, rev sessions.Revision) (sessions.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("write %s: %w: %w", rec.Key(), sessions.ErrUnavailable, err)
	}
	data, err := rec.Append(nil)
	if err != nil {
		return 0, fmt.Errorf("encode record of %s: %w", rec.Key(), err)
	}
	return r.Begin(&rec, data, rev).Wait(ctx)
}

// Begin implements sessions.Store.
func (r *Records) Begin(rec *sessions.Record, data []byte, rev sessions.Revision) sessions.Pending {
	life := max(time.Second, time.Until(rec.ExpiresAt.Add(sessions.Keep)))
	w := new(recordWrite)
	w.start(r.bucket, rec.Key().String(), data, uint64(rev), life)
	return w
}

// recordWrite is a sessions.Pending.
type recordWrite struct{ Write }

// Wait implements sessions.Pending.
func (w *recordWrite) Wait(ctx context.Context) (sessions.Revision, error) {
	revision, err := w.Write.Wait(ctx)
	if err != nil {
		return 0, recordFault(err)
	}
	return sessions.Revision(revision), nil
}

// Scan implements tokens.Ledger.
func (r *Records) Scan(ctx context.Context, jurisdiction string, from uint64, fn func(tokens.Entry) bool) (uint64, error) {
	next, err := r.bucket.Scan(ctx, jurisdiction+".*", from, func(key string, v Value) bool {
		e := tokens.Entry{Key: key, At: v.Revision, Written: v.Written}
		e.Record, e.Fault = decodeRecord(key, v.Data)
		return fn(e)
	})
	if err != nil {
		return 0, recordFault(err)
	}
	return next, nil
}

// End implements tokens.Ledger.
func (r *Records) End(ctx context.Context) (uint64, error) {
	end, err := r.bucket.End(ctx)
	if err != nil {
		return 0, recordFault(err)
	}
	return end, nil
}

// recordFault makes a bucket's faults into those that sessions.Store promises.
func recordFault(err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: %w", sessions.ErrNotFound, err)
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("%w: %w", sessions.ErrConflict, err)
	case isFull(err):
		return fmt.Errorf("%w: %w: %w", sessions.ErrUnavailable, sessions.ErrFull, err)
	case isGone(err):
		return fmt.Errorf("%w: %w: %w", sessions.ErrUnavailable, sessions.ErrGone, err)
	default:
		return fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
	}
}
