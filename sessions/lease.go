package sessions

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Times of strict takeover. Every region has to use the same ones.
const (
	// LeaseLife is how long a region may answer for the sessions of strict organizations after enough
	// of its edges have heard it.
	LeaseLife = 30 * time.Second
	// LeaseSkew is how far the clocks of two regions may differ.
	LeaseSkew = 10 * time.Second
	// LeaseGap is the silence after which a region is not heard any more: what it said meanwhile is
	// not known.
	LeaseGap = 5 * time.Second
	// LeaseSight is the silence after which a region is out of sight. It is less than the 3 s after which
	// its copies are not waited for any more (V17): else, for a moment, neither the region nor what is
	// missing of it would be.
	LeaseSight = 2 * time.Second
	// LeaseSettle is how long a region that has its lease again waits before it uses it. A takeover
	// that was decided before its edges heard it is durable by then: what was heard may be LeaseGap
	// old, a request takes 10 s, a write 5 s.
	LeaseSettle = 20 * time.Second
)

// LeaseFault is why a region may not act for a strict organization now.
type LeaseFault string

// The faults; none is LeaseHeld.
const (
	LeaseHeld LeaseFault = ""
	// LeaseLost: too few edges have heard this region within LeaseLife, as they say themselves.
	LeaseLost LeaseFault = "lease_lost"
	// LeaseSettling: the lease is back; who took sessions over meanwhile may still be writing that.
	LeaseSettling LeaseFault = "lease_settling"
	// LeaseUnseen: another region is out of sight, which may have taken sessions over.
	LeaseUnseen LeaseFault = "lease_unseen"
	// LeaseBehind: not all that the edges have told has arrived.
	LeaseBehind LeaseFault = "lease_behind"
	// LeaseOwner: the owner may still answer, or tokens that it gave out may still be accepted.
	LeaseOwner LeaseFault = "lease_owner"
	// LeaseHeir: the session falls to another region.
	LeaseHeir LeaseFault = "lease_heir"
	// LeaseUncopied: no copy of the session at the token's epoch has arrived.
	LeaseUncopied LeaseFault = "lease_uncopied"
	// LeaseTaken: of two regions, the other one has taken the session over before.
	LeaseTaken LeaseFault = "lease_taken"
)

// Lease is what a region knows of which regions hear each other, and what it may do by that for
// the sessions of organizations whose takeover is strict: never do two regions answer for one
// session, whatever links are cut, as long as clocks differ by at most LeaseSkew.
//
// The region and its edges, which have to be each other's edges, too, grant each other leases by
// their view updates: who says that it has heard a region, some time before, lets that one answer
// until LeaseLife after that time. With itself a region needs the majority for it: of two regions the
// one edge. A region is fenced when so many have not heard it for so long that it cannot have had a
// lease, and whatever it gave out by its last one is no longer accepted. Only then is a session taken
// over, by a region that has a lease itself; of two regions, by the other one (MayAnswer).
//
// It is not safe for concurrent use.
type Lease struct {
	region string
	others []string
	// accepted is how long a server may accept what is given out now.
	accepted time.Duration
	heard    map[string]*hearing
	// run is when the lease began that has never since been lost for so long that sessions could be
	// taken over; zero: there was none yet. current says that what was taken over before it is
	// known; then only Hear ends the run.
	run     time.Time
	current bool
	rules   leaseRules
}

// leaseRules are the conditions under which a region may act for a strict organization. Tests take one
// out of them at a time.
type leaseRules struct {
	leased, settled func(l *Lease, now time.Time) bool
	hearsAll        func(l *Lease, but string, now time.Time) bool
	answers         func(l *Lease, now time.Time, complete bool) LeaseFault
	fenced          func(l *Lease, name string, now time.Time) bool
	silence         func(l *Lease, voter, name string, now time.Time) time.Duration
	heir            func(l *Lease, owner, session string, among []string) string
	knows           func(base *Record, token Stamp) bool
	free            func(l *Lease, r *Record, from string) bool
}

// hearing is what was heard of a region, the own one included: its registry says what it hears.
type hearing struct {
	// at is the last time, since the one since which there was no gap.
	at, since time.Time
	// grant is when the region last heard this one, as it says; by its clock.
	grant time.Time
	// knows is when it may last have heard each other region.
	knows map[string]time.Time
}

