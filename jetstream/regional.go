package jetstream

import (
	"context"
	"time"

	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens"
)

var (
	_ server.Bus       = Regional{}
	_ server.Recent    = Regional{}
	_ server.Caller    = Regional{}
	_ tokens.Recent    = Regional{}
	_ registry.Watcher = Regional{}
)

// Regional is a connection as a regional server's agent uses it: for all of server.Config's
// Bus, Recent, Caller and Watcher.
type Regional struct{ conn *Conn }

// Regional returns the connection for a server.Config.
func (c *Conn) Regional() Regional { return Regional{c} }

// Publish implements server.Bus.
func (r Regional) Publish(_ context.Context, subject string, data []byte) error {
	return r.conn.nc.Publish(subject, data)
}

// Subscribe implements server.Bus.
func (r Regional) Subscribe(ctx context.Context, subject string, fn func(subject string, data []byte)) (stop func(), err error) {
	return r.conn.Subscribe(ctx, subject, fn)
}

// OnGap implements server.Bus.
func (r Regional) OnGap(fn func()) (stop func()) { return r.conn.OnGap(fn) }

// Read implements server.Recent.
func (r Regional) Read(ctx context.Context, subjects []string, since time.Time, fn func(subject string, data []byte)) error {
	messages, err := r.conn.Recent(ctx, since, subjects...)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fn(m.Subject, m.Data)
	}
	return nil
}

// Call implements server.Caller.
func (r Regional) Call(ctx context.Context, subject string, header map[string][]string, data []byte) (map[string][]string, []byte, error) {
	return Caller(r).Call(ctx, subject, header, data)
}

// Watch implements registry.Watcher.
func (r Regional) Watch(ctx context.Context, bucket string, apply func(entries []registry.Entry, complete bool), proof func(at time.Time)) error {
	return r.conn.Watch(ctx, bucket, apply, proof)
}
