package tokens

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
)

// Bounds of the outbox. A stream that elects a leader answers nobody for 4 to 7 s; meanwhile
// requests go on, and what would grow without bound is dropped and counted.
const (
	outboxSize = 8192
	// outboxRest is what 5000 events a second come to in 13 s. What happened to a session takes
	// 0.3 KB while it waits, a move with a dozen round-trip times 1.3 KB: a full lane takes 20 to
	// 85 MB (half a GB if each were a move with the most that a client may say), an empty one 1 MB.
	outboxRest     = 1 << 16
	urgentWorkers  = 4
	outboxBatch    = 256
	publishTimeout = time.Second
	outboxDrain    = time.Second
	// An event that is not stored is sent again after outboxPause, then ever more slowly, until
	// outboxPatience has passed since its batch was begun; those behind it wait, as many as the
	// lane holds.
	outboxPause    = 100 * time.Millisecond
	outboxPatience = 5 * time.Minute
	// dropEvery is how often the log tells of events that were dropped.
	dropEvery = time.Second
)

// outbox publishes events after the facts they tell of are durable, so that no client waits
// for them. Locks and revocations, which servers act on, have a lane of their own.
type outbox struct {
	bus          Bus
	log          *slog.Logger
	lost         prometheus.Counter
	urgent, rest chan events.Event
	// passing is for what is heard and not kept: it needs no stream.
	passing chan events.Event

	// mu guards when the log last told of an event that was dropped, and how many were since.
	mu      sync.Mutex
	told    time.Time
	dropped int
}

func newOutbox(bus Bus, log *slog.Logger, lost prometheus.Counter) *outbox {
	return &outbox{
		bus: bus, log: log, lost: lost,
		urgent: make(chan events.Event, outboxSize), rest: make(chan events.Event, outboxRest),
		passing: make(chan events.Event, outboxSize),
	}
}

// put takes events to publish. It never waits: what does not fit is lost, and counted.
func (o *outbox) put(list ...events.Event) {
	for _, e := range list {
		lane := o.rest
		switch e.(type) {
		case *events.LockReleased, *events.Revoked:
			lane = o.urgent
		case *events.Report:
			lane = o.passing
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
	for range urgentWorkers {
		workers.Go(func() { o.work(ctx, o.urgent) })
	}
	// One for the rest: while it waits for NATS the next batch gathers, and NATS is spared the
	// many small ones that several workers would make of it.
	workers.Go(func() { o.work(ctx, o.rest) })
	workers.Go(func() { o.work(ctx, o.passing) })
	workers.Wait()
}

func (o *outbox) work(ctx context.Context, lane <-chan events.Event) {
	batch := make([]sending, 0, outboxBatch)
	for {
		select {
		case e := <-lane:
			o.publish(ctx, fill(batch, e, lane))
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
			if drain.Err() != nil {
				o.drop(e, "the service has ended")
				continue
			}
			o.publish(drain, fill(batch, e, lane))
		default:
			return
		}
	}
}

// sending is an event on its way.
type sending struct {
	event events.Event
	data  []byte                      // the event as it is sent
	wait  func(context.Context) error // nil: it is not on its way yet
}

// fill returns the event and those that wait behind it.
func fill(batch []sending, e events.Event, lane <-chan events.Event) []sending {
	batch = append(batch[:0], sending{event: e})
	for len(batch) < cap(batch) {
		select {
		case e := <-lane:
			batch = append(batch, sending{event: e})
		default:
			return batch
		}
	}
	return batch
}

// publish sends all events and then waits until they are stored, so that many take not much
// longer than one. One that is not stored so is published by itself: while a stream elects its
// leader, or NATS is away, as few are lost as can be.
func (o *outbox) publish(ctx context.Context, batch []sending) {
	batch = o.encode(batch)
	if bus, ok := o.bus.(Beginner); ok && len(batch) > 1 {
		for i := range batch {
			batch[i].begin(bus)
		}
	}
	began := time.Now()
	all, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	for i, s := range batch {
		if s.wait == nil || s.wait(all) != nil {
			o.publishOne(ctx, all, began, s)
		}
		batch[i] = sending{}
	}
}

// encode writes the events of a batch, once for all attempts. What cannot be written now never can:
// it is dropped, and holds up nobody.
func (o *outbox) encode(batch []sending) []sending {
	kept := batch[:0]
	for _, s := range batch {
		data, err := events.Encode(s.event)
		if err != nil {
			o.drop(s.event, err.Error())
			continue
		}
		kept = append(kept, sending{event: s.event, data: data})
	}
	clear(batch[len(kept):])
	return kept
}

// begin hands the event to NATS. If that fails it is not on its way.
func (s *sending) begin(bus Beginner) {
	if wait, err := bus.Begin(s.event.Subject().String(), s.data); err == nil {
		s.wait = wait
	}
}

// publishOne publishes an event of a batch, again and again until ctx ends, and then as long as the
// batch has time.
func (o *outbox) publishOne(ctx, batch context.Context, began time.Time, s sending) {
	for pause := outboxPause; ; pause = min(2*pause, publishTimeout) {
		parent := context.WithoutCancel(ctx)
		if ctx.Err() != nil {
			parent = batch
		}
		once, cancel := context.WithTimeout(parent, publishTimeout)
		err := o.bus.Publish(once, s.event.Subject().String(), s.data)
		cancel()
		if err == nil {
			return
		}
		if time.Since(began) >= outboxPatience || wait(ctx, pause) != nil {
			o.drop(s.event, err.Error())
			return
		}
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

// drop counts an event that was not published. The fact it tells of stands without it. Of thousands a
// second one is told of.
func (o *outbox) drop(e events.Event, why string) {
	o.lost.Inc()
	o.mu.Lock()
	o.dropped++
	n, now := o.dropped, time.Now()
	tell := now.Sub(o.told) >= dropEvery
	if tell {
		o.told, o.dropped = now, 0
	}
	o.mu.Unlock()
	if tell {
		o.log.LogAttrs(context.Background(), slog.LevelWarn, "event not published",
			slog.String("subject", e.Subject().String()), slog.String("error", why), slog.Int("since_last", n))
	}
}
