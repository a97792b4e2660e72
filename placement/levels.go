package placement

import "time"

// The water levels of regions, as fractions of capacity. A region above the high one gives
// sessions away, one below the low one takes those back who would rather be there. Both rise
// with the fleet's mean, for then there is nowhere else to go.
const (
	highLevel  = 0.85
	highFactor = 1.04
	lowLevel   = 0.80
	// levelGain times a region's distance from its level, as a share, is the probability that
	// a session leaves or returns at a refresh.
	levelGain = 4
)

// level fills in the water levels.
func (v *View) level() {
	var load, room float64
	for i := range v.Regions {
		r := &v.Regions[i]
		load += r.Mean * r.Room
		room += r.Room
	}
	mean := 0.0
	if room > 0 {
		mean = load / room
	}
	v.low, v.high = Levels(mean)
}

// Levels returns the water levels of the regions of a fleet whose mean utilisation is given:
// above high a region gives sessions away, below low it takes back who left it. Prices are to
// be found for the capacity up to high.
func Levels(mean float64) (low, high float64) {
	return max(lowLevel, mean), max(highLevel, highFactor*mean)
}

// full reports whether the region at an index is above the level up to which it takes sessions.
func (q *query) full(i int) bool { return q.rules.levels && q.v.Regions[i].Mean >= q.v.high }

// welcome draws whether a session that would rather be in a region goes there now: not while the
// region is hardly back from the dead, for it may be lost again, and where there are levels the
// fewer the nearer the region is to its lower one.
func (q *query) welcome(region int, now time.Time) bool {
	if q.rules.inside != shareLiteral && !q.p.returned(q.v.Regions[region].back, now) {
		return false
	}
	if !q.rules.levels {
		return true
	}
	return q.turn(min(1, max(0, levelGain*(q.v.low-q.v.Regions[region].Mean)/q.v.low)))
}

// returning returns the reason of a move to a region that the client is closer to.
func (q *query) returning(region int) Reason {
	if q.r.Home != "" && q.v.Regions[region].Name == q.r.Home {
		return ReasonHomeRestored
	}
	return ReasonCloserRegion
}

// spill returns the region for a session that is drawn to leave its own, which is full.
func (q *query) spill() (region int, ok bool) {
	own := &q.v.Regions[q.own.Region]
	if !q.full(q.own.Region) || !own.usable(q.own.Server) {
		return 0, false
	}
	if !q.turn(min(1, levelGain*(own.Mean-q.v.high)/own.Mean)) {
		return 0, false
	}
	k := ranking{query: q}
	k.measure()
	c, ok := k.next()
	return c.Region, ok
}

// home returns the region that the session comes from, if it lies elsewhere, that region can
// take it, and it is not known that the client is better off where it is.
func (q *query) home() (region int, ok bool) {
	if q.r.Home == "" || q.rules.inside == shareLiteral {
		return 0, false
	}
	region, ok = q.v.Region(q.r.Home)
	if !ok || region == q.own.Region {
		return 0, false
	}
	k := ranking{query: q}
	k.measure()
	if !k.open(region) {
		return 0, false
	}
	home, own := k.weigh(region), k.weigh(q.own.Region)
	return region, !home.sure() || !own.sure() || !better(own, home)
}
