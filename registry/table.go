package registry

import (
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// Event is something that a Table learns: one of HeartbeatSeen, LoadSeen, ProbeDone, UpdateSeen,
// ViewAnswered, Witnessed, Surveyed, SequenceSeen, Restored, Elected, WishesSeen, Disconnected,
// Reported, BadInput, Gap and Ticked.
type Event interface{ event() }

// HeartbeatSeen is a heartbeat of the own region. The table keeps none of it but its strings and
// its Replication, which is not changed afterwards.
type HeartbeatSeen struct {
	Heartbeat *events.Heartbeat
	// Stored says that it was read from a stream: its facts count, but it is no sign of life,
	// for its sender may have died since.
	Stored bool
}

// ProbeDone is what came of a ProbeDue.
type ProbeDone struct {
	Server, Boot string
	// OK says that the health URL answered well, Refused that nobody listens there.
	OK, Refused bool
}

// UpdateSeen is a view update that arrived. The own region's only show how far another of its
// registries has counted.
type UpdateSeen struct{ Update *events.ViewUpdate }

// SequenceSeen is a sequence of the own region's view updates that another registry has used.
type SequenceSeen struct{ Seq uint64 }

// Restored is what berth_servers held when this registry started.
type Restored struct{ Servers []events.Server }

// Gap says that messages may have been missed: the connection has come back, or some were
// dropped.
type Gap struct{}

// Ticked lets time pass. It is due every 50 ms or so.
type Ticked struct{}

func (HeartbeatSeen) event() {}
func (ProbeDone) event()     {}
func (UpdateSeen) event()    {}
func (SequenceSeen) event()  {}
func (Restored) event()      {}
func (Gap) event()           {}
func (Ticked) event()        {}

// Effect is something that a Table wants done: one of StateChanged, RegionChanged, ProbeDue,
// ViewDue, WitnessDue, SurveyDue, UpdateMissed, Complained and Skipped.
type Effect interface{ effect() }

// StateChanged is a server of the own region in a new state.
type StateChanged struct{ State *events.ServerState }

// RegionChanged is a region, or a protection of the own one, to tell operators of.
type RegionChanged struct{ State *events.RegionState }

// ProbeDue asks for a probe of a server; its ProbeDone is awaited.
type ProbeDue struct {
	Server, Boot, URL string
	// First says that nothing is known yet: it goes ahead of those who were asked before.
	First bool
}

// UpdateMissed says that another region has sent an update that did not arrive, or not yet.
// What it held comes with the next full one, or the region is asked (ViewDue).
type UpdateMissed struct{ Region string }

// Skipped counts an event, or a part of one, that changed nothing, for the reason.
type Skipped struct{ Reason string }

func (StateChanged) effect()  {}
func (RegionChanged) effect() {}
func (ProbeDue) effect()      {}
func (UpdateMissed) effect()  {}
func (Skipped) effect()       {}

// Reasons of Skipped.
const (
	SkipTooMany = "too_many"
	SkipOlder   = "older"
	SkipOldBoot = "older_boot"
	SkipForeign = "foreign_region"
)

// Table is a registry's working knowledge of all regions. Its Reduce is deterministic: it
// reads no clock and does no I/O. The same heartbeats and updates leave the same servers, in
// whatever order they came and however often each; only the times at which the table noticed
// something, and the events about it, follow the order. It is owned by one goroutine.
type Table struct {
	region    string
	detection Detection
	// own are the servers of the own region, order the same sorted by id.
	own map[string]*server
	// near is the one that was looked up last, nil if none was: what it said last is compared
	// with what it says next.
	near  *server
	order []*server
	// vigils are of the servers of order, one of each; origin is the zero of their clock.
	vigils []vigil
	origin time.Time
	// processes counts the members of all own servers.
	processes int
	others    map[string]*otherRegion
	// wishes are what operators want of the own region, as of a revision.
	wishes       *Wishes
	wishRevision uint64
	// early holds reports of load of servers that were not heard yet.
	early map[string]*central
	// demands are what the region's token services say of where their sessions come from.
	demands demands
	// gap is when messages were last missed, ticked when time last passed.
	gap, ticked time.Time
	// hushed is when operators were last told of a gap.
	hushed     time.Time
	complaints complaints
	protection
	telling
	showing
}

// NewTable returns the table of a region's registry.
func NewTable(region string, d Detection) *Table {
	return &Table{
		region: region, detection: d.withDefaults(), own: map[string]*server{},
		others: map[string]*otherRegion{}, early: map[string]*central{}, demands: demands{}, telling: telling{dueKeys: map[string]struct{}{}},
	}
}

// Servers returns the servers of all regions as they count here, sorted by region and id.
func (t *Table) Servers() []events.Server {
	list := make([]events.Server, 0, t.size())
	t.each(func(s *server) { list = append(list, *t.copied(s)) }, func(v *events.Server) { list = append(list, *v) })
	return list
}

// size returns how many servers there are.
func (t *Table) size() int {
	n := len(t.order)
	for _, o := range t.others {
		n += len(o.servers)
	}
	return n
}

// each calls own with each server of the own region and other with each of the others as it
// counts here, sorted by region and id.
func (t *Table) each(own func(*server), other func(*events.Server)) {
	names := append(sortedKeys(t.others), t.region)
	slices.Sort(names)
	for _, name := range names {
		if name == t.region {
			for _, s := range t.order {
				own(s)
			}
			continue
		}
		o := t.others[name]
		for _, v := range o.servers {
			other(o.shown(v))
		}
	}
}

// find returns the own server with that id; it makes one if there is room for it.
func (t *Table) find(id string) (s *server, ok bool) {
	if t.near != nil && t.near.value.Server == id {
		return t.near, true
	}
	if s, ok = t.own[id]; ok {
		return s, true
	}
	if len(t.own) >= t.detection.MaxServers {
		return nil, false
	}
	at, _ := slices.BinarySearchFunc(t.order, id, byID)
	s = &server{central: t.early[id]}
	delete(t.early, id)
	s.value.Server, s.value.Region = id, t.region
	t.own[id] = s
	t.order = slices.Insert(t.order, at, s)
	t.vigils = slices.Insert(t.vigils, at, vigil{server: s})
	t.number(at)
	return s, true
}

// last returns what a server has said last, of its members the first; nil if it is not known.
func (t *Table) last(id string) *events.Heartbeat {
	s, ok := t.own[id]
	if !ok || len(s.members) == 0 {
		return nil
	}
	t.near = s
	return s.members[0].counts.last
}

// remove forgets an own server.
func (t *Table) remove(s *server) {
	id := s.value.Server
	delete(t.own, id)
	t.near = nil
	if at, ok := slices.BinarySearchFunc(t.order, id, byID); ok {
		t.order, t.vigils = slices.Delete(t.order, at, at+1), slices.Delete(t.vigils, at, at+1)
		t.number(at)
	}
	t.processes -= len(s.members)
	s.removed = true
	t.dueKey(s.value.Key())
	if len(t.order) > 0 {
		t.due(t.order[0], true)
	}
}

// number writes into the servers of order where they are, from a place on.
func (t *Table) number(from int) {
	for i := from; i < len(t.order); i++ {
		t.order[i].place = i
	}
}

func byID(s *server, id string) int { return strings.Compare(s.value.Server, id) }
