package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/registry"
)

var (
	_ registry.Bus        = (*Conn)(nil)
	_ registry.Heartbeats = (*Heartbeats)(nil)
	_ registry.Store      = (*Servers)(nil)
	_ registry.Watcher    = (*Conn)(nil)
	_ registry.Caller     = Caller{}
)

// Servers is the bucket berth_servers as a registry writes it.
type Servers struct{ bucket *Bucket }

// Servers returns the region's bucket of servers.
func (c *Conn) Servers() *Servers { return &Servers{bucket: c.Bucket(BucketServers)} }

// Load implements registry.Store.
func (s *Servers) Load(ctx context.Context) ([]registry.Entry, error) {
	values, err := s.bucket.Load(ctx, "")
	if err != nil {
		return nil, err
	}
	entries := make([]registry.Entry, 0, len(values))
	for key, v := range values {
		entries = append(entries, registry.Entry{Key: key, Value: v.Data, Revision: v.Revision})
	}
	return entries, nil
}

// Begin implements registry.Store.
func (s *Servers) Begin(key string, value []byte, revision uint64) (end func(context.Context) (uint64, error)) {
	var w *Write
	if len(value) == 0 {
		w = s.bucket.beginDelete(key, revision)
	} else {
		w = s.bucket.Begin(key, value, revision, 0)
	}
	return func(ctx context.Context) (uint64, error) {
		written, err := w.Wait(ctx)
		switch {
		case errors.Is(err, ErrConflict):
			return 0, fmt.Errorf("%w: %w", registry.ErrFenced, err)
		case err != nil || len(value) == 0:
			return 0, err
		}
		return written, nil
	}
}

// Put writes as Begin does, and returns what comes of it.
func (s *Servers) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return s.Begin(key, value, revision)(ctx)
}

// Watch implements registry.Watcher. apply and proof are called by one goroutine.
func (c *Conn) Watch(ctx context.Context, bucket string, apply func(entries []registry.Entry, complete bool), proof func(at time.Time)) error {
	w, err := c.NewWatch(WatchConfig{
		Bucket: bucket,
		Apply:  func(u Update) { apply(u.Entries, u.Complete) },
		Proof:  proof,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}
