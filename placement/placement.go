// Package placement decides at which server a session lies: whether it stays or moves at a
// login or refresh, where to, and why.
//
// Decide is a pure function of plain values: the request's facts, a View of the servers, a
// Policy, and the time. It never fails, reads no clock and draws no random number of its
// own, so that every decision can be made again from what was recorded of it.
package placement

import (
	"time"

	"github.com/berthhq/berth/events"
)

// RTT is a round-trip time that the client measured to a server.
type RTT struct {
	ServerID string
	MS       float64
}

// Request is what is known of a session that logs in or refreshes.
type Request struct {
	// Session and Generation name the session's state. They are the seed of the draw.
	Session    string
	Generation uint64
	// Server is the server that holds the session's lock; empty at a login.
	Server string
	// Arrived is the region where the request arrived: where the client is, as far as its
	// name server knows.
	Arrived string
	// ClosestServer is the server that the client says is closest; empty or unknown: ignored.
	ClosestServer string
	// Location is where the client is; nil if not known.
	Location *events.Location
	// RTT are the times the client measured within the last 24 h. A region's is the least of
	// its servers'.
	RTT []RTT
	// Critical says that a task is in progress which a move would harm, CriticalSince when
	// that was first said (zero: just now).
	Critical      bool
	CriticalSince time.Time
	// MovedAt is when the session last moved; zero if never (a login is no move).
	MovedAt time.Time
	// StartedAt is when the session began. No rule reads it yet.
	StartedAt time.Time
	// Home is the region that the session was in before load or a failure sent it elsewhere,
	// where that is known; empty: none.
	Home string
	// Dead says that the server was found dead just now, whatever the view says.
	Dead bool
	// Unreachable says that this client has twice reported the server out of its reach.
	Unreachable bool
	// Stale says that the view is too old to move a session by: not moving is always safe.
	Stale bool
	// Allowed are the regions where the session may be, in any order; nil: all. An empty
	// list allows none.
	Allowed []string
}

// Decision is a verdict with its reason.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Server and Region are where the session is to be. A move names another server than
	// the request's. They are empty if nothing can hold the session: the verdict is then
	// stay, the reason no_candidate; or if a stale view does not know the server where it
	// stays: the reason is then view_stale.
	Server, Region string
	// Policy is the policy that decided, Variant its Policy.Variant, Draw the number that it drew with.
	Policy, Variant string
	Draw            float64
}

// Decide returns where a session is to be. By a view that is stale a session stays where it is,
// view_stale, unless its server was found dead, is out of this client's reach or may not have it.
// Otherwise the first rule that applies decides:
//
//  1. No server yet: move, login.
//  2. Server down, left, unknown or found dead: move, server_down, or region_down if no
//     server of its region is alive; twice out of this client's reach: move,
//     unreachable_from_client. Neither a critical task nor a cooldown holds it.
//  3. The deadline of the server's drain has passed: move, server_draining, likewise, if
//     another server can take the session.
//  4. A critical task within its bound: stay, critical_task. A move that any rule below
//     makes in spite of a task whose bound has passed has the reason critical_expired.
//  5. Server draining: move at this safe point, server_draining, with the probability that
//     spreads the sessions over the time left.
//  6. Region not allowed: move, residency.
//  7. Another region closer: move, closer_region, or home_restored if it is Request.Home; too
//     soon after a move: stay, cooldown. Not to a region that has been back from the dead for less
//     than Policy.ReturnAfter. Where regions have water levels, only to one that is below its
//     lower level, and with a probability that falls to 0 there.
//  8. Region above its water level, where the policy has levels: move, region_full, with the
//     probability that brings it back there.
//  9. Request.Home usable again: move, home_restored.
//  10. Balance inside the region as the policy has it: move, rebalance; or stay,
//     already_best or within_band.
//
// A move by rules 2, 3 and 5 goes to another server of the same region if that has one, for
// there the session's own writes are; otherwise, and by the other rules, to the closest
// region that is allowed, within Policy.MaxRTTMs, and has a usable server. Where there is
// none the session stays, no_candidate. What operators have set of the regions goes before
// closeness: see Candidate.
//
// Only a server that is up and has capacity is usable: one that is suspect, draining, down
// or left is never a destination, though suspect and draining ones keep what they have.
// No decision names a server outside the allowed regions, but that a critical task may
// finish where it is.
func Decide(r Request, v *View, p Policy, now time.Time) Decision {
	seed, rules := hash(r.Session), p.rules()
	q := query{r: &r, v: v, p: &p, rules: rules, seed: seed, x: draw(seed, r.Generation)}
	d := Decision{Policy: rules.name, Variant: p.Variant, Draw: q.x}
	q.locate()
	c := q.rule(now)
	d.Verdict, d.Reason = c.verdict, c.reason
	if !c.nowhere {
		d.Server, d.Region = v.ServerID(c.at), v.RegionName(c.at)
	}
	return d
}