// NewLease returns what a region knows at first: nothing. edges are the regions that take its
// sessions over, accepted is how long after an answer its access token may be accepted by a server,
// the same in all regions.
func NewLease(region string, edges []string, accepted time.Duration) *Lease {
	l := &Lease{region: region, accepted: accepted, heard: map[string]*hearing{}, rules: leaseRules{
		(*Lease).leased, (*Lease).settled, (*Lease).hearsAll, (*Lease).Answers, (*Lease).fenced, (*Lease).silence, (*Lease).heir, knows, (*Lease).free,
	}}
	for _, name := range append([]string{region}, edges...) {
		if l.heard[name] != nil {
			continue
		}
		l.heard[name] = &hearing{knows: map[string]time.Time{}}
		if name != region {
			l.others = append(l.others, name)
		}
	}
	return l
}

// wait is how long a region must have been silent before its sessions are taken over.
func (l *Lease) wait() time.Duration { return LeaseLife + l.accepted + LeaseSkew }

// Hear notes a view update. Updates may come late, twice and out of order.
func (l *Lease) Hear(u events.ViewHead, now time.Time) {
	h := l.heard[u.Region]
	if h == nil {
		return
	}
	before := l.until()
	if h.at.IsZero() || now.Sub(h.at) >= LeaseGap {
		h.since = now
	}
	if now.Sub(u.At) <= LeaseGap+LeaseSkew { // else it was long under way, and says nothing of now
		h.at = now
	}
	for name, ms := range u.Sees {
		age := time.Duration(max(0, ms)) * time.Millisecond
		if l.heard[name] == nil || age < 0 || age > 24*time.Hour {
			continue
		}
		h.knows[name] = later(h.knows[name], now.Add(-age))
		if name == l.region && u.Region != l.region {
			said := u.At
			if said.After(now) {
				said = now
			}
			h.grant = later(h.grant, said.Add(-age))
		}
	}
	if l.until().After(now) && (l.run.IsZero() || !now.Before(before.Add(l.accepted))) {
		l.run, l.current = now, false
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// until returns when the lease ends that the region has; zero if it never had one.
func (l *Lease) until() time.Time {
	grants := make([]time.Time, 0, 8) // room enough for most fleets, which costs nothing
	for _, name := range l.others {
		if g := l.heard[name].grant; !g.IsZero() {
			grants = append(grants, g)
		}
	}
	need := (len(l.others) + 1) / 2
	if need == 0 || len(grants) < need {
		return time.Time{}
	}
	slices.SortFunc(grants, func(a, b time.Time) int { return b.Compare(a) })
	return grants[need-1].Add(LeaseLife)
}

// Answers reports whether the region may answer for a session that it owns, and start one; complete
// says that no copy of other regions' sessions is known to be missing (V17). It has to be asked about
// once a second: a region that goes out of sight before it was asked has not been heard out.
func (l *Lease) Answers(now time.Time, complete bool) LeaseFault {
	switch {
	case len(l.others) == 0: // nobody takes anything over
		return LeaseHeld
	case !l.rules.leased(l, now):
		return LeaseLost
	case !l.current && !l.rules.settled(l, now):
		return LeaseSettling
	case !l.current && !l.rules.hearsAll(l, l.region, now):
		return LeaseUnseen
	case !complete: // also later on: a region that was fenced and comes back may have taken sessions over before
		return LeaseBehind
	}
	l.current = true
	return LeaseHeld
}

// MayAnswer returns why the region may not answer for a session of its own now, LeaseHeld if it may. Of two
// regions, the one that took a session over goes on with it without a lease.
func (l *Lease) MayAnswer(rec *Record, now time.Time, complete bool) LeaseFault {
	fault := l.Answers(now, complete)
	if len(l.others) == 1 && l.rules.free(l, rec, l.others[0]) {
		return LeaseHeld
	}
	return fault
}

func (l *Lease) leased(now time.Time) bool { return now.Before(l.until()) }

func (l *Lease) settled(now time.Time) bool { return now.Sub(l.run) >= LeaseSettle }

// Heard returns the other regions that are in sight: what they have to tell is waited for.
func (l *Lease) Heard(now time.Time) (names []string) {
	for _, name := range l.others {
		if now.Sub(l.heard[name].at) < LeaseSight {
			names = append(names, name)
		}
	}
	return names
}

// hearsAll reports whether all regions but one are heard: of others it is not known what they have taken
// over, nor who knows of that.
func (l *Lease) hearsAll(but string, now time.Time) bool {
	return !slices.ContainsFunc(l.others, func(name string) bool { return name != but && now.Sub(l.heard[name].at) >= LeaseSight })
}

// fenced reports whether a region can have had no lease for so long that nothing which it gave out
// is accepted any more: every majority that would have granted one has somebody who has not heard it.
func (l *Lease) fenced(name string, now time.Time) bool {
	return l.silent(name, now) >= l.most()
}

// most is of how many regions but one each majority of all has at least one.
func (l *Lease) most() int { return (len(l.others) + 2) / 2 }

// silent counts the regions that have not heard another for as long as it takes.
func (l *Lease) silent(name string, now time.Time) (voters int) {
	for voter := range l.heard {
		if voter != name && l.rules.silence(l, voter, name, now) >= l.wait() {
			voters++
		}
	}
	return voters
}

// silence returns how long a region has not heard another, as far as is known for certain.
func (l *Lease) silence(voter, name string, now time.Time) time.Duration {
	h := l.heard[voter]
	if now.Sub(h.at) >= LeaseGap { // it may have heard it since: of others TakesOver makes sure, but not of the own registry
		return 0
	}
	last := later(h.since, h.knows[name])
	if voter == l.region { // the own registry tells of it, too, unless it was started anew before it could
		last = later(last, l.heard[name].at)
	}
	return now.Sub(last)
}

// TakesOver reports whether the region may go on with a session whose owner is out of reach, and
// which region has to if it may not. Where regions are named, the session may be among them alone; all
// regions have to name the same. For what the session itself has to show, see MayGoOnWith.
func (l *Lease) TakesOver(owner, session string, now time.Time, complete bool, among ...string) (fault LeaseFault, heir string) {
	switch {
	case owner == l.region, l.heard[owner] == nil, !l.rules.fenced(l, owner, now):
		return LeaseOwner, ""
	case len(l.others) == 1:
		return LeaseHeld, l.region
	}
	if fault := l.rules.answers(l, now, complete); fault != LeaseHeld {
		return fault, ""
	}
	if !l.rules.hearsAll(l, owner, now) { // the owner may have handed it over to another region just before
		return LeaseUnseen, ""
	}
	if heir = l.rules.heir(l, owner, session, among); heir != l.region {
		return LeaseHeir, heir
	}
	return LeaseHeld, heir
}

// heir returns the one region to which a session of another falls, so that no two take it at once, by a
// draw that all regions make alike.
func (l *Lease) heir(owner, session string, among []string) (heir string) {
	var most uint64
	for name := range l.heard {
		if name == owner || len(among) > 0 && !slices.Contains(among, name) {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(session + "\x00" + name)) // it never fails
		if draw := h.Sum64(); heir == "" || draw > most || draw == most && name < heir {
			heir, most = name, draw
		}
	}
	return heir
}

// MayGoOnWith returns why a session may not be taken over by the highest record that is known of it, LeaseHeld
// if it may: by a token alone it is not known who has it, and of two regions the one that it was taken from
// once does not know whether the other still serves it.
func (l *Lease) MayGoOnWith(base *Record, token Stamp) LeaseFault {
	switch {
	case !l.rules.knows(base, token):
		return LeaseUncopied
	case len(l.others) == 1 && l.rules.free(l, base, l.region):
		return LeaseTaken
	}
	return LeaseHeld
}

// knows reports whether a record is of the epoch that the token is of.
func knows(base *Record, token Stamp) bool { return base.Epoch == token.Epoch }

// free reports whether a session has been taken from a region without its consent. Of two regions, the one
// that took it goes on with it without a lease, and the other one never takes it back. Only a handover ends
// that.
func (*Lease) free(r *Record, from string) bool {
	_, taken := r.TakenFrom(from)
	return taken
}
