package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Message is an event as a stream holds it.
type Message struct {
	Subject string
	Data    []byte
	// Stored is when, by the clock of NATS.
	Stored time.Time
}

// Recent returns the events on any of the subjects, which may have wildcards but must not overlap, that BERTH_EVENTS has
// stored since then, oldest first. Whoever subscribes to them before misses none.
//
// Each subject is read by itself: a consumer of nats-server 2.15 that starts at a time and has several filters skips
// messages of one filter when another's first message in the stream is younger than that time.
func (c *Conn) Recent(ctx context.Context, since time.Time, subjects ...string) ([]Message, error) {
	type numbered struct {
		Message
		seq uint64
	}
	var found []numbered
	for _, subject := range subjects {
		err := c.read(ctx, StreamEvents, natsjs.ConsumerConfig{
			FilterSubject: subject,
			DeliverPolicy: natsjs.DeliverByStartTimePolicy,
			OptStartTime:  &since,
		}, func(msg *nats.Msg, meta *nats.MsgMetadata) {
			m := Message{Subject: msg.Subject, Data: msg.Data, Stored: meta.Timestamp}
			found = append(found, numbered{m, meta.Sequence.Stream})
		})
		if err != nil {
			return nil, fmt.Errorf("read recent events on %s: %w", subject, err)
		}
	}
	slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(a.seq, b.seq) })
	messages := make([]Message, len(found))
	for i, f := range found {
		messages[i] = f.Message
	}
	return messages, nil
}

// Stored calls fn for the messages on a subject, which may have wildcards, that a stream has stored since then, oldest
// first, until fn says false or it has got all that were there at the beginning; left is how many are to come. Nothing is
// read twice: what the network breaks off fails with ErrUnavailable.
func (c *Conn) Stored(ctx context.Context, stream, subject string, since time.Time, fn func(m Message, left uint64) bool) error {
	err := c.readWhile(ctx, stream, natsjs.ConsumerConfig{
		FilterSubject: subject,
		DeliverPolicy: natsjs.DeliverByStartTimePolicy,
		OptStartTime:  &since,
	}, func(msg *nats.Msg, meta *nats.MsgMetadata) bool {
		return fn(Message{Subject: msg.Subject, Data: msg.Data, Stored: meta.Timestamp}, meta.NumPending)
	})
	if err != nil {
		return fmt.Errorf("read %s on %s: %w", stream, subject, err)
	}
	return nil
}

// read hands over what a stream holds by now, in order, and returns when it has handed over all of it. It reads once; a
// fault on the way is ErrUnavailable.
func (c *Conn) read(ctx context.Context, stream string, cfg natsjs.ConsumerConfig, fn func(*nats.Msg, *nats.MsgMetadata)) error {
	return c.readWhile(ctx, stream, cfg, func(msg *nats.Msg, meta *nats.MsgMetadata) bool {
		fn(msg, meta)
		return true
	})
}

// readWhile is read, until fn says false.
func (c *Conn) readWhile(ctx context.Context, stream string, cfg natsjs.ConsumerConfig, fn func(*nats.Msg, *nats.MsgMetadata) bool) error {
	const heartbeat = time.Second
	f, err := c.openFeed(ctx, stream, heartbeat, cfg)
	if err != nil {
		if transient(err) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	defer f.close()
	silence := time.NewTimer(3 * heartbeat)
	defer silence.Stop()
	for f.read < f.due {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		case <-silence.C:
			return fmt.Errorf("%w: %w", ErrUnavailable, errors.New("the stream went silent"))
		case msg := <-f.msgs:
			silence.Reset(3 * heartbeat)
			meta, err := f.take(msg)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			if meta != nil && !fn(msg, meta) {
				return nil
			}
			// Messages that were replaced meanwhile do not come: then a heartbeat says that this was all.
			if meta == nil && idle(msg) || meta != nil && meta.NumPending == 0 {
				return nil
			}
		}
	}
	return nil
}