// query is one decision in the making.
type query struct {
	r     *Request
	v     *View
	p     *Policy
	rules rules
	// seed is the hash of the session, x what is left of its number to draw with.
	seed uint64
	x    float64
	// own is where the session lies; known says that the view has that server, alive that
	// it is not dead either.
	own          Ref
	known, alive bool
	// closest is the server that the client says is closest, if named says the view has it.
	closest Ref
	named   bool
	// expired says that a critical task's bound has passed.
	expired bool
}

// choice is a decision by position. It holds nothing of the query, so that queries stay off
// the heap.
type choice struct {
	verdict Verdict
	reason  Reason
	at      Ref
	nowhere bool
}

// locate finds the servers that the request names.
func (q *query) locate() {
	if q.r.Server != "" {
		q.own, q.known = q.v.Find(q.r.Server)
		q.alive = q.known && !q.r.Dead && q.v.State(q.own).Alive()
	}
	if q.r.ClosestServer != "" {
		q.closest, q.named = q.v.Find(q.r.ClosestServer)
	}
}

// rule applies the rules of Decide in their order.
func (q *query) rule(now time.Time) choice {
	switch {
	case q.r.Server == "":
		return q.place(ReasonLogin)
	case q.r.Stale && q.rests():
		c := q.stay(ReasonViewStale)
		c.nowhere = !q.known
		return c
	case !q.alive:
		return q.place(q.death())
	case q.r.Unreachable:
		return q.place(ReasonUnreachable)
	}
	draining, since, until := q.drain()
	if draining && q.p.drainOver(since, until, now) {
		if target, ok := q.destination(); ok {
			return choice{verdict: VerdictMove, reason: ReasonServerDraining, at: target}
		}
	}
	if q.r.Critical {
		if !q.p.criticalOver(q.r.CriticalSince, now) {
			return q.stay(ReasonCriticalTask)
		}
		q.expired = true
	}
	if draining && q.turn(q.p.drainChance(since, until, now)) {
		return q.place(ReasonServerDraining)
	}
	if !q.allowed(q.own.Region) {
		return q.place(ReasonResidency)
	}
	if region, ok := q.closer(); ok {
		if q.rules.inside != shareLiteral && q.p.cooling(q.r.MovedAt, now) {
			return q.stay(ReasonCooldown)
		}
		if q.welcome(region, now) {
			return q.move(q.in(region), q.returning(region))
		}
	}
	if region, ok := q.spill(); ok {
		return q.move(q.in(region), ReasonRegionFull)
	}
	if region, ok := q.home(); ok && !q.p.cooling(q.r.MovedAt, now) && q.welcome(region, now) {
		return q.move(q.in(region), ReasonHomeRestored)
	}
	return q.balance()
}

// rests reports whether a session may stay whatever the view says of its server.
func (q *query) rests() bool {
	if q.r.Dead || q.r.Unreachable {
		return false
	}
	return q.r.Allowed == nil || q.known && q.allowed(q.own.Region)
}

// death returns why the session's server is gone: region_down if no other server of its
// region is alive either.
func (q *query) death() Reason {
	if !q.known {
		return ReasonServerDown
	}
	alive := q.v.Regions[q.own.Region].Alive
	if q.v.State(q.own).Alive() {
		alive-- // found dead just now
	}
	if alive > 0 {
		return ReasonServerDown
	}
	return ReasonRegionDown
}

// drain reports whether the session's server is draining, since when and until when.
func (q *query) drain() (draining bool, since, until time.Time) {
	region := &q.v.Regions[q.own.Region]
	return region.State[q.own.Server] == events.StateDraining, region.since[q.own.Server], region.until[q.own.Server]
}

// turn draws whether an event of probability p happens.
func (q *query) turn(p float64) (happens bool) {
	happens, q.x = turn(q.x, p)
	return happens
}

// place moves the session to the best server that is not its own.
func (q *query) place(reason Reason) choice {
	if target, ok := q.destination(); ok {
		return q.move(target, reason)
	}
	c := q.stay(ReasonNoCandidate)
	c.nowhere = !q.alive || !q.allowed(q.own.Region)
	return c
}

func (q *query) move(target Ref, reason Reason) choice {
	if q.expired {
		reason = ReasonCriticalExpired
	}
	return choice{verdict: VerdictMove, reason: reason, at: target}
}

// stay leaves the session at its own server.
func (q *query) stay(reason Reason) choice {
	return choice{verdict: VerdictStay, reason: reason, at: q.own}
}
