package placement

import "github.com/berthhq/berth/events"

// destination returns the server for a session that cannot stay where it is.
func (q *query) destination() (Ref, bool) {
	k := ranking{query: q}
	k.measure()
	if q.rules.inside == shareLiteral && q.named && k.open(q.closest.Region) && q.leads(q.closest.Region) {
		return q.closest, true
	}
	if q.known && q.allowed(q.own.Region) && q.hasOther(q.own.Region) && !q.full(q.own.Region) && q.v.Regions[q.own.Region].Role != events.RoleStandby {
		return q.in(q.own.Region), true
	}
	if c, ok := k.nearest(); ok {
		return q.in(c.Region), true
	}
	return Ref{}, false
}

// What another region must be better by, where times decide: 10 ms and 10 %.
const (
	betterMS    = 10
	betterShare = 10 // one part in so many
)

// closer returns the region that the session should follow its client to. What the client
// measured decides if that includes the session's own region and another; else the region
// that the client calls closest, if it is open; else the best estimate from where the client
// is. Times must be better by a margin; the client's word need not.
func (q *query) closer() (region int, ok bool) {
	if len(q.r.RTT) == 0 && !q.named && q.r.Location == nil {
		return 0, false
	}
	if q.named && q.closest.Region == q.own.Region && len(q.r.RTT) == 0 {
		return 0, false
	}
	k := ranking{query: q}
	k.measure()
	if q.rules.inside == shareLiteral {
		return q.closest.Region, q.named && q.leads(q.closest.Region) && k.open(q.closest.Region)
	}
	own := k.weigh(q.own.Region)
	if own.Basis == BasisRTT {
		if best, ok := k.fastest(true); ok {
			return best.Region, better(best, own)
		}
	}
	if q.named && (q.closest.Region == q.own.Region || k.open(q.closest.Region)) {
		return q.closest.Region, q.closest.Region != q.own.Region
	}
	if own.sure() {
		if best, ok := k.fastest(false); ok {
			return best.Region, better(best, own)
		}
	}
	return 0, false
}

// better reports whether a region is closer than the session's own by the margin.
func better(c, own Candidate) bool {
	gain := own.cost() - c.cost()
	return gain >= betterMS && gain*betterShare >= own.cost()
}
