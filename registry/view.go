package registry

import (
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// View is the active-server view as of one moment: immutable, for any number of readers.
type View struct {
	// View is what placement.Decide reads.
	placement.View
	// Servers are the servers of all regions, sorted by region and id.
	Servers []events.Server

	byID map[string]int
	seqs map[string]uint64
	// current is when the view's source was last known to be complete, in Unix nanoseconds.
	// It goes on being proven after the view was made.
	current *atomic.Int64
}

// NewView returns the view of the servers, which must be sorted by region and id and are not
// changed afterwards. seqs holds the newest view update of each region that it includes;
// current tells, in Unix nanoseconds, when it was last known to be complete.
func NewView(servers []events.Server, seqs map[string]uint64, current *atomic.Int64) *View {
	v := &View{Servers: servers, byID: make(map[string]int, len(servers)), seqs: seqs, current: current}
	list := make([]placement.Server, len(servers))
	for i := range servers {
		s := &servers[i]
		if _, twice := v.byID[s.Server]; !twice {
			v.byID[s.Server] = i
		}
		list[i] = placement.Server{
			ID: s.Server, Region: s.Region, State: s.State, Capacity: float64(s.Capacity),
			Utilisation: s.Load.Utilisation, Location: s.Location, Replication: s.Replication,
		}
		if s.State == events.StateDraining {
			list[i].DrainingSince = s.Since
		}
	}
	v.View = placement.NewView(list)
	return v
}

// Server returns the server with that id, false if the view has none.
func (v *View) Server(id string) (events.Server, bool) {
	i, ok := v.byID[id]
	if !ok {
		return events.Server{}, false
	}
	return v.Servers[i], true
}

// Seqs returns the sequence of the newest view update of each region that the view includes.
func (v *View) Seqs() map[string]uint64 { return maps.Clone(v.seqs) }

// Age returns how long ago the view was last known to be complete.
func (v *View) Age(now time.Time) time.Duration {
	return max(0, now.Sub(time.Unix(0, v.current.Load())))
}

// seqsOf returns the highest sequence of each region's values.
func seqsOf(servers []events.Server) map[string]uint64 {
	seqs := map[string]uint64{}
	for i := range servers {
		seqs[servers[i].Region] = max(seqs[servers[i].Region], servers[i].Seq)
	}
	return seqs
}

// loadStep is the step, as a fraction, by which a change of utilisation is worth telling.
const loadStep = 0.02

// differs reports whether two values of a server differ in more than the time of sight: in
// anything that a decision or an operator reads, the load in steps of loadStep.
func differs(a, b events.Server) bool {
	if step(a.Load.Utilisation) != step(b.Load.Utilisation) {
		return true
	}
	if !maps.Equal(a.Replication, b.Replication) {
		return true
	}
	return a.URL != b.URL || a.HealthURL != b.HealthURL || a.AuthURL != b.AuthURL || a.Boot != b.Boot ||
		a.State != b.State || a.Capacity != b.Capacity || a.Location != b.Location || a.IntervalMS != b.IntervalMS
}

func step(utilisation float64) int { return int(math.Round(utilisation / loadStep)) }

// sorted returns the values of a map of servers in the order of a view.
func sorted(servers map[string]events.Server) []events.Server {
	return slices.SortedFunc(maps.Values(servers), compareServers)
}
