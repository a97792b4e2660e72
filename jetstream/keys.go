package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens"
)

var (
	_ tokens.KeyBucket = (*Keys)(nil)
	_ tokens.Bus       = (*Conn)(nil)
	_ tokens.Caller    = Caller{}
	_ tokens.Peers     = Caller{}
)

// Keys is the bucket berth_keys: the public keys that the region knows.
type Keys struct {
	conn   *Conn
	bucket *Bucket
}

// Keys returns the region's bucket of public keys.
func (c *Conn) Keys() *Keys { return &Keys{conn: c, bucket: c.Bucket(BucketKeys)} }

// Get implements tokens.KeyBucket.
func (k *Keys) Get(ctx context.Context, kid string) (document []byte, revision uint64, err error) {
	v, err := k.bucket.Get(ctx, kid)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements tokens.KeyBucket.
func (k *Keys) Put(ctx context.Context, kid string, document []byte, revision uint64) error {
	_, err := k.bucket.Put(ctx, kid, document, revision, 0)
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("%w: %w", tokens.ErrKeyChanged, err)
	}
	return err
}

// Watch implements tokens.KeyBucket.
func (k *Keys) Watch(ctx context.Context, fn func(documents map[string][]byte, complete bool)) error {
	return k.conn.Watch(ctx, BucketKeys, func(entries []registry.Entry, complete bool) {
		documents := make(map[string][]byte, len(entries))
		for _, e := range entries {
			documents[e.Key] = nil
			if !e.Deleted {
				documents[e.Key] = e.Value
			}
		}
		fn(documents, complete)
	}, func(time.Time) {})
}

// Caller sends requests to services.
type Caller struct{ conn *Conn }

// Caller returns a caller over the connection.
func (c *Conn) Caller() Caller { return Caller{c} }

// Call implements tokens.Caller and registry.Caller.
func (c Caller) Call(ctx context.Context, subject string, header map[string][]string, data []byte) (map[string][]string, []byte, error) {
	r, err := c.conn.Call(ctx, subject, header, data)
	return r.Header, r.Data, err
}

// Gather implements tokens.Peers.
func (c Caller) Gather(ctx context.Context, subject string, data []byte) ([][]byte, error) {
	return c.conn.Gather(ctx, subject, data)
}
