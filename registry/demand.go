package registry

import (
	"maps"
	"math"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// demandLife is how long what a token service says of its sessions counts: three times as long as
// until it says it again. maxServices bounds the services that are heard.
const (
	demandLife  = 30 * time.Second
	maxServices = 256
)

// DemandSeen is what a token service of the region says of where its sessions come from. It is not
// changed afterwards.
type DemandSeen struct{ Demand *events.Demand }

func (DemandSeen) event() {}

// demands are the last words of the region's token services, by service.
type demands map[string]spokenDemand

type spokenDemand struct {
	origins map[string]float64
	heard   time.Time
}

// demanded folds what a token service says.
func (t *Table) demanded(d *events.Demand, now time.Time) []Effect {
	if d.Region != t.region {
		return []Effect{Skipped{SkipForeign}}
	}
	maps.DeleteFunc(t.demands, func(_ string, s spokenDemand) bool { return now.Sub(s.heard) >= demandLife })
	if _, known := t.demands[d.Service]; !known && len(t.demands) >= maxServices {
		return []Effect{Skipped{SkipTooMany}}
	}
	t.demands[d.Service] = spokenDemand{d.Origins, now}
	return nil
}

// Demand returns how many sessions that are closest to each region this one serves, to a tenth. nil:
// no token service has said so lately.
func (t *Table) Demand(now time.Time) map[string]float64 {
	var all placement.Demand
	for _, s := range t.demands {
		if now.Sub(s.heard) < demandLife {
			if all == nil {
				all = placement.Demand{}
			}
			all.Add(s.origins)
		}
	}
	if len(all) > maxRegions {
		return nil // no fleet has as many
	}
	for region, n := range all {
		all[region] = math.Round(n*10) / 10
	}
	return all
}
