package tokens

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// Recent reads the events that the region's stream has kept.
//
// Read calls fn, one at a time, for each stored event since a time on any of the subjects, and
// returns nil only after the last that was stored when it was called. An error, ctx's among
// them, means that some may be missing; events may come twice. It waits for no writer.
type Recent interface {
	Read(ctx context.Context, subjects []string, since time.Time, fn func(subject string, data []byte)) error
}

// Times of telling revocations again to a region that may have missed them.
const (
	// regionSilence is how long a region's view updates, one a second, stay away before it may
	// have missed what was published.
	regionSilence = 3 * time.Second
	// retellSpan is how far apart in time the revocations of one event may be.
	retellSpan = 10 * time.Second
	// maxRegions bounds the regions that are remembered.
	maxRegions = 1024
)

// retellPauses are the pauses before each telling: the first may come before the streams of the
// region that is back have their leaders.
func retellPauses() []time.Duration { return []time.Duration{0, 2 * time.Second, 8 * time.Second} }

// retelling tells the region's recent revocations again once a region is heard again that was
// out of reach, be it by a cut or because its NATS was away: nobody there has the events, and
// access tokens outlive them. What is told twice changes nothing.
type retelling struct {
	s   *Service
	due chan struct{}

	// mu guards when each other region was last heard.
	mu    sync.Mutex
	heard map[string]time.Time
}

func newRetelling(s *Service) *retelling {
	return &retelling{s: s, due: make(chan struct{}, 1), heard: make(map[string]time.Time)}
}

// run tells again, three times for the last region that is back, until ctx ends.
func (r *retelling) run(ctx context.Context) {
	pauses := retellPauses()
	left := pauses[len(pauses):]
	for {
		var next <-chan time.Time
		if len(left) > 0 {
			next = time.After(left[0])
		}
		select {
		case <-ctx.Done():
			return
		case <-r.due:
			left = pauses
			continue
		case <-next:
			left = left[1:]
		}
		if err := r.tell(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.s.log.LogAttrs(ctx, slog.LevelWarn, "revocations were not told again to a region that is back",
				slog.String("error", err.Error()))
		}
	}
}

// hear notes a view update of a region.
func (r *retelling) hear(subject string, now time.Time) {
	s, err := events.ParseSubject(subject)
	if err != nil || s.Region == r.s.cfg.Region {
		return
	}
	r.mu.Lock()
	last, known := r.heard[s.Region]
	if known || len(r.heard) < maxRegions {
		r.heard[s.Region] = now
	}
	r.mu.Unlock()
	if known && now.Sub(last) < regionSilence {
		return
	}
	notify(r.due)
}

// tell publishes the region's own revocations of the recent past once more.
func (r *retelling) tell(ctx context.Context, now time.Time) error {
	since := now.Add(-tellLife)
	first := map[string]time.Time{}
	subject := events.Subject{Kind: events.KindRevoked, Region: r.s.cfg.Region}.String()
	err := r.s.cfg.Recent.Read(ctx, []string{subject}, since, func(subject string, data []byte) {
		e, err := events.Decode(subject, data)
		if err != nil {
			r.s.metrics.skippedEvents.Inc()
			return
		}
		revoked, ok := e.(*events.Revoked)
		if !ok || revoked.At.Before(since) {
			return
		}
		for _, id := range revoked.Sessions {
			if at, known := first[id]; !known || revoked.At.Before(at) {
				first[id] = revoked.At
			}
		}
	})
	if err != nil {
		return err
	}
	for _, e := range r.merge(first) {
		if err := r.s.outbox.send(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// merge makes few events of many revocations. They keep their times, more or less, so that
// they are not told again for ever.
func (r *retelling) merge(first map[string]time.Time) (list []*events.Revoked) {
	ids := make([]string, 0, len(first))
	for id := range first {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return first[a].Compare(first[b]) })
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && n < events.MaxRevoked && first[ids[n]].Sub(first[ids[0]]) <= retellSpan {
			n++
		}
		list = append(list, r.s.revokedEvent(first[ids[n-1]], ids[:n]...))
		ids = ids[n:]
	}
	return list
}
