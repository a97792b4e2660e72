package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthhq/berth/registry"
)

// leaseKey is the key of berth_registry that says who leads.
const leaseKey = "lease"

// Lease is the lease of a region's registries, in the bucket berth_registry.
type Lease struct{ bucket *Bucket }

// Lease returns the lease of the region's registries.
func (c *Conn) Lease() *Lease { return &Lease{bucket: c.Bucket(BucketRegistry)} }

// Get implements registry.LeaseStore.
func (l *Lease) Get(ctx context.Context) (value []byte, revision uint64, err error) {
	v, err := l.bucket.Get(ctx, leaseKey)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements registry.LeaseStore.
func (l *Lease) Put(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	revision, err := l.bucket.Put(ctx, leaseKey, value, revision, 0)
	if errors.Is(err, ErrConflict) {
		return 0, fmt.Errorf("%w: %w", registry.ErrFenced, err)
	}
	return revision, err
}
