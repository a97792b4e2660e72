package placement

import (
	"cmp"
	"slices"

	"github.com/berthhq/berth/events"
)

// Basis says how the time between a client and a region is known.
type Basis uint8

// The bases.
const (
	// BasisNone: not known at all; such regions are equally far.
	BasisNone Basis = iota
	// BasisRegion: estimated from the region where the request arrived, or else the
	// session's own.
	BasisRegion
	// BasisLocation: estimated from where the client is.
	BasisLocation
	// BasisClosest: the client says that a server of the region is the closest, without a
	// time; it counts as 0 ms.
	BasisClosest
	// BasisRTT: the client measured it.
	BasisRTT
)

// String returns the basis in a word.
func (b Basis) String() string {
	return [...]string{"none", "region", "location", "closest", "rtt"}[b]
}

// Obstacle says why a region cannot take a session.
type Obstacle uint8

// The obstacles.
const (
	// ObstacleNone: it can.
	ObstacleNone Obstacle = iota
	// ObstacleResidency: the region is not allowed.
	ObstacleResidency
	// ObstacleNoServer: it has no usable server, but perhaps the session's own.
	ObstacleNoServer
	// ObstacleTooFar: it is beyond Policy.MaxRTTMs.
	ObstacleTooFar
)

// String returns the obstacle in a word, none for ObstacleNone.
func (o Obstacle) String() string {
	return [...]string{"none", "residency", "no_server", "too_far"}[o]
}

// Candidate is a region as a place for a session. What operators have set of it goes before
// the time: first come the active regions that take this session, then those whose weight
// keeps it away (see Lot), then those in standby, last those of weight 0. A session's own
// region is not asked for its weight.
type Candidate struct {
	// MS is the round-trip time in milliseconds, as known by Basis.
	MS float64
	// Price is what the policy adds to it: the region's price and the session's jitter.
	Price float64
	// Region is its index in the View.
	Region int
	Basis  Basis
	// Standby says that it counts only if no active region can take the session, Withheld
	// that its weight keeps the session away while another can take it, Full that it is above
	// its water level, where the policy has levels.
	Standby, Withheld, Full bool
	Obstacle                Obstacle

	tier tier
}

// tier orders regions before their times: a session goes to one of a higher tier only where
// none of a lower one can take it.
type tier uint8

// The parts of a tier.
const (
	tierFull     tier = 1 << iota // the region is above its water level
	tierWithheld                  // the weight keeps this session away
	tierStandby                   // the region stands by
	tierShut                      // its weight is 0
)

// tier returns the tier of a region for somebody of whom nothing is known.
func (r *Region) tier() (t tier) {
	if r.Role == events.RoleStandby {
		t |= tierStandby
	}
	if r.Weight == 0 {
		t |= tierShut
	}
	return t
}

// tier returns the tier of the region at an index for the query's session.
func (q *query) tier(i int) tier {
	r := &q.v.Regions[i]
	t := r.tier()
	switch {
	case r.Weight >= events.FullWeight:
	case q.known && i == q.own.Region:
		t &^= tierShut
	case r.Weight > 0 && events.FullWeight*Lot(q.r.Session, r.Name) >= float64(r.Weight):
		t |= tierWithheld
	}
	if q.full(i) {
		t |= tierFull
	}
	return t
}

// Rank returns every region as a candidate, the one that Decide prefers first, those with an
// obstacle last: an explanation for people. For a move inside its region a session's own
// region counts before all others, whatever its place here.
func Rank(r Request, v *View, p Policy) []Candidate {
	q := query{r: &r, v: v, p: &p, rules: p.rules(), seed: hash(r.Session)}
	q.locate()
	k := ranking{query: &q}
	k.measure()
	list := make([]Candidate, len(v.Regions))
	for i := range list {
		c := k.weigh(i)
		c.Standby, c.Withheld, c.Full = c.tier&tierStandby != 0, c.tier&(tierWithheld|tierShut) != 0, c.tier&tierFull != 0
		if !q.allowed(i) {
			c.Obstacle = ObstacleResidency
		}
		list[i] = c
	}
	slices.SortFunc(list, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(min(a.Obstacle, 1), min(b.Obstacle, 1)), a.compare(b))
	})
	return list
}

// compare orders candidates that have no obstacle: by tier, then by time, then by name.
func (c Candidate) compare(d Candidate) int {
	switch {
	case c.tier != d.tier:
		return int(c.tier) - int(d.tier)
	case c.cost() != d.cost():
		if c.cost() < d.cost() {
			return -1
		}
		return 1
	}
	return c.Region - d.Region
}

// cost is what regions are ordered by, in milliseconds.
func (c Candidate) cost() float64 { return c.MS + c.Price }

// sure reports whether the time says something about the client itself.
func (c Candidate) sure() bool { return c.Basis == BasisRTT || c.Basis == BasisLocation }

// ranking is a query that looks at other regions.
type ranking struct {
	*query
	// times[:measures] are the measured times of regions, each once; overflow says that there
	// are others, which are looked up each time.
	times    [8]regionTime
	measures int
	overflow bool
	// from is where distances are estimated from, basis how that is known.
	from  vector
	basis Basis
}

// regionTime is the least time in milliseconds that was measured to a region.
type regionTime struct {
	region int
	ms     float64
}

