package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
)

const (
	// consumerInactive is how long BERTH_HEARTBEATS keeps the named consumer of a registry that is gone.
	consumerInactive = 15 * time.Minute
	// catchUpBatch is how many heartbeats are asked for at once.
	catchUpBatch = 1000
	// catchUpWait is how long one such request may take; by then what it has brought is handed over.
	catchUpWait = 2 * time.Second
)

// Heartbeats reads what BERTH_HEARTBEATS holds, through a consumer that `nats consumer ls BERTH_HEARTBEATS` lists as
// registry-<instance> while the connection lasts. The live flow does not come this way: see ADR 0001.
type Heartbeats struct {
	conn *Conn
	name string
}

// Heartbeats returns the reader of one registry. Each registry of a region needs an instance name of its own, of letters,
// digits, "-" and "_": two that share a consumer would each get a part.
func (c *Conn) Heartbeats(instance string) (*Heartbeats, error) {
	name := "registry-" + instance
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return nil, fmt.Errorf("read heartbeats: instance %q: want letters, digits, - and _", instance)
		}
	}
	if instance == "" {
		return nil, errors.New("read heartbeats: no instance name")
	}
	return &Heartbeats{conn: c, name: name}, nil
}

// CatchUp calls fn with the last heartbeat on each subject, oldest first, and returns nil after the last that was there
// when it was called. While the stream has no leader, or is just being made, it waits, until ctx ends, at most 5 s; an
// error means that some may be missing. Only one CatchUp may run at a time.
func (h *Heartbeats) CatchUp(ctx context.Context, fn func(subject string, data []byte)) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	for {
		err := h.read(ctx, fn)
		passing := err != nil && (transient(err) || errors.Is(err, natsjs.ErrStreamNotFound))
		if !passing || !sleep(ctx, nobodyWait) {
			if err != nil {
				return fmt.Errorf("read %s as %s: %w", StreamHeartbeats, h.name, err)
			}
			return nil
		}
	}
}

// read makes the consumer anew, which starts it at the first heartbeat again, and reads all that is due.
func (h *Heartbeats) read(ctx context.Context, fn func(subject string, data []byte)) error {
	c := h.conn
	if err := c.js.DeleteConsumer(ctx, StreamHeartbeats, h.name); err != nil && !errors.Is(err, natsjs.ErrConsumerNotFound) {
		return err
	}
	consumer, err := c.js.CreateConsumer(ctx, StreamHeartbeats, natsjs.ConsumerConfig{
		Name:              h.name,
		Description:       "Catch-up of a registry; the live heartbeats come by a core subscription",
		FilterSubject:     events.Subject{Kind: events.KindHeartbeat, Region: c.region}.Filter(),
		DeliverPolicy:     natsjs.DeliverLastPerSubjectPolicy,
		AckPolicy:         natsjs.AckNonePolicy,
		InactiveThreshold: consumerInactive,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.consumers[h.name] = struct{}{}
	c.mu.Unlock()
	// Heartbeats go on arriving while this reads: what counts is that it gets past those of the beginning.
	for due := consumer.CachedInfo().NumPending; due > 0; {
		batch, err := consumer.Fetch(int(min(due, catchUpBatch)), natsjs.FetchMaxWait(catchUpWait), natsjs.FetchHeartbeat(catchUpWait/4))
		if err != nil {
			return err
		}
		var got uint64
		pending := uint64(1)
		for msg := range batch.Messages() {
			got++
			fn(msg.Subject(), msg.Data())
			if meta, err := msg.Metadata(); err == nil {
				pending = meta.NumPending
			}
		}
		if err := batch.Error(); err != nil {
			return err
		}
		due -= min(got, due)
		if pending == 0 || got == 0 {
			return nil // the rest was replaced, or has aged out
		}
	}
	return nil
}

// useConsumers asks each named consumer for a heartbeat, so that NATS does not take it for forgotten.
func (c *Conn) useConsumers(ctx context.Context) {
	for _, name := range c.consumerNames() {
		request, cancel := within(ctx, catchUpWait)
		if consumer, err := c.js.Consumer(request, StreamHeartbeats, name); err == nil {
			if batch, err := consumer.FetchNoWait(1); err == nil {
				for range batch.Messages() { // what it brings is known from the live flow
					continue
				}
			}
		}
		cancel()
	}
}

// dropConsumers removes the named consumers, so that what is listed is what runs.
func (c *Conn) dropConsumers(ctx context.Context) {
	names := c.consumerNames()
	if len(names) == 0 || !c.nc.IsConnected() {
		return
	}
	ctx, cancel := within(ctx, time.Second)
	defer cancel()
	for _, name := range names {
		_ = c.js.DeleteConsumer(ctx, StreamHeartbeats, name)
	}
}

func (c *Conn) consumerNames() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.consumers {
		names = append(names, name)
	}
	return names
}
