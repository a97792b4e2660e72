// Package jetstream promises durability over NATS: what it says is stored is stored in the own region's JetStream domain.
//
// It connects (Dial), makes a region's streams and buckets (Provision), and adapts NATS to the small interfaces that the
// other packages declare. Its vocabulary is that of NATS: stream, consumer, subject, bucket, key, revision.
package jetstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Faults that callers branch on.
var (
	// ErrUnavailable says that the stream, its leader or the connection did not answer in time. Whether a write that got
	// it was applied is unknown: it may be, even later. Read again before judging.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrConflict says that a write's expected revision is not the key's: nothing was written.
	ErrConflict = errors.New("revision conflict")
	// ErrNotFound says that the leader holds no value for the key.
	ErrNotFound = errors.New("not found")
	// ErrNoResponders says that nobody serves the subject of a Call: it had no effect.
	ErrNoResponders = errors.New("nobody serves the subject")
	// ErrTimeout says that a Call got no answer in time: it may have had its effect.
	ErrTimeout = errors.New("no answer in time")
)

// Conn is a connection to the NATS of one region. All its methods may be used at once from several goroutines.
type Conn struct {
	nc     *nats.Conn
	js     natsjs.JetStream
	log    *slog.Logger
	region string
	acks   *acks
	// crossing asks other regions.
	crossing *crossing

	// closed is closed when the NATS connection is gone for good.
	closed chan struct{}
	// stop ends the goroutines of upkeep: one is woken by cameBack after a reconnect, one by dropped after a subscription
	// has lost messages.
	stop              context.CancelFunc
	upkeep            sync.WaitGroup
	cameBack, dropped chan struct{}

	// mu guards the fields below: listeners may come and go while others are told, the topology is what the last
	// successful Provision made, and consumers are those of BERTH_HEARTBEATS that are to last as long as this connection.
	mu               sync.Mutex
	reconnects, gaps listeners
	topology         *Topology
	consumers        map[string]struct{}
}

// Region returns the region whose NATS this is: its JetStream domain.
func (c *Conn) Region() string { return c.region }

// NATS returns the connection itself, for what this package does not wrap. Do not close it.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// JetStream returns the JetStream API of the own region.
func (c *Conn) JetStream() natsjs.JetStream { return c.js }

// keep does what a connection needs while it lasts: after a reconnect it makes the streams again that a restart of NATS
// has lost, for a lone node keeps none that is held in memory; and it shows NATS that its named consumers are in use.
func (c *Conn) keep(ctx context.Context) {
	use := time.NewTicker(consumerInactive / 3)
	defer use.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.cameBack:
			c.restoreStreams(ctx)
		case <-use.C:
			c.useConsumers(ctx)
		}
	}
}

// tellOfDrops tells those who asked of dropped messages: at once, and again when what lagged has caught up.
func (c *Conn) tellOfDrops(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.dropped:
		}
		c.tell(c.gaps)
		if sleep(ctx, lagSettles) {
			c.tell(c.gaps)
		}
	}
}

func (c *Conn) restoreStreams(ctx context.Context) {
	c.mu.Lock()
	topology := c.topology
	c.mu.Unlock()
	if topology == nil {
		return
	}
	if err := c.Provision(ctx, *topology); err != nil && ctx.Err() == nil {
		c.log.LogAttrs(ctx, slog.LevelError, "streams could not be made again after a reconnect", slog.String("error", err.Error()))
	}
}

// Close ends the connection: what was published is flushed, subscriptions run out, then it is closed, at the latest when
// ctx ends.
func (c *Conn) Close(ctx context.Context) error {
	c.stop()
	c.upkeep.Wait()
	defer c.nc.Close()
	c.dropConsumers(ctx)
	if c.nc.IsReconnecting() || c.nc.Drain() != nil {
		return nil // nothing can be flushed where there is no connection
	}
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Flush waits until the server has taken everything that was published before.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	return c.nc.FlushWithContext(ctx)
}

// requestTimeout bounds one request to JetStream where the caller sets no earlier end.
const requestTimeout = 5 * time.Second

// within returns ctx with a deadline at most d away.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
