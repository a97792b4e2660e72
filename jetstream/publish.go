package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
)

// delivery says what becomes of an event that is published in a region.
type delivery int

const (
	// passedOn: nobody stores it here, or its stream answers nobody.
	passedOn delivery = iota
	// storedHere: this region's stream is the only one that stores it.
	storedHere
	// storedByAll: every region that it reaches stores it, this one too.
	storedByAll
)

// deliveryOf returns what becomes of an event on subject in the region own; it is the mirror of Topology.streams.
func deliveryOf(subject, own string) delivery {
	s, err := events.ParseSubject(subject)
	if err != nil {
		return passedOn
	}
	switch s.Kind {
	case events.KindView, events.KindRevoked:
		return storedByAll
	case events.KindRegion:
		return storedHere
	case events.KindServer, events.KindDecision, events.KindSession, events.KindLock, events.KindSight:
		if s.Region == own {
			return storedHere
		}
		return passedOn
	default:
		return passedOn
	}
}

// Publish sends an event. Where a stream of the own region holds its subject, Publish returns nil only once the event is
// stored there: an acknowledgement of another region, which may come first, does not count. It fails with ErrUnavailable
// where none comes before ctx ends, at most 5 s; subscribers may have got the event all the same. While no stream
// answers at all it is sent again, so that subscribers may get it twice.
//
// What no stream of this region holds, such as a heartbeat, is handed to NATS and no more is known of it. That goes for
// the release of a lock to a server of another region, too: the region of that server stores it, and a region waits for
// no other. Its sender repeats it until it sees that it has arrived.
func (c *Conn) Publish(ctx context.Context, subject string, data []byte) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	for {
		r, err := c.PublishAsync(subject, data)
		if err != nil {
			return err
		}
		err = r.Wait(ctx)
		if !errors.Is(err, errNobody) || !sleep(ctx, nobodyWait) {
			return err
		}
	}
}

// Receipt is the acknowledgement to come of an event.
type Receipt struct {
	ack     *ack
	subject string
}

// PublishAsync sends an event as Publish does, without waiting. Wait on the Receipt says what became of it, and has to be
// called. It is sent once.
func (c *Conn) PublishAsync(subject string, data []byte) (*Receipt, error) {
	msg := &nats.Msg{Subject: subject, Data: data}
	d := deliveryOf(subject, c.region)
	if d == passedOn {
		if err := c.nc.PublishMsg(msg); err != nil {
			return nil, fmt.Errorf("%w: publish on %s: %w", ErrUnavailable, subject, err)
		}
		return &Receipt{subject: subject}, nil
	}
	return &Receipt{ack: c.acks.publish(msg, d == storedByAll), subject: subject}, nil
}

// Begin implements tokens.Beginner by PublishAsync.
func (c *Conn) Begin(subject string, data []byte) (wait func(ctx context.Context) error, err error) {
	r, err := c.PublishAsync(subject, data)
	if err != nil {
		return nil, err
	}
	return r.Wait, nil
}

// Wait returns nil once the event is stored in the own region, at once if no stream of this region holds its subject.
func (r *Receipt) Wait(ctx context.Context) error {
	if r.ack == nil {
		return nil
	}
	_, err := r.ack.wait(ctx, requestTimeout)
	r.ack.release()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNobody):
		return fmt.Errorf("publish on %s: %w: %w", r.subject, ErrUnavailable, err)
	default:
		return fmt.Errorf("publish on %s: %w", r.subject, err)
	}
}
