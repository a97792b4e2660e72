package tokens

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// silence is how long a region's view updates must have stopped before its sessions can be
// taken over.
const silence = 5 * time.Second

// maxSeen bounds the regions that are heard.
const maxSeen = 256

// sight knows which regions are heard here, and by which others (V15).
type sight struct {
	began time.Time

	// mu guards heard: of each region the last view update.
	mu    sync.Mutex
	heard map[string]heardRegion
}

type heardRegion struct {
	at time.Time
	// sees is how long before that the region had heard each other, in milliseconds.
	sees map[string]int64
}

func newSight(now time.Time) *sight { return &sight{began: now, heard: map[string]heardRegion{}} }

// hear notes a view update.
func (s *sight) hear(u events.ViewHead, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.heard[u.Region]; known || len(s.heard) < maxSeen {
		s.heard[u.Region] = heardRegion{now, u.Sees}
	}
}

// silent reports whether a region counts as gone: for silence it was not heard here, nor by any
// region that is. witnesses are those that do hear it.
func (s *sight) silent(region string, now time.Time) (silent bool, witnesses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.began
	if h, ok := s.heard[region]; ok {
		last = h.at
	}
	silent = now.Sub(last) >= silence
	for name, h := range s.heard {
		ms, sees := h.sees[region]
		if name == region || now.Sub(h.at) >= silence || !sees {
			continue
		}
		if time.Duration(ms)*time.Millisecond+now.Sub(h.at) < silence {
			silent = false
			witnesses = append(witnesses, name)
		}
	}
	return silent, witnesses
}

// hearViews hears the view updates of all regions until ctx ends, for those who take over
// sessions of a region that is silent and those who tell one that is back. While NATS is away it
// tries again.
func (s *Service) hearViews(ctx context.Context) {
	s.hear(ctx, events.Subject{Kind: events.KindView}.Filter(), func(subject string, data []byte) {
		s.retelling.hear(subject, time.Now())
		u, err := events.DecodeViewHead(subject, data)
		if err != nil {
			s.metrics.skippedEvents.Inc()
			return
		}
		s.sight.hear(u, time.Now())
		s.market.hear(u, time.Now())
		s.hearLease(u)
	})
}

// hearRetry is the pause before events are subscribed to again.
const hearRetry = time.Second

// hear calls fn with what comes on a subject until ctx ends.
func (s *Service) hear(ctx context.Context, subject string, fn func(subject string, data []byte)) {
	for ctx.Err() == nil {
		stop, err := s.cfg.Bus.Subscribe(ctx, subject, fn)
		if err == nil {
			defer stop()
			<-ctx.Done()
			return
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "events are not heard, will try again",
			slog.String("subject", subject), slog.String("error", err.Error()))
		_ = wait(ctx, hearRetry) // or ctx has ended
	}
}
