package placement

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Server is what placement knows of one server.
type Server struct {
	// ID names the server in the whole fleet; Region is where it stands. A server without
	// either is left out of a View.
	ID, Region string
	State      events.State
	// Capacity is how many sessions the server can hold now: a server in slow start has a
	// part of its own. With 0 it takes no new ones.
	Capacity float64
	// Utilisation is its load as a fraction of what it can bear: 0 idle, 1 full.
	Utilisation float64
	// Location is where it stands; the zero Location is an unknown place.
	Location events.Location
	// DrainingSince is when its drain began, DrainUntil when its sessions are to be gone. Zero
	// unless it is draining; DrainUntil also if none is known.
	DrainingSince, DrainUntil time.Time
	// RejoinedAt is when it came back from the dead; zero: it did not, or long ago.
	RejoinedAt time.Time
	// Replication maps each region of origin to the position that its replica has reached.
	// No rule reads it yet.
	Replication map[string]string
}

// Setting is what operators have set of a region.
type Setting struct {
	Region string
	// Role is empty for an active region.
	Role events.Role
	// Weight is the share, in percent, of the sessions elsewhere that may come to the region.
	Weight int
}

// Bounds of the numbers in a view, so that sums over it stay finite.
const (
	maxCapacity    = 1e9
	maxUtilisation = 1e3
)

// Region is the part of a View that is about one region. Its slices run over its servers,
// sorted by id; they are for reading only.
type Region struct {
	Name string
	// Role is active or standby. Weight is the share, in percent, of the sessions elsewhere
	// that may come here: events.FullWeight unless operators have set another.
	Role   events.Role
	Weight int
	// ID, State, Capacity and Utilisation are the servers'.
	ID          []string
	State       []events.State
	Capacity    []float64
	Utilisation []float64
	// Usable is how many servers take new sessions, Alive how many keep the ones they have.
	Usable, Alive int
	// Mean is the usable servers' utilisation, weighted by capacity; Room is their capacity.
	Mean, Room float64
	// Price is what a session pays for being here, in milliseconds: see Prices.
	Price float64

	// since is when each drain began, until when it is to be over, rejoined when each server came
	// back from the dead, places where it is.
	since, until, rejoined []time.Time
	places                 []events.Location
	back                   time.Time // when the first usable server came back, if all were dead
	at                     vector    // the middle of its servers, the zero vector if none says where it is
	room                   []float64 // the capacity of each usable server, of others 0
	low                    int       // the usable server with the lowest utilisation, -1 if there is none
	// Running sums over the servers of the weights that spread draws targets by: shed for a
	// session that an overloaded server gives away, fresh for a new or orphaned one.
	shed, fresh []float64
	each        []float64 // likewise the capacity of usable servers
	hash        uint64    // of the name
	// fallbacks are the other regions with a usable server, those that take sessions first
	// before those that do not, nearest first.
	fallbacks []int
}

// usable reports whether new sessions may be placed on the server at an index: no suspect,
// draining, down or left server ever gets one.
func (r *Region) usable(i int) bool {
	return r.State[i] == events.StateUp && r.Capacity[i] > 0
}

// View is the servers of all regions as one region sees them, laid out for Decide. It is
// immutable: any number of goroutines may read it. The zero View has no servers.
type View struct {
	// Regions are the regions that have servers in any state, sorted by name.
	Regions []Region

	servers map[string]Ref
	regions map[string]int
	// high and low are the water levels, priced says that some region has a price.
	high, low float64
	priced    bool
}

// Ref is the position of a server in one View: indices of its region and in it.
type Ref struct{ Region, Server int }

// NewView returns the view of the servers, which it does not change. Their order does not
// matter, but sorted by region and id they cost least. Of two servers with one id the first
// by region counts. A region without a setting is active with full weight.
func NewView(servers []Server, settings ...Setting) View {
	if !slices.IsSortedFunc(servers, compareServers) {
		servers = slices.Clone(servers)
		slices.SortFunc(servers, compareServers)
	}
	v := View{servers: make(map[string]Ref, len(servers)), regions: map[string]int{}}
	for len(servers) > 0 {
		end := 1
		for end < len(servers) && servers[end].Region == servers[0].Region {
			end++
		}
		if servers[0].Region != "" {
			v.add(servers[:end])
		}
		servers = servers[end:]
	}
	for i := range v.Regions {
		v.regions[v.Regions[i].Name] = i
	}
	for _, s := range settings {
		if i, ok := v.regions[s.Region]; ok && s.Role == events.RoleStandby {
			v.Regions[i].Role = s.Role
		}
		if i, ok := v.regions[s.Region]; ok {
			v.Regions[i].Weight = max(0, min(s.Weight, events.FullWeight))
		}
	}
	v.rank()
	v.level()
	return v
}

