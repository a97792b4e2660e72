package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Bounds of what a subscription holds for a callback that lags: some seconds of a large fleet's heartbeats.
const (
	pendingMessages = 1 << 20
	pendingBytes    = 512 << 20
)

// Subscribe calls fn for each message on subject, which may have wildcards, in order and one at a time, until stop. It
// returns once NATS knows of the subscription, at the latest when ctx ends; ctx does not end the subscription. It
// survives reconnects. Messages are lost while the connection is away, or if fn lags so far that they are dropped: OnGap
// tells of both. fn must not block. After stop at most one more call, already under way, ends.
func (c *Conn) Subscribe(ctx context.Context, subject string, fn func(subject string, data []byte)) (stop func(), err error) {
	sub, err := c.nc.Subscribe(subject, func(msg *nats.Msg) { fn(msg.Subject, msg.Data) })
	if err == nil {
		err = sub.SetPendingLimits(pendingMessages, pendingBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := c.Flush(ctx); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("subscribe to %s: %w: %w", subject, ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// OnReconnect calls fn each time the connection has come back. fn must not block, nor call stop, which ends the calls.
func (c *Conn) OnReconnect(fn func()) (stop func()) { return c.listen(c.reconnects, fn) }

// OnGap calls fn whenever messages of a subscription may have been missed and they flow again: after a reconnect, and
// after some were dropped. fn must not block, nor call stop, which ends the calls.
func (c *Conn) OnGap(fn func()) (stop func()) { return c.listen(c.gaps, fn) }

// listeners are who is told of something.
type listeners map[*func()]struct{}

func (c *Conn) listen(l listeners, fn func()) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l[&fn] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(l, &fn)
	}
}

// tell calls all of the listeners.
func (c *Conn) tell(all ...listeners) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range all {
		for fn := range l {
			(*fn)()
		}
	}
}

// lagSettles is how long after dropped messages those who asked are told again: by then what lagged has caught up.
const lagSettles = time.Second

// signal wakes whoever reads from ch, once for any number of signals.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
