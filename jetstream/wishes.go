package jetstream

import (
	"context"

	"github.com/berthhq/berth/registry"
)

var _ registry.WishStore = (*Wishes)(nil)

// Wishes is what operators want of a region, in the bucket berth_registry.
type Wishes struct {
	*Fenced
	conn *Conn
}

// Wishes returns what operators want of the region.
func (c *Conn) Wishes() *Wishes { return &Wishes{c.fenced(wishesKey), c} }

// Watch implements registry.WishStore.
func (w *Wishes) Watch(ctx context.Context, fn func(value []byte, revision uint64, anew bool)) error {
	watch, err := w.conn.NewWatch(WatchConfig{
		Bucket: BucketRegistry, Keys: w.key,
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