// rank fills in which regions stand in for each.
func (v *View) rank() {
	for i := range v.Regions {
		v.Regions[i].fallbacks = v.nearest(v.Regions[i].at, i)
	}
}

// compareServers orders servers by region and id and, so that the order of the input never
// shows, by everything else that a decision reads.
func compareServers(a, b Server) int {
	if c := cmp.Compare(a.Region, b.Region); c != 0 {
		return c
	}
	if c := cmp.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.State, b.State), cmp.Compare(a.Capacity, b.Capacity), cmp.Compare(a.Utilisation, b.Utilisation),
		cmp.Compare(a.Location.Lat, b.Location.Lat), cmp.Compare(a.Location.Lon, b.Location.Lon),
		a.DrainingSince.Compare(b.DrainingSince), a.DrainUntil.Compare(b.DrainUntil), a.RejoinedAt.Compare(b.RejoinedAt))
}

// add appends the region of the servers, all of one region and sorted by id.
func (v *View) add(servers []Server) {
	r := Region{
		Name: servers[0].Region, ID: make([]string, 0, len(servers)), State: make([]events.State, 0, len(servers)),
		Role: events.RoleActive, Weight: events.FullWeight, places: make([]events.Location, 0, len(servers)),
		hash: hash(servers[0].Region),
	}
	n := len(servers)
	times := make([]time.Time, 3*n)
	r.since, r.until, r.rejoined = times[:0:n], times[n:][:0:n], times[2*n:][:0]
	numbers := make([]float64, 2*len(servers))
	r.Capacity, r.Utilisation = numbers[:0:len(servers)], numbers[len(servers):][:0]
	for i := range servers {
		s := &servers[i]
		if _, twice := v.servers[s.ID]; twice || s.ID == "" {
			continue
		}
		v.servers[s.ID] = Ref{Region: len(v.Regions), Server: len(r.ID)}
		r.ID = append(r.ID, s.ID)
		r.State = append(r.State, s.State)
		r.Capacity = append(r.Capacity, bounded(s.Capacity, 0, maxCapacity))
		r.Utilisation = append(r.Utilisation, bounded(s.Utilisation, 1, maxUtilisation))
		r.since = append(r.since, s.DrainingSince)
		r.until = append(r.until, s.DrainUntil)
		r.rejoined = append(r.rejoined, s.RejoinedAt)
		r.places = append(r.places, s.Location)
	}
	if len(r.ID) == 0 {
		return
	}
	r.center()
	r.count()
	r.sum()
	v.Regions = append(v.Regions, r)
}

// center finds the middle of the servers that say where they are.
func (r *Region) center() {
	var middle vector
	for _, place := range r.places {
		if place != (events.Location{}) {
			p := point(place)
			middle = vector{middle.x + p.x, middle.y + p.y, middle.z + p.z}
		}
	}
	r.at = middle.unit()
}

// bounded returns x within 0 and most, and unknown for what is not a number.
func bounded(x, unknown, most float64) float64 {
	if x != x {
		return unknown
	}
	return max(0, min(most, x))
}

// newcomers is how far above the mean, as a fraction of capacity, a server may be and still
// be drawn for a new session.
const newcomers = 0.05

// count fills in which servers are usable and alive, into a new room, and since when the region is
// back.
func (r *Region) count() {
	var room float64
	numbers := make([]float64, 2*len(r.State))
	r.Usable, r.Alive, r.room, r.each = 0, 0, numbers[:len(r.State)], numbers[len(r.State):]
	for i, state := range r.State {
		if state.Alive() {
			r.Alive++
		}
		if r.usable(i) {
			r.Usable++
			r.room[i] = r.Capacity[i]
			room += r.Capacity[i]
		}
		r.each[i] = room
	}
	r.back = r.returned()
}

// returned returns when the first usable server came back from the dead, zero if one was not there.
func (r *Region) returned() (first time.Time) {
	for i, at := range r.rejoined {
		switch {
		case !r.usable(i):
		case at.IsZero():
			return time.Time{}
		case first.IsZero() || at.Before(first):
			first = at
		}
	}
	return first
}

// sum fills in what follows from the servers that count counted: mean, lowest and, into new
// slices, running sums.
func (r *Region) sum() {
	r.low, r.Mean, r.Room = -1, 0, 0
	var load, capacity float64
	least := math.Inf(1)
	for i, room := range r.room {
		u := r.Utilisation[i]
		load += u * room
		capacity += room
		if u < least && room > 0 {
			r.low, least = i, u
		}
	}
	if capacity > 0 {
		r.Mean, r.Room = load/capacity, capacity
	}
	n := len(r.room)
	sums := make([]float64, 2*n)
	r.shed, r.fresh = sums[:n:n], sums[n:]
	var shed, fresh float64
	for i, room := range r.room {
		u := r.Utilisation[i]
		shed += max(0, r.Mean-u) * room
		fresh += max(0, r.Mean+newcomers-u) * room
		r.shed[i], r.fresh[i] = shed, fresh
	}
}

