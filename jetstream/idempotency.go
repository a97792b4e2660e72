package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sdk/server/idempotency"
)

var (
	_ idempotency.Store  = (*Idempotency)(nil)
	_ idempotency.Copies = (*Idempotency)(nil)
)

// Idempotency is the bucket berth_idempotency, which the region's servers share, and what has come of other regions' in
// BERTH_IDEMPOTENCY_COPIES. Both are read from their stream's leader. It may be used by several goroutines at once.
type Idempotency struct {
	bucket *Bucket
	// alone is until when the region is taken to have no stream of copies, in Unix nanoseconds.
	alone atomic.Int64
}

const (
	// idempotencyPatience bounds each request: a client waits for it.
	idempotencyPatience = 2 * time.Second
	// aloneFor is how long it is believed that there are no copies.
	aloneFor = 5 * time.Second
	// maxOrigins bounds how many regions' copies of one key are read.
	maxOrigins = 64
)

// Idempotency returns the region's idempotency keys. Nothing is asked of NATS.
func (c *Conn) Idempotency() *Idempotency {
	b := c.Bucket(BucketIdempotency)
	b.patience = idempotencyPatience
	return &Idempotency{bucket: b}
}

// Get implements idempotency.Store.
func (i *Idempotency) Get(ctx context.Context, key idempotency.Key) (idempotency.Entry, idempotency.Revision, error) {
	v, err := i.bucket.Get(ctx, key.String())
	if err != nil {
		return idempotency.Entry{}, 0, idempotencyFault(err)
	}
	e, err := decodeEntry(v.Data)
	return e, idempotency.Revision(v.Revision), err
}

// Put implements idempotency.Store. The entry leaves the bucket by itself.
func (i *Idempotency) Put(ctx context.Context, key idempotency.Key, e idempotency.Entry, expected idempotency.Revision) (idempotency.Revision, error) {
	data, err := json.Marshal(&e)
	if err != nil {
		return 0, fmt.Errorf("encode idempotency key %s: %w", key, err)
	}
	life := max(time.Second, time.Until(e.ExpiresAt))
	revision, err := i.bucket.Put(ctx, key.String(), data, uint64(expected), life)
	if err != nil {
		return 0, idempotencyFault(err)
	}
	return idempotency.Revision(revision), nil
}

// Copies implements idempotency.Copies.
func (i *Idempotency) Copies(ctx context.Context, key idempotency.Key) ([]idempotency.Entry, error) {
	now := time.Now()
	if key.Jurisdiction == events.LocalJurisdiction || now.UnixNano() < i.alone.Load() {
		return nil, nil
	}
	ctx, cancel := within(ctx, idempotencyPatience)
	defer cancel()
	var list []idempotency.Entry
	filter := copySubject(key.Jurisdiction, "*", key.Hash)
	for next := uint64(1); len(list) < maxOrigins; {
		v, gone, err := i.bucket.conn.leaderRead(ctx, StreamIdempotencyCopies, map[string]any{"seq": next, "next_by_subj": filter})
		switch {
		case errors.Is(err, ErrNotFound):
			return list, nil
		case isGone(err):
			i.alone.Store(now.Add(aloneFor).UnixNano())
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read copies of %s: %w", key, idempotencyFault(err))
		}
		next = v.Revision + 1
		if gone {
			continue
		}
		e, err := decodeEntry(v.Data)
		if err != nil {
			return nil, fmt.Errorf("read copies of %s: %w", key, err)
		}
		if e.ExpiresAt.After(now) {
			list = append(list, e)
		}
	}
	return list, nil
}

// decodeEntry reads what a key holds. A value that is none is a fault, and never one that says nothing: then the request
// would be carried out again.
func decodeEntry(data []byte) (e idempotency.Entry, err error) {
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%w: malformed entry: %w", idempotency.ErrUnavailable, err)
	}
	if e.Version < 1 || e.Version > idempotency.EntryVersion {
		return e, fmt.Errorf("%w: entry of version %d, this build reads 1 to %d", idempotency.ErrUnavailable, e.Version, idempotency.EntryVersion)
	}
	return e, nil
}

// idempotencyFault makes a bucket's faults into those that idempotency.Store promises.
func idempotencyFault(err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: %w", idempotency.ErrNotFound, err)
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("%w: %w", idempotency.ErrConflict, err)
	default:
		return fmt.Errorf("%w: %w", idempotency.ErrUnavailable, err)
	}
}

// idempotencyLook is how often the sources of the copies are looked at.
const idempotencyLook = time.Second

// watchIdempotency looks at where the copies come from until ctx ends, and sets a source up again that is silent though its
// origin answers, as watchEdges does with those of sessions.
func (k *Copies) watchIdempotency(ctx context.Context) {
	seen := map[strand]*strandSight{}
	for sleep(ctx, idempotencyLook) {
		info, err := k.conn.copiesInfo(ctx, StreamIdempotencyCopies)
		if err != nil {
			continue
		}
		before := seen
		seen = map[strand]*strandSight{}
		for _, s := range strandsOf(k.conn.region, info.Config.Sources) {
			is := before[s]
			if is == nil {
				is = &strandSight{pause: firstKick}
			}
			seen[s] = is
			source := sourceOf(k.conn.region, info, s)
			var origin originState
			if !works(source) {
				origin = k.conn.originOf(ctx, s)
			}
			if !is.quiet(origin, source, time.Now()) {
				continue
			}
			if err := k.conn.restartSource(ctx, s); err != nil {
				k.log.LogAttrs(ctx, slog.LevelWarn, "silent source of idempotency keys could not be set up again",
					slog.String("origin", s.origin), slog.String("error", err.Error()))
			}
		}
	}
}
