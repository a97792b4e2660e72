package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berthhq/berth/sessions"
)

var _ sessions.Beginner = (*Records)(nil)

// Records is the bucket berth_sessions: the sessions that the region owns. Reads go to the
// stream's leader; every write expires with its session.
type Records struct {
	bucket *Bucket
	rooms  sync.Pool // of *[]byte: a record is written into one, until it is stored
}

// Records returns the region's bucket of sessions.
func (c *Conn) Records() *Records { return &Records{bucket: c.Bucket(BucketSessions)} }

// Get implements sessions.Store.
func (r *Records) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	v, err := r.bucket.Get(ctx, key.String())
	if err != nil {
		return sessions.Record{}, 0, recordFault(err)
	}
	rec, err := sessions.DecodeRecord(v.Data)
	if err != nil {
		return sessions.Record{}, 0, fmt.Errorf("%w: record of %s: %w", sessions.ErrUnavailable, key, err)
	}
	return *rec, sessions.Revision(v.Revision), nil
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
	room, ok := r.rooms.Get().(*[]byte)
	if !ok {
		room = new([]byte)
	}
	w := &recordWrite{records: r, room: room}
	if *room, w.err = rec.Append((*room)[:0]); w.err != nil {
		w.err = fmt.Errorf("encode record of %s: %w", rec.Key(), w.err)
		return w
	}
	life := max(time.Second, time.Until(rec.ExpiresAt.Add(sessions.Keep)))
	w.write.start(r.bucket, rec.Key().String(), *room, uint64(rev), life)
	return w
}

// recordWrite is a sessions.Pending.
type recordWrite struct {
	records *Records
	room    *[]byte
	write   Write
	err     error
}

// Wait implements sessions.Pending.
func (w *recordWrite) Wait(ctx context.Context) (sessions.Revision, error) {
	if w.err != nil {
		return 0, w.err
	}
	revision, err := w.write.Wait(ctx)
	w.records.rooms.Put(w.room)
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