// lowest returns the usable server with the lowest utilisation, the first by id of several,
// as if the one at index skip were not usable; -1 if there is none.
func (r *Region) lowest(skip int) int {
	if r.low != skip {
		return r.low
	}
	low := -1
	for i, u := range r.Utilisation {
		if i != skip && r.usable(i) && (low < 0 || u < r.Utilisation[low]) {
			low = i
		}
	}
	return low
}

// drawn returns a server for a new session, drawn by what each usable server lacks of 5
// points above the mean, as if the one at index skip were not usable. Where all are beyond
// that it is the lowest; -1 if none is usable.
func (r *Region) drawn(skip int, x float64) int {
	if i := pickWithout(r.fresh, skip, x); i >= 0 {
		return i
	}
	return r.lowest(skip)
}

// random returns a usable server drawn by capacity, as if the one at index skip were not usable;
// -1 if there is none.
func (r *Region) random(skip int, x float64) int { return pickWithout(r.each, skip, x) }

// better returns the one with less load of two servers drawn by capacity, as if the one at
// index skip were not usable; -1 if none is usable.
func (r *Region) better(skip int, x float64) int {
	a, b := r.random(skip, x), r.random(skip, again(x))
	if b >= 0 && r.Utilisation[b] < r.Utilisation[a] {
		return b
	}
	return a
}

// Find returns the position of a server in any state.
func (v *View) Find(serverID string) (Ref, bool) {
	ref, ok := v.servers[serverID]
	return ref, ok
}

// Region returns the index of a region in Regions.
func (v *View) Region(name string) (int, bool) {
	i, ok := v.regions[name]
	return i, ok
}

// ServerID returns the id of the server at a position of this view.
func (v *View) ServerID(at Ref) string { return v.Regions[at.Region].ID[at.Server] }

// RegionName returns the name of the region at a position of this view.
func (v *View) RegionName(at Ref) string { return v.Regions[at.Region].Name }

// State returns the state of the server at a position of this view.
func (v *View) State(at Ref) events.State { return v.Regions[at.Region].State[at.Server] }

// Pick draws a usable server of the region at an index for somebody who is not there yet:
// the way that new sessions are spread. x is uniform in [0, 1). It fails if none is usable.
func (v *View) Pick(region int, x float64) (Ref, bool) {
	if i := v.Regions[region].drawn(-1, x); i >= 0 {
		return Ref{Region: region, Server: i}, true
	}
	return Ref{}, false
}

// Closest returns at most n regions with a usable server, nearest to the place first; those
// whose place is unknown come after them, then those in standby, last those of weight 0.
func (v *View) Closest(p events.Location, n int) []int {
	list := v.nearest(point(p), -1)
	return list[:max(0, min(n, len(list)))]
}

// Fallbacks returns the other regions with a usable server, nearest to the named one first:
// the order in which they stand in for it, in which regions in standby come after the active
// ones, those of weight 0 last. From an unknown region, the order is by name. The
// list is the view's own: for reading only.
func (v *View) Fallbacks(region string) []int {
	if i, ok := v.regions[region]; ok {
		return v.Regions[i].fallbacks
	}
	return v.nearest(vector{}, -1)
}

// WithTimes returns the view in which regions stand in for each other by the times that were measured
// between them, by distances where there are none. v stays as it is.
func (v *View) WithTimes(times Times) View {
	next := *v
	next.Regions = slices.Clone(v.Regions)
	for i := range next.Regions {
		ms := v.times(i, times)
		next.Regions[i].fallbacks = v.ordered(i, func(r int) float64 { return ms[v.Regions[r].Name] })
	}
	return next
}

// nearest returns the regions with a usable server but the one at index skip, by tier, by
// distance from a place and then by name.
func (v *View) nearest(from vector, skip int) []int {
	// By falling cosine of the angle between them; 2 is beyond any.
	return v.ordered(skip, func(i int) float64 {
		at := v.Regions[i].at
		if from.known() && !at.known() {
			return 2
		}
		return -from.dot(at)
	})
}

// ordered returns the regions with a usable server but the one at index skip, by tier, by distance
// and then by name.
func (v *View) ordered(skip int, distance func(region int) float64) []int {
	list := make([]int, 0, len(v.Regions))
	for i := range v.Regions {
		if i != skip && v.Regions[i].Usable > 0 {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b int) int {
		return cmp.Or(cmp.Compare(v.Regions[a].tier(), v.Regions[b].tier()), cmp.Compare(distance(a), distance(b)), a-b)
	})
	return list
}
