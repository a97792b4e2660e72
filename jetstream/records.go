package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/sessions"
)

var _ sessions.Store = (*Records)(nil)

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
	data, err := json.Marshal(rec)
	if err != nil {
		return 0, fmt.Errorf("encode record of %s: %w", rec.Key(), err)
	}
	life := max(time.Second, time.Until(rec.ExpiresAt.Add(sessions.Keep)))
	revision, err := r.bucket.Put(ctx, rec.Key().String(), data, uint64(rev), life)
	if err != nil {
		return 0, recordFault(err)
	}
	return sessions.Revision(revision), nil
}

// Unsettled calls fn with each record that is moving, prepared or moved. One that cannot be read
// is passed over: whoever asks for it learns why.
func (r *Records) Unsettled(ctx context.Context, fn func(sessions.Record)) error {
	err := r.bucket.conn.read(ctx, bucketStream(r.bucket.name), natsjs.ConsumerConfig{
		FilterSubject: bucketSubject(r.bucket.name, ">"), DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
	}, func(msg *nats.Msg, _ *nats.MsgMetadata) {
		var rec sessions.Record
		if removes(msg.Header) || json.Unmarshal(msg.Data, &rec) != nil || rec.Version > sessions.RecordVersion {
			return
		}
		switch rec.State {
		case sessions.StateMoving, sessions.StatePrepared, sessions.StateMoved:
			fn(rec)
		case sessions.StateActive, sessions.StateRevoked:
		}
	})
	if err != nil {
		return fmt.Errorf("read unsettled sessions: %w", err)
	}
	return nil
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
