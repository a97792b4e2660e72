package placement

import (
	"math"

	"github.com/berthhq/berth/events"
)

// Demand is how many sessions come from where, by the region that is closest to them.
type Demand map[string]float64

// Add adds another's.
func (d Demand) Add(more Demand) {
	for region, n := range more {
		d[region] += n
	}
}

// Origin returns the region closest to the client of a request, as far as that is known: by what
// it measured, by the server that it calls closest, by where it is, or by where its request
// arrived. Empty: none of these is known.
func (v *View) Origin(r *Request) string {
	region, least := -1, math.Inf(1)
	for _, m := range r.RTT {
		if at, ok := v.Find(m.ServerID); ok && m.MS > 0 && m.MS < least {
			region, least = at.Region, m.MS
		}
	}
	if at, ok := v.Find(r.ClosestServer); ok && region < 0 {
		region = at.Region
	}
	if r.Location != nil && region < 0 {
		region = v.around(point(*r.Location))
	}
	if region >= 0 {
		return v.Regions[region].Name
	}
	if _, ok := v.Region(r.Arrived); ok {
		return r.Arrived
	}
	return ""
}

// around returns the region nearest to a place, whatever the state of its servers; -1: none
// says where it is.
func (v *View) around(p vector) int {
	region, most := -1, math.Inf(-1)
	for i := range v.Regions {
		if at := v.Regions[i].at; p.known() && at.known() && p.dot(at) > most {
			region, most = i, p.dot(at)
		}
	}
	return region
}

// Times gives the round-trip time between two regions in milliseconds, false where nobody has
// measured it. nil: nobody has any.
type Times func(from, to string) (ms float64, ok bool)

func (t Times) between(from, to string) (ms float64, ok bool) {
	if t == nil {
		return 0, false
	}
	ms, ok = t(from, to)
	return ms, ok && ms >= 0
}

// Market returns what prices are found from: the demand, in the measure of the servers' load,
// which the regions have to bear together, and what each can take up to its level. Without any
// demand, or for regions that none is known of, everybody is taken to come from where the load
// is now. Times that were not measured are estimated from distances.
func (v *View) Market(d Demand, times Times) Market {
	m := Market{Capacity: map[string]float64{}, Last: v.Prices()}
	var load, people float64
	for i := range v.Regions {
		r := &v.Regions[i]
		load += r.Mean * r.Room
		people += bounded(d[r.Name], 0, maxCapacity)
		if r.tier() == 0 && r.Room > 0 {
			m.Capacity[r.Name] = v.high * r.Room * float64(r.Weight) / events.FullWeight
		}
	}
	for i := range v.Regions {
		r := &v.Regions[i]
		sessions := r.Mean * r.Room
		if people > 0 {
			sessions = bounded(d[r.Name], 0, maxCapacity) * load / people
		}
		if sessions > 0 {
			m.Origins = append(m.Origins, Origin{Sessions: sessions, RTT: v.times(i, times)})
		}
	}
	return m
}

// times returns the time from clients at a region to each, in milliseconds. What was measured is
// between the regions, what is estimated has the way to the client in it: offset.
func (v *View) times(from int, times Times) map[string]float64 {
	ms := make(map[string]float64, len(v.Regions))
	for i := range v.Regions {
		to := v.Regions[i].Name
		switch measured, ok := times.between(v.Regions[from].Name, to); {
		case i == from:
			ms[to] = offset
		case ok:
			ms[to] = offset + measured
		default:
			ms[to] = v.Regions[from].at.milliseconds(v.Regions[i].at)
		}
	}
	return ms
}

// SafeReserve is the share of what is left without the largest region, up to which its loss would
// leave no region overrun: above it an operator has to be told.
const SafeReserve = 0.85

// Reserve returns the load of all regions as a share of what they can take without the largest of
// them, and which that is. It is +Inf if nothing is left, and 0 without any load.
func (v *View) Reserve() (share float64, largest string) {
	var load, room, most float64
	for i := range v.Regions {
		r := &v.Regions[i]
		load += r.Mean * r.Room
		room += r.Room
		if r.Room > most {
			most, largest = r.Room, r.Name
		}
	}
	if load <= 0 {
		return 0, largest
	}
	if left := room - most; left > 0 {
		return load / left, largest
	}
	return math.Inf(1), largest
}
