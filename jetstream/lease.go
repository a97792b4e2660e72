package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthhq/berth/registry"
)

// The keys of berth_registry: who leads, and what operators want.
const (
	leaseKey  = "lease"
	wishesKey = "wishes"
)

var _ registry.LeaseStore = (*Fenced)(nil)

// Fenced is one key of the bucket berth_registry, written by who knows its revision.
type Fenced struct {
	bucket *Bucket
	key    string
}

func (c *Conn) fenced(key string) *Fenced { return &Fenced{bucket: c.Bucket(BucketRegistry), key: key} }

// Lease returns the lease of the region's registries.
func (c *Conn) Lease() *Fenced { return c.fenced(leaseKey) }

// Get implements registry.LeaseStore and registry.WishStore.
func (f *Fenced) Get(ctx context.Context) (value []byte, revision uint64, err error) {
	v, err := f.bucket.Get(ctx, f.key)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements registry.LeaseStore and registry.WishStore.
func (f *Fenced) Put(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	revision, err := f.bucket.Put(ctx, f.key, value, revision, 0)
	if errors.Is(err, ErrConflict) {
		return 0, fmt.Errorf("%w: %w", registry.ErrFenced, err)
	}
	return revision, err
}
