package placement

import "github.com/berthhq/berth/events"

// The numbers of the policies, as fractions of a server's capacity unless said otherwise.
const (
	// lowestBand and p2cBand are what lowest-load and p2c want to gain by a move.
	lowestBand = 0.10
	p2cBand    = 0.05
	// A server that spread relieves is above both the mean times spreadFactor and the mean
	// plus spreadBand. It gives away gain times its excess; gains from 4 to 64 behave alike,
	// 1 is too slow.
	spreadFactor = 1.10
	spreadBand   = 0.03
	spreadGain   = 4
	// rounding keeps a difference of exactly the band from being lost to binary fractions.
	rounding = 1e-9
)

// balance decides inside the session's own region, which is allowed.
func (q *query) balance() choice {
	region := &q.v.Regions[q.own.Region]
	if region.State[q.own.Server] != events.StateUp {
		// Suspect servers keep their locks, and a draining one has its own pace.
		return q.stay(ReasonWithinBand)
	}
	u := region.Utilisation[q.own.Server]
	if region.low < 0 || region.Utilisation[region.low] >= u {
		return q.stay(ReasonAlreadyBest)
	}
	lowest := Ref{Region: q.own.Region, Server: region.low}
	switch q.rules.inside {
	case shareLiteral:
		return q.move(lowest, ReasonRebalance)
	case shareP2C:
		return q.p2c(region, u)
	case shareLowest:
		if u-region.Utilisation[region.low] < lowestBand-rounding {
			return q.stay(ReasonWithinBand)
		}
		return q.move(lowest, ReasonRebalance)
	default:
		return q.spread(region, u)
	}
}

// spread moves the session with the probability that brings its server's utilisation u back
// to the region's mean, to a server drawn by what it lacks of the mean. The rule needs no
// state that token services share, and none of them sends everybody to one server.
func (q *query) spread(region *Region, u float64) choice {
	if u <= max(spreadFactor*region.Mean, region.Mean+spreadBand) {
		return q.stay(ReasonWithinBand)
	}
	if !q.turn(min(1, spreadGain*(u-region.Mean)/u)) {
		return q.stay(ReasonWithinBand)
	}
	target := pick(region.shed, q.x)
	if target < 0 {
		return q.stay(ReasonNoCandidate)
	}
	return q.move(Ref{Region: q.own.Region, Server: target}, ReasonRebalance)
}

// p2c moves the session to a server drawn at random, if that is better by the band.
func (q *query) p2c(region *Region, u float64) choice {
	other := region.random(q.own.Server, q.x)
	if other < 0 || u-region.Utilisation[other] < p2cBand-rounding {
		return q.stay(ReasonWithinBand)
	}
	return q.move(Ref{Region: q.own.Region, Server: other}, ReasonRebalance)
}

// in returns the server of a region that takes the session; the region has a usable server
// that is not the session's own.
func (q *query) in(region int) Ref {
	if q.rules.inside == shareLiteral && q.named && q.closest.Region == region && q.leads(region) {
		return q.closest
	}
	r, skip := &q.v.Regions[region], -1
	if q.known && region == q.own.Region {
		skip = q.own.Server
	}
	server := 0
	switch q.rules.inside {
	case shareSpread:
		server = r.drawn(skip, q.x)
	case shareP2C:
		server = r.better(skip, q.x)
	default:
		server = r.lowest(skip)
	}
	return Ref{Region: region, Server: server}
}

// leads reports whether literal follows the client to the very server that it calls closest:
// that server is usable, and stands in another region than the session.
func (q *query) leads(region int) bool {
	return (!q.known || region != q.own.Region) && q.v.Regions[region].usable(q.closest.Server)
}
