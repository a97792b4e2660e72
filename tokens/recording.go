package tokens

import (
	"context"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
	"github.com/berthhq/berth/registry"
)

// Times and bounds of a recording.
const (
	// wholeEvery is how often a view is recorded as a whole: who reads the record from some time on,
	// or finds a gap in it, waits no longer for what it can begin with.
	wholeEvery = 30 * time.Second
	// recentViews is how many views are known by their numbers: a request that has taken its time was
	// decided by one that is not the newest.
	recentViews = 8
	// recordingSize is how many views wait to be written. They are shared for the most part; those of a
	// fleet of 10 000 servers may hold half a megabyte each.
	recordingSize = 64
)

// recording has the views recorded that decisions were made by, and numbers them. What it costs a
// decision is a look at the last few; the rest is done by one goroutine. While NATS takes nothing, views
// are left out: the decisions made by them cannot be made again then, and say so by a number that no
// sight has.
type recording struct {
	region, instance string
	outbox           *outbox
	queue            chan sighting

	// mu guards the fields below: the last views, a ring that goes on at next; the last number; when a
	// whole view was recorded last.
	mu     sync.Mutex
	recent [recentViews]sighting
	next   int
	number uint64
	whole  time.Time
}

// sighting is a view with its number.
type sighting struct {
	view   *registry.View
	number uint64
	whole  bool
	at     time.Time
}

// newRecording returns the recording of a service. Its instance is never another's: numbers begin anew
// with each, and one that meant two views would make a wrong decision of a good one.
func newRecording(region string, o *outbox) *recording {
	return &recording{region: region, instance: newID(), outbox: o, queue: make(chan sighting, recordingSize)}
}

// sight returns the number of a view, by which a decision at now names it. It never waits.
func (r *recording) sight(view *registry.View, now time.Time) uint64 {
	s, left := r.note(view, now)
	if left {
		r.outbox.drop(&events.Sight{Region: r.region, Instance: r.instance}, "too many views wait")
	}
	return s
}

// note is sight, and reports whether the view is left out.
func (r *recording) note(view *registry.View, now time.Time) (number uint64, left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole := now.Sub(r.whole) >= wholeEvery
	for i := range r.recent {
		if !whole && r.recent[i].view == view {
			return r.recent[i].number, false
		}
	}
	r.number++
	s := sighting{view: view, number: r.number, whole: whole, at: now}
	if whole {
		r.whole = now
		clear(r.recent[:])
	}
	r.recent[r.next] = s
	r.next = (r.next + 1) % recentViews
	select {
	case r.queue <- s:
		return s.number, false
	default:
	}
	if whole {
		r.whole = time.Time{} // the next one is
	}
	return s.number, true
}

// run records until ctx ends, and then what is left for at most outboxDrain. The caller has stopped
// everything that decides by then.
func (r *recording) run(ctx context.Context) {
	var last sighting // what was recorded before
	for {
		select {
		case s := <-r.queue:
			r.record(ctx, &last, s)
			continue
		case <-ctx.Done():
		}
		break
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), outboxDrain)
	defer cancel()
	for drain.Err() == nil {
		select {
		case s := <-r.queue:
			r.record(drain, &last, s)
		default:
			return
		}
	}
}

// record publishes a view, and those that wait behind it.
func (r *recording) record(ctx context.Context, last *sighting, s sighting) {
	batch := r.sending(nil, last, s)
	for len(batch) < outboxBatch {
		select {
		case s := <-r.queue:
			batch = r.sending(batch, last, s)
			continue
		default:
		}
		break
	}
	r.outbox.publish(ctx, batch)
}

// sending appends what tells of a view after the last one.
func (r *recording) sending(batch []sending, last *sighting, s sighting) []sending {
	head := events.Sight{
		Version: events.Version, Region: r.region, Instance: r.instance, At: s.at.UTC(),
		Number: s.number, Since: last.number, Whole: s.whole || last.view == nil,
	}
	before := &placement.View{}
	if last.view != nil {
		before = &last.view.View
	}
	for _, part := range replay.Sights(head, &s.view.View, before) {
		batch = append(batch, sending{event: part})
	}
	*last = s
	return batch
}
