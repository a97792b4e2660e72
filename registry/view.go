package registry

import (
	"cmp"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// View is the active-server view as of one moment: immutable, for any number of readers.
type View struct {
	// View is what placement.Decide reads.
	placement.View
	// Servers are the servers of all regions, sorted by region and id; for reading only.
	Servers []*events.Server

	// starts holds, for each of Regions, the index of its first server in Servers.
	starts []int
	seqs   map[string]uint64
	// base is the view that this one was made of by Informed, nil for none; added what it added.
	base  *View
	added placement.Added
	// settled is when the last slow start in it ends.
	settled time.Time
	// current is when the view's source was last known to be complete, in Unix nanoseconds.
	// It goes on being proven after the view was made.
	current *atomic.Int64
}

// NewView returns the view of the servers, which must be sorted by region and id and are not
// changed afterwards. For placement those that are suspect under fail_open are up, and those
// in slow start are as small as at now. seqs holds the newest view update of each region that it includes;
// current tells, in Unix nanoseconds, when it was last known to be complete.
func NewView(servers []events.Server, seqs map[string]uint64, current *atomic.Int64, now time.Time) *View {
	list := make([]*events.Server, len(servers))
	for i := range servers {
		list[i] = &servers[i]
	}
	return newView(list, seqs, current, now)
}

func newView(servers []*events.Server, seqs map[string]uint64, current *atomic.Int64, now time.Time) *View {
	v := &View{Servers: servers, seqs: seqs, current: current}
	list := make([]placement.Server, len(servers))
	for i, s := range servers {
		list[i] = candidate(s, now)
		v.settled = latest(v.settled, settles(s))
	}
	v.View = placement.NewView(list, settingsOf(servers)...)
	v.starts = make([]int, len(v.Regions))
	for i, s := range servers {
		if i == 0 || s.Region != servers[i-1].Region {
			if r, ok := v.Region(s.Region); ok {
				v.starts[r] = i
			}
		}
	}
	return v
}

// candidate returns a server as placement sees it at now.
func candidate(s *events.Server, now time.Time) placement.Server {
	c := placement.Server{
		ID: s.Server, Region: s.Region, State: s.State, Capacity: Effective(s, now),
		Utilisation: s.Load.Utilisation, Location: s.Location, RejoinedAt: s.RejoinedAt, Replication: s.Replication,
	}
	if s.State == events.StateSuspect && s.Protection == events.FailOpen && s.DrainUntil.IsZero() {
		c.State = events.StateUp
	}
	if s.State == events.StateDraining {
		c.DrainingSince, c.DrainUntil = s.Since, s.DrainUntil
	}
	return c
}

// settles returns when a server's slow start ends, zero if it is in none.
func settles(s *events.Server) time.Time {
	if s.RejoinedAt.IsZero() || s.Settled {
		return time.Time{}
	}
	return s.RejoinedAt.Add(slowStart)
}

// Server returns the server with that id, false if the view has none.
func (v *View) Server(id string) (events.Server, bool) {
	at, ok := v.Find(id)
	if !ok {
		return events.Server{}, false
	}
	// A server whose id another region has too is left out of the placement.View: those
	// after it stand further on here.
	for i := v.starts[at.Region] + at.Server; i < len(v.Servers); i++ {
		if v.Servers[i].Server == id {
			return *v.Servers[i], true
		}
	}
	return events.Server{}, false
}

// Seqs returns the sequence of the newest view update of each region that the view includes.
func (v *View) Seqs() map[string]uint64 { return maps.Clone(v.seqs) }

// Informed returns the view with what is known besides it: regions' prices, the times between them,
// and what sessions on their way add to servers. v stays as it is.
func (v *View) Informed(p placement.Prices, t placement.Times, a placement.Added) *View {
	next := *v
	next.added, next.base = a, v
	if len(p) > 0 {
		next.View = next.WithPrices(p)
	}
	if t != nil {
		next.View = next.WithTimes(t)
	}
	if len(a) > 0 {
		next.View = next.WithAdded(a)
	}
	return &next
}

// Base returns the view as it was before it was Informed, which may be itself.
func (v *View) Base() *View {
	if v.base != nil {
		return v.base
	}
	return v
}

// Added returns what sessions on their way add to servers, nil for nothing. It is for reading only.
func (v *View) Added() placement.Added { return v.added }

// Age returns how long ago the view was last known to be complete.
func (v *View) Age(now time.Time) time.Duration {
	return max(0, now.Sub(time.Unix(0, v.current.Load())))
}

// settingsOf returns what is set of the regions of servers sorted by region and id, as the
// newest value of each says, the first by id of several; none for a region with nothing set.
func settingsOf(servers []*events.Server) (settings []placement.Setting) {
	for i := 0; i < len(servers); {
		newest, end := servers[i], i+1
		for ; end < len(servers) && servers[end].Region == newest.Region; end++ {
			if servers[end].Seq > newest.Seq {
				newest = servers[end]
			}
		}
		if newest.RegionRole != "" || newest.RegionWeight != nil {
			settings = append(settings, placement.Setting{
				Region: newest.Region, Role: newest.RegionRole, Weight: events.WeightOf(newest.RegionWeight),
			})
		}
		i = end
	}
	return settings
}

// seqsOf returns the highest sequence of each region's values.
func seqsOf(servers []*events.Server) map[string]uint64 {
	seqs := map[string]uint64{}
	for i := 0; i < len(servers); {
		region, highest := servers[i].Region, servers[i].Seq
		for ; i < len(servers) && servers[i].Region == region; i++ {
			highest = max(highest, servers[i].Seq)
		}
		seqs[region] = max(seqs[region], highest)
	}
	return seqs
}

func compareServers(a, b *events.Server) int {
	return cmp.Or(strings.Compare(a.Region, b.Region), strings.Compare(a.Server, b.Server))
}
