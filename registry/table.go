package registry

import (
	"maps"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Event is something that a Table learns: one of HeartbeatSeen, ProbeDone, UpdateSeen,
// Restored, Gap and Ticked.
type Event interface{ event() }

// HeartbeatSeen is a heartbeat of the own region that arrived.
type HeartbeatSeen struct{ Heartbeat *events.Heartbeat }

// ProbeDone is what came of a ProbeDue.
type ProbeDone struct {
	Server, Boot string
	// OK says that the health URL answered well.
	OK bool
}

// UpdateSeen is another region's view update that arrived. The own region's are ignored.
type UpdateSeen struct{ Update *events.ViewUpdate }

// Restored is what berth_servers held when this registry started.
type Restored struct{ Servers []events.Server }

// Gap says that messages may have been missed: the connection has come back.
type Gap struct{}

// Ticked lets time pass. It is due every tick.
type Ticked struct{}

func (HeartbeatSeen) event() {}
func (ProbeDone) event()     {}
func (UpdateSeen) event()    {}
func (Restored) event()      {}
func (Gap) event()           {}
func (Ticked) event()        {}

// Effect is something that a Table wants done: one of StateChanged, RegionChanged, ProbeDue
// and Skipped.
type Effect interface{ effect() }

// StateChanged is a server of the own region in a new state.
type StateChanged struct{ State *events.ServerState }

// RegionChanged is a region, or a protection of the own one, to tell operators of.
type RegionChanged struct{ State *events.RegionState }

// ProbeDue asks for a probe of a server; its ProbeDone is awaited.
type ProbeDue struct{ Server, Boot, URL string }

// Skipped counts an event that changed nothing, for the reason.
type Skipped struct{ Reason string }

func (StateChanged) effect()  {}
func (RegionChanged) effect() {}
func (ProbeDue) effect()      {}
func (Skipped) effect()       {}

// Reasons of Skipped.
const (
	SkipTooMany  = "too_many_servers"
	SkipOlder    = "older"
	SkipOldBoot  = "older_boot"
	SkipForeign  = "foreign_region"
	SkipConflict = "url_conflict"
)

// Table is a registry's working knowledge of all regions. Its Reduce is deterministic: it
// reads no clock and does no I/O, and the same events at the same times leave the same table,
// in whatever order the heartbeats of different servers came, and however often each. It is
// owned by one goroutine.
type Table struct {
	region    string
	detection Detection
	own       map[string]*server
	others    map[string]*otherRegion
	// gap is when messages were last missed, ticked when time last passed.
	gap, ticked time.Time
	// dirty are the keys whose values have changed since Changes was last called.
	dirty map[string]struct{}
}

// NewTable returns the table of a region's registry.
func NewTable(region string, d Detection) *Table {
	return &Table{
		region: region, detection: d.withDefaults(), own: map[string]*server{},
		others: map[string]*otherRegion{}, dirty: map[string]struct{}{},
	}
}

// Changes returns the keys whose values have changed since it was last called, sorted.
func (t *Table) Changes() []string {
	keys := slices.Sorted(maps.Keys(t.dirty))
	clear(t.dirty)
	return keys
}

// Get returns the server under a key, false if there is none any more.
func (t *Table) Get(key string) (events.Server, bool) {
	region, id, ok := cutKey(key)
	if !ok {
		return events.Server{}, false
	}
	if region == t.region {
		if s, ok := t.own[id]; ok {
			return s.value, true
		}
		return events.Server{}, false
	}
	if o, ok := t.others[region]; ok {
		return o.get(id)
	}
	return events.Server{}, false
}

// Servers returns the servers of all regions, sorted by key.
func (t *Table) Servers() []events.Server {
	var list []events.Server
	for _, s := range t.own {
		list = append(list, s.value)
	}
	for _, o := range t.others {
		for id := range o.servers {
			s, _ := o.get(id)
			list = append(list, s)
		}
	}
	slices.SortFunc(list, compareServers)
	return list
}

// Sees returns the age of the last update of each other region, in milliseconds.
func (t *Table) Sees(now time.Time) map[string]int64 {
	sees := make(map[string]int64, len(t.others))
	for name, o := range t.others {
		sees[name] = max(0, now.Sub(o.seen).Milliseconds())
	}
	return sees
}

// stamp marks the value of an own server as brought by a view update.
func (t *Table) stamp(id string, seq uint64) {
	if s, ok := t.own[id]; ok {
		s.value.Seq = seq
	}
}
