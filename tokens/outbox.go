package tokens

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
)

// Bounds of the outbox. A stream that elects a leader answers nobody for seconds; meanwhile
// requests go on, and what would grow without bound is dropped and counted.
const (
	outboxSize     = 4096
	outboxWorkers  = 4
	publishTimeout = time.Second
	outboxDrain    = time.Second
)

// outbox publishes events after the facts they tell of are durable, so that no client waits
// for them. Locks and revocations, which servers act on, have a lane of their own.
type outbox struct {
	bus          Bus
	log          *slog.Logger
	lost         prometheus.Counter
	urgent, rest chan events.Event
}

func newOutbox(bus Bus, log *slog.Logger, lost prometheus.Counter) *outbox {
	return &outbox{
		bus: bus, log: log, lost: lost,
		urgent: make(chan events.Event, outboxSize), rest: make(chan events.Event, outboxSize),
	}
}

// put takes events to publish. It never waits: what does not fit is lost, and counted.
func (o *outbox) put(list ...events.Event) {
	for _, e := range list {
		lane := o.rest
		switch e.(type) {
		case *events.LockReleased, *events.Revoked:
			lane = o.urgent
		}
		select {
		case lane <- e:
		default:
			o.drop(e, "the outbox is full")
		}
	}
}

// run publishes until ctx ends, and then what is left for at most outboxDrain. The caller
// has stopped everything that puts by then.
func (o *outbox) run(ctx context.Context) {
	var workers sync.WaitGroup
	for _, lane := range []chan events.Event{o.urgent, o.rest} {
		for range outboxWorkers {
			workers.Go(func() { o.work(ctx, lane) })
		}
	}
	workers.Wait()
}

func (o *outbox) work(ctx context.Context, lane <-chan events.Event) {
	for {
		select {
		case e := <-lane:
			o.publish(context.WithoutCancel(ctx), e)
			continue
		case <-ctx.Done():
		}
		break
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), outboxDrain)
	defer cancel()
	for {
		select {
		case e := <-lane:
			o.publish(drain, e)
		default:
			return
		}
	}
}

func (o *outbox) publish(ctx context.Context, e events.Event) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := o.send(ctx, e); err != nil {
		o.drop(e, err.Error())
	}
}

// send publishes an event now, for those who may answer only when it is stored.
func (o *outbox) send(ctx context.Context, e events.Event) error {
	data, err := events.Encode(e)
	if err != nil {
		return err
	}
	return o.bus.Publish(ctx, e.Subject().String(), data)
}

// drop counts an event that was not published. The fact it tells of stands without it.
func (o *outbox) drop(e events.Event, why string) {
	o.lost.Inc()
	o.log.LogAttrs(context.Background(), slog.LevelWarn, "event not published",
		slog.String("subject", e.Subject().String()), slog.String("error", why))
}
