package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/sessions"
)

var _ sessions.Beginner = (*Records)(nil)

// Records is the bucket berth_sessions: the sessions that the region owns. Reads go to the
// stream's leader; every write expires with its session.
type Records struct{ bucket *Bucket }

// Records returns the region's bucket of sessions.
func (c *Conn) Records() *Records { return &Records{bucket: c.Bucket(BucketSessions)} }

// Get implements sessions.Store.
func (r *Records) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	var rec sessions.Record
	v, err := r.bucket.Get(ctx, key.String())
	if err != nil {
		return rec, 0, recordFault(err)
	}
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		return rec, 0, fmt.Errorf("%w: record of %s: %w", sessions.ErrUnavailable, key, err)
	}
	return rec, sessions.Revision(v.Revision), nil
}

// Put implements sessions.Store.
func (r *Records) Put(ctx context.Context, rec sessions.Record, rev sessions.Revision) (sessions.Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("write %s: %w: %w", rec.Key(), sessions.ErrUnavailable, err)
	}
	return r.Begin(rec, rev).Wait(ctx)
}

// Begin implements sessions.Beginner.
func (r *Records) Begin(rec sessions.Record, rev sessions.Revision) sessions.Pending {
	data, err := rec.Encode()
	if err != nil {
		return &recordWrite{err: fmt.Errorf("encode record of %s: %w", rec.Key(), err)}
	}
	life := max(time.Second, time.Until(rec.ExpiresAt.Add(sessions.Keep)))
	return &recordWrite{write: r.bucket.Begin(rec.Key().String(), data, uint64(rev), life)}
}

// recordWrite is a sessions.Pending.
type recordWrite struct {
	write *Write
	err   error
}

// Wait implements sessions.Pending.
func (w *recordWrite) Wait(ctx context.Context) (sessions.Revision, error) {
	if w.err != nil {
		return 0, w.err
	}
	revision, err := w.write.Wait(ctx)
	if err != nil {
		return 0, recordFault(err)
	}
	return sessions.Revision(revision), nil
}

// recordFault makes a bucket's faults into those that sessions.Store promises.
func recordFault(err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: %w", sessions.ErrNotFound, err)
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("%w: %w", sessions.ErrConflict, err)
	default:
		return fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
	}
}