// measure works out how the time to each region is known.
func (k *ranking) measure() {
	for _, m := range k.r.RTT {
		if at, ok := k.v.Find(m.ServerID); ok && m.MS > 0 {
			k.record(regionTime{region: at.Region, ms: m.MS})
		}
	}
	if k.r.Location != nil {
		k.from, k.basis = point(*k.r.Location), BasisLocation
	}
	if i, ok := k.v.Region(k.r.Arrived); ok && !k.from.known() {
		k.from, k.basis = k.v.Regions[i].at, BasisRegion
	}
	if k.known && !k.from.known() {
		k.from, k.basis = k.v.Regions[k.own.Region].at, BasisRegion
	}
	if !k.from.known() {
		k.basis = BasisNone
	}
}

// record keeps the lesser of a measured time and what is known of its region.
func (k *ranking) record(m regionTime) {
	for i := range k.measures {
		if k.times[i].region == m.region {
			k.times[i].ms = min(k.times[i].ms, m.ms)
			return
		}
	}
	if k.measures == len(k.times) {
		k.overflow = true
		return
	}
	k.times[k.measures] = m
	k.measures++
}

// time returns the measured time to the region at an index, 0 if there is none.
func (k *ranking) time(region int) float64 {
	for i := range k.measures {
		if k.times[i].region == region {
			return k.times[i].ms
		}
	}
	if !k.overflow {
		return 0
	}
	var least float64
	for _, m := range k.r.RTT {
		if at, ok := k.v.Find(m.ServerID); ok && at.Region == region && m.MS > 0 && (least == 0 || m.MS < least) {
			least = m.MS
		}
	}
	return least
}

// weigh returns the region at an index as a candidate, without looking at residency.
func (k *ranking) weigh(i int) Candidate {
	region := &k.v.Regions[i]
	c := Candidate{Region: i, tier: k.tier(i)}
	if k.rules.prices && k.v.priced {
		c.Price = region.Price + jitter(k.seed, region.hash)
	}
	var measured float64
	if k.measures > 0 {
		measured = k.time(i)
	}
	switch {
	case measured > 0:
		c.MS, c.Basis = measured, BasisRTT
	case region.at.known():
		c.MS, c.Basis = k.from.milliseconds(region.at), k.basis
	default:
		c.MS, c.Basis = k.from.milliseconds(vector{}), BasisNone
	}
	switch {
	case !k.hasOther(i):
		c.Obstacle = ObstacleNoServer
	case k.p.MaxRTTMs > 0 && c.MS > k.p.MaxRTTMs && c.sure():
		c.Obstacle = ObstacleTooFar
	}
	if k.named && k.closest.Region == i && measured == 0 {
		c.MS, c.Basis = 0, BasisClosest
	}
	return c
}

// open reports whether a region can take the session, being allowed and without an obstacle.
// A region in standby, or whose weight keeps the session away, is not open to one that has a
// choice.
func (k *ranking) open(i int) bool {
	c := k.weigh(i)
	return c.Obstacle == ObstacleNone && c.tier == 0 && k.allowed(i)
}

// next returns the best of the allowed regions that are open, but the session's own.
func (k *ranking) next() (best Candidate, ok bool) {
	for entry := range k.width() {
		i, known := k.at(entry)
		if !known || i == k.own.Region {
			continue
		}
		if c := k.weigh(i); c.Obstacle == ObstacleNone && c.tier == 0 && (!ok || c.compare(best) < 0) {
			best, ok = c, true
		}
	}
	return best, ok
}

// nearest returns the best candidate among the allowed regions.
func (k *ranking) nearest() (best Candidate, ok bool) {
	for entry := range k.width() {
		i, known := k.at(entry)
		if !known {
			continue
		}
		if c := k.weigh(i); c.Obstacle == ObstacleNone && (!ok || c.compare(best) < 0) {
			best, ok = c, true
		}
	}
	return best, ok
}

// fastest returns the candidate with the least time among the allowed regions that are open,
// not the session's own, and whose time is sure: measured, or also estimated.
func (k *ranking) fastest(measured bool) (best Candidate, ok bool) {
	for entry := range k.width() {
		i, known := k.at(entry)
		if !known || i == k.own.Region || (measured && k.time(i) == 0) {
			continue
		}
		c := k.weigh(i)
		if c.Obstacle == ObstacleNone && c.tier == 0 && c.sure() && (!ok || c.compare(best) < 0) {
			best, ok = c, true
		}
	}
	return best, ok
}

// hasOther reports whether a region has a usable server that is not the session's own.
func (q *query) hasOther(i int) bool {
	region := &q.v.Regions[i]
	if q.known && i == q.own.Region && region.usable(q.own.Server) {
		return region.Usable > 1
	}
	return region.Usable > 0
}

// allowed reports whether the session may be in the region at an index.
func (q *query) allowed(i int) bool {
	return q.r.Allowed == nil || slices.Contains(q.r.Allowed, q.v.Regions[i].Name)
}

// width returns how many entries the list of allowed regions has, all regions without one.
func (q *query) width() int {
	if q.r.Allowed == nil {
		return len(q.v.Regions)
	}
	return len(q.r.Allowed)
}

// at returns the region of an entry of that list; ok is false if the view has none of the
// name.
func (q *query) at(entry int) (region int, ok bool) {
	if q.r.Allowed == nil {
		return entry, true
	}
	return q.v.Region(q.r.Allowed[entry])
}
