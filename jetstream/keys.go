package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

var (
	_ tokens.KeyBucket = (*Keys)(nil)
	_ tokens.Bus       = (*Conn)(nil)
	_ tokens.Caller    = Caller{}
)

// Keys is the bucket berth_keys: the public keys that the region knows.
type Keys struct {
	conn   *Conn
	bucket *Bucket
}

// Keys returns the region's bucket of public keys.
func (c *Conn) Keys() *Keys { return &Keys{conn: c, bucket: c.Bucket(BucketKeys)} }

// Put implements tokens.KeyBucket. A key id that stands for another key is never overwritten.
func (k *Keys) Put(ctx context.Context, kid string, document []byte) error {
	_, err := k.bucket.Put(ctx, kid, document, 0, 0)
	if !errors.Is(err, ErrConflict) {
		return err
	}
	have, err := k.bucket.Get(ctx, kid)
	switch {
	case err != nil:
		return err
	case !sameKey(kid, have.Data, document):
		return fmt.Errorf("store key %s: the bucket holds another one", kid)
	}
	return nil
}

// sameKey reports whether two documents hold one key under the id, however they are written.
func sameKey(kid string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	one, errOne := api.ParseKeySet(a)
	two, errTwo := api.ParseKeySet(b)
	if errOne != nil || errTwo != nil {
		return false
	}
	key, ok := one.Key(kid)
	other, too := two.Key(kid)
	return ok && too && key.Equal(other)
}

// Watch implements tokens.KeyBucket.
func (k *Keys) Watch(ctx context.Context, fn func(kid string, document []byte)) error {
	return k.conn.Watch(ctx, BucketKeys, func(entries []registry.Entry, _ bool) {
		for _, e := range entries {
			if !e.Deleted {
				fn(e.Key, e.Value)
			}
		}
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
