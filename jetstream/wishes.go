package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthhq/berth/registry"
)

// wishesKey is the key of berth_registry that holds what operators want.
const wishesKey = "wishes"

var _ registry.WishStore = (*Wishes)(nil)

// Wishes is what operators want of a region, in the bucket berth_registry.
type Wishes struct {
	conn   *Conn
	bucket *Bucket
}

// Wishes returns what operators want of the region.
func (c *Conn) Wishes() *Wishes { return &Wishes{conn: c, bucket: c.Bucket(BucketRegistry)} }

// Get implements registry.WishStore.
func (w *Wishes) Get(ctx context.Context) (value []byte, revision uint64, err error) {
	v, err := w.bucket.Get(ctx, wishesKey)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements registry.WishStore.
func (w *Wishes) Put(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	revision, err := w.bucket.Put(ctx, wishesKey, value, revision, 0)
	if errors.Is(err, ErrConflict) {
		return 0, fmt.Errorf("%w: %w", registry.ErrFenced, err)
	}
	return revision, err
}

// Watch implements registry.WishStore.
func (w *Wishes) Watch(ctx context.Context, fn func(value []byte, revision uint64, anew bool)) error {
	watch, err := w.conn.NewWatch(WatchConfig{
		Bucket: BucketRegistry, Keys: wishesKey,
		Apply: func(u Update) {
			if u.Complete && len(u.Entries) == 0 {
				fn(nil, 0, true)
			}
			for _, e := range u.Entries {
				fn(e.Value, e.Revision, u.Complete) // one that was removed has no value
			}
		},
	})
	if err != nil {
		return err
	}
	return watch.Run(ctx)
}
