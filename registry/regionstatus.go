package registry

import (
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// heardAges is how long ago this registry had heard each other region, as of a moment.
type heardAges struct {
	at    time.Time
	ageMS map[string]int64
}

// look notes that about once a second.
func (r *Registry) look(now time.Time) {
	if last := r.sees.Load(); last == nil || now.Sub(last.at) >= time.Second {
		r.sees.Store(&heardAges{at: now, ageMS: r.table.Sees(now)})
	}
}

// RegionStatus is a region as a registry sees it.
type RegionStatus struct {
	Region string      `json:"region"`
	Role   events.Role `json:"role"`
	Weight int         `json:"weight"`
	// Up to Left are how many servers are in each state.
	Up       int `json:"up"`
	Suspect  int `json:"suspect"`
	Draining int `json:"draining"`
	Down     int `json:"down"`
	Left     int `json:"left"`
	// Usable is how many take new sessions, Capacity what they can hold now, Sessions what all
	// that live hold. Utilisation is that of the usable ones, by capacity.
	Usable      int     `json:"usable"`
	Capacity    int     `json:"capacity"`
	Sessions    int     `json:"sessions"`
	Utilisation float64 `json:"utilisation"`
	// Reachable says that the region is heard, AgeMS how long ago it was last: -1 if it was not
	// since this registry started.
	Reachable bool  `json:"reachable"`
	AgeMS     int64 `json:"age_ms"`
}

// Regions returns every region as this registry sees it, sorted by name. An error is a
// *Refusal: it has no view yet.
func (r *Registry) Regions(now time.Time) ([]RegionStatus, error) {
	view, sees := r.View(), r.sees.Load()
	if view == nil || sees == nil {
		return nil, refuse(RefusedUnavailable, "the registry of %s is not ready", r.cfg.Region)
	}
	regions := make([]RegionStatus, len(view.Regions))
	for i := range view.Regions {
		g := &view.Regions[i]
		regions[i] = statusOf(g)
		if g.Name != r.cfg.Region {
			ms, heard := sees.ageMS[g.Name]
			age := time.Duration(ms)*time.Millisecond + max(0, now.Sub(sees.at))
			regions[i].AgeMS, regions[i].Reachable = age.Milliseconds(), heard && age < r.cfg.Detection.withDefaults().Unreachable
			if !heard {
				regions[i].AgeMS = -1
			}
		}
	}
	for i := range view.Servers {
		s := view.Servers[i]
		at, ok := view.Region(s.Region)
		if !ok {
			continue
		}
		regions[at].count(s)
	}
	return regions, nil
}

func statusOf(g *placement.Region) RegionStatus {
	s := RegionStatus{Region: g.Name, Role: g.Role, Weight: g.Weight, Usable: g.Usable, Utilisation: g.Mean, Reachable: true}
	for i := range g.ID {
		if g.State[i] == events.StateUp {
			s.Capacity += int(g.Capacity[i])
		}
	}
	return s
}

// count adds a server to its region's status.
func (r *RegionStatus) count(s *events.Server) {
	switch s.State {
	case events.StateUp:
		r.Up++
	case events.StateSuspect:
		r.Suspect++
	case events.StateDraining:
		r.Draining++
	case events.StateDown:
		r.Down++
	case events.StateLeft:
		r.Left++
	}
	if s.State.Alive() {
		r.Sessions += s.Load.Sessions
	}
}
