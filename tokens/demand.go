package tokens

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// How the sessions of a service are counted: a refresh stands for the time since the one before, so
// that what a window gathers, divided by its length, is how many sessions there are (Little's law).
const (
	// demandEvery is how often the count is told, demandWindows how many of these it is taken over:
	// the longest that access tokens live.
	demandEvery   = 10 * time.Second
	demandWindows = int(MaxAccessTTL / demandEvery)
	// maxOrigins bounds the regions of origin.
	maxOrigins = 256
)

// demand counts the sessions that a service refreshes, by the region that is closest to them.
type demand struct {
	// longest is the most that one refresh stands for: who was silent for longer was not served.
	longest time.Duration
	began   time.Time

	// mu guards windows: seconds of sessions by origin, the present window first.
	mu      sync.Mutex
	windows []map[string]float64
}

func newDemand(accessTTL time.Duration, now time.Time) *demand {
	return &demand{longest: 2 * accessTTL, began: now, windows: []map[string]float64{{}}}
}

// add counts a refresh of a session whose client is closest to a region.
func (d *demand) add(origin string, since time.Duration) {
	if origin == "" || since <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.windows[0]
	if _, known := w[origin]; known || len(w) < maxOrigins {
		w[origin] += min(since, d.longest).Seconds()
	}
}

// turn ends the present window and returns how many sessions there are of each origin.
func (d *demand) turn(now time.Time) map[string]float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]float64{}
	for _, w := range d.windows {
		placement.Demand(all).Add(w)
	}
	over := min(now.Sub(d.began), time.Duration(len(d.windows))*demandEvery).Seconds()
	for origin, seconds := range all {
		if n := math.Round(seconds/over*10) / 10; over > 0 && n > 0 && len(all) <= maxOrigins {
			all[origin] = n
		} else {
			delete(all, origin)
		}
	}
	d.windows = append([]map[string]float64{{}}, d.windows[:min(len(d.windows), demandWindows-1)]...)
	return all
}

// tellDemand tells the region's registry of the demand until ctx ends.
func (s *Service) tellDemand(ctx context.Context) {
	every(ctx, demandEvery, func(now time.Time) {
		if origins := s.demand.turn(now); len(origins) > 0 {
			s.outbox.put(&events.Demand{Version: events.Version, Region: s.cfg.Region, Service: s.name, At: now.UTC(), Origins: origins})
		}
	})
}
