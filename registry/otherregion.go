package registry

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// otherRegion is what the table knows of another region: what that region's registry says.
type otherRegion struct {
	// servers are sorted by id. Those in written are as the bucket had them while the region
	// was out of reach.
	servers []*events.Server
	written map[string]struct{}
	// seq and at are those of the newest update, heard is when one last arrived here, zero for
	// never; seen is the same, or when the region became known.
	seq         uint64
	at          time.Time
	seen, heard time.Time
	// stored is the highest sequence of the values taken from the bucket, storedAt the newest sight in them.
	stored   uint64
	storedAt time.Time
	// complete is the sequence of the last full update that has come whole, full collects the
	// parts of a later one.
	complete uint64
	full     *fullUpdate
	missing
	trips roundTrips
	// unreachable says that no update has come for too long, down that its servers are found
	// dead too; since is when the last of these began or ended.
	unreachable, down bool
	since             time.Time
	sight
	inquest
	// role and weight are the region's, as of an update of that sequence.
	role     events.Role
	weight   *int
	roleAsOf uint64
}

// fullUpdate collects the parts of a full update: once all are there, every server that is
// in none of them is gone.
type fullUpdate struct {
	seq     uint64
	began   time.Time
	parts   map[int]struct{}
	servers map[string]struct{}
}

// lapse is how long another region's updates, due each second, may stay away until it counts
// as cut off: when it is back it is told everything at once.
const lapse = 2 * time.Second

// Why servers of another region do not count as that region says.
const (
	// ReasonRegionUnreachable: no update of the region has come for too long.
	ReasonRegionUnreachable = "region_unreachable"
	// ReasonRegionDown: and its servers are found dead.
	ReasonRegionDown = "region_down"
)

// The states of a region as events.RegionState has them.
const (
	regionUp          = "up"
	regionUnreachable = "unreachable"
	regionDown        = "down"
)

// Bounds of what other regions may claim.
const (
	maxParts    = 1024
	maxRegions  = 256
	maxSequence = 1 << 62
)

// shown returns a server as it counts here, with what is set of its region: one of a region out
// of reach is suspect, one of a region that is down is down.
func (o *otherRegion) shown(s *events.Server) *events.Server {
	if !o.unreachable && s.RegionRole == o.role && s.RegionWeight == o.weight {
		return s
	}
	v := *s
	v.RegionRole, v.RegionWeight = o.role, o.weight
	switch {
	case !o.unreachable:
		return &v
	case o.down && v.State.Alive():
		v.State, v.Reason, v.Since = events.StateDown, ReasonRegionDown, o.since.UTC()
	case v.State == events.StateUp:
		v.State, v.Reason, v.Since = events.StateSuspect, ReasonRegionUnreachable, o.since.UTC()
	}
	v.Protection = "" // it was given by who is not heard any more
	return &v
}

// find returns the index of a server, or where it belongs.
func (o *otherRegion) find(id string) (at int, ok bool) {
	return slices.BinarySearchFunc(o.servers, id, func(s *events.Server, id string) int { return strings.Compare(s.Server, id) })
}

// other returns what is known of a region, nil if there are too many.
func (t *Table) other(name string, now time.Time) *otherRegion {
	o, ok := t.others[name]
	if !ok {
		if len(t.others) >= maxRegions {
			return nil
		}
		o = &otherRegion{seen: now, written: map[string]struct{}{}}
		o.all(0, now)
		t.others[name] = o
	}
	return o
}

// update folds a view update. Of each server the value of the highest sequence counts; what a
// gap has left out comes with the next full update.
func (t *Table) update(u *events.ViewUpdate, now time.Time) []Effect {
	if u.Seq > maxSequence || u.Of > maxParts {
		return []Effect{Skipped{SkipTooMany}}
	}
	if u.Region == t.region {
		t.counted(u.Seq)
		return nil
	}
	o := t.other(u.Region, now)
	if o == nil {
		return []Effect{Skipped{SkipTooMany}}
	}
	if o.heard.IsZero() || now.Sub(o.seen) >= lapse {
		t.fullDue = true // who was not heard did not hear either
	}
	var effects []Effect
	o.seen, o.heard = latest(o.seen, now), latest(o.heard, now)
	if o.unreachable {
		o.all(o.seq, now)
		o.missing.since, o.vain = now.Add(returnGrace), 0
		effects = t.reach(u.Region, o, true, "view updates are back", now)
	}
	return append(effects, t.take(o, u, now)...)
}

// take folds what a region says of its servers: an update, or its answer to a question.
func (t *Table) take(o *otherRegion, u *events.ViewUpdate, now time.Time) (effects []Effect) {
	if u.Full && u.Seq < max(o.seq, o.stored) && u.At.After(latest(o.at, o.storedAt)) {
		o.restart()
		t.afresh = true
		t.fullDue = true // it may have lost what it heard, too
	}
	if o.late(u) {
		return []Effect{Skipped{SkipOlder}}
	}
	if first, last := o.skipped(u); first <= last {
		o.lack(first, last, now)
		effects = append(effects, UpdateMissed{u.Region})
	}
	if len(u.Servers) > 0 && !u.Full {
		o.found(u.Seq)
	}
	assigned := u.Seq >= o.seq && !u.At.Before(o.at) && o.assign(u.Role, u.Weight, u.Seq)
	if u.Seq >= o.seq {
		o.seq, o.at = u.Seq, latest(o.at, u.At)
		o.says(u, now)
	}
	for i := range u.Servers {
		switch o.adopt(&u.Servers[i], t.detection.MaxServers) {
		case known:
		case adopted:
			t.dueKey(u.Servers[i].Key())
		case refused:
			effects = append(effects, Skipped{SkipTooMany})
		}
	}
	if u.Full {
		t.complete(o, u, now)
	}
	if assigned {
		t.dueNewest(o)
	}
	return effects
}

// assign takes the region's role and weight, and reports whether they have changed.
func (o *otherRegion) assign(role events.Role, weight *int, seq uint64) (changed bool) {
	changed = role != o.role || events.WeightOf(weight) != events.WeightOf(o.weight)
	o.role, o.weight, o.roleAsOf = role, weight, seq
	return changed
}

// recall takes them from a stored value, until the region itself is heard.
func (o *otherRegion) recall(s *events.Server) {
	if o.at.IsZero() && s.Seq > o.roleAsOf {
		o.assign(s.RegionRole, s.RegionWeight, s.Seq)
	}
}

// dueNewest marks the server whose value tells readers the region's role and weight: that of
// the highest sequence, the first by id of several.
func (t *Table) dueNewest(o *otherRegion) {
	var newest *events.Server
	for _, s := range o.servers {
		if newest == nil || s.Seq > newest.Seq {
			newest = s
		}
	}
	if newest != nil {
		t.dueKey(newest.Key())
	}
}

// alone returns a copy that keeps nothing else of an update in memory.
func alone(s *events.Server) *events.Server {
	v := *s
	return &v
}

// restart forgets how far a region had counted: its registry has lost that, with its store.
// What it says next replaces everything.
func (o *otherRegion) restart() {
	o.seq, o.at, o.complete, o.full = 0, time.Time{}, 0, nil
	o.seqs, o.upTo = nil, 0
	o.stored, o.storedAt = 0, time.Time{}
	for i, s := range o.servers {
		anew := *s
		anew.Seq = 0
		o.servers[i] = &anew
	}
}

// late reports whether an update is of before the last full one, which has said all that
// counts of it.
func (o *otherRegion) late(u *events.ViewUpdate) bool {
	if u.Full {
		return u.Seq <= o.complete || o.full != nil && u.Seq < o.full.seq
	}
	return u.Seq < o.complete || u.Seq == o.complete && len(u.Servers) > 0
}

// skipped returns the first and the last update that should have arrived before this one; none
// if the last is less than the first. An update without servers only repeats how far the
// region has counted, and a full one says what all before it did.
func (o *otherRegion) skipped(u *events.ViewUpdate) (first, last uint64) {
	switch {
	case o.seq == 0 || u.Full:
		return 1, 0
	case len(u.Servers) == 0:
		return o.seq + 1, u.Seq
	}
	return o.seq + 1, u.Seq - 1
}

// adoption is what became of a server's value.
type adoption int

const (
	known adoption = iota
	adopted
	refused // it would exceed the bound
)

// adopt takes a server's value if it is newer than the one that is there.
func (o *otherRegion) adopt(s *events.Server, most int) adoption {
	at, ok := o.find(s.Server)
	_, again := o.written[s.Server]
	switch {
	case !ok && len(o.servers) >= most:
		return refused
	case !ok:
		o.servers = slices.Insert(o.servers, at, alone(s))
	case s.Seq < o.servers[at].Seq || s.Seq == o.servers[at].Seq && !again:
		return known
	default:
		o.servers[at] = alone(s)
	}
	if again {
		delete(o.written, s.Server)
	}
	return adopted
}

// complete drops, once all parts of a full update have come, the servers that are in none.
func (t *Table) complete(o *otherRegion, u *events.ViewUpdate, now time.Time) {
	if o.full == nil || o.full.seq < u.Seq {
		o.full = &fullUpdate{seq: u.Seq, began: now, parts: map[int]struct{}{}, servers: map[string]struct{}{}}
	}
	o.full.parts[u.Part] = struct{}{}
	for i := range u.Servers {
		o.full.servers[u.Servers[i].Server] = struct{}{}
	}
	if len(o.full.parts) < u.Of {
		return
	}
	o.servers = slices.DeleteFunc(o.servers, func(s *events.Server) bool {
		_, there := o.full.servers[s.Server]
		drop := !there && s.Seq <= u.Seq
		if drop {
			t.dueKey(s.Key())
			delete(o.written, s.Server)
		}
		return drop
	})
	t.dueNewest(o)
	o.complete, o.full = u.Seq, nil
	o.completed(u.Seq)
}

// state is what is said of the region.
func (o *otherRegion) state() string {
	switch {
	case o.down:
		return regionDown
	case o.unreachable:
		return regionUnreachable
	}
	return regionUp
}

// Regions counts the other regions by their state: up, unreachable and down.
func (t *Table) Regions() map[string]int {
	counts := map[string]int{regionUp: 0, regionUnreachable: 0, regionDown: 0}
	for _, o := range t.others {
		counts[o.state()]++
	}
	return counts
}

// reach notes that a region has come into reach or gone out of it.
func (t *Table) reach(name string, o *otherRegion, reachable bool, reason string, now time.Time) []Effect {
	o.unreachable, o.down, o.inquest = !reachable, false, inquest{round: o.round}
	return t.turned(name, o, reason, now)
}

// turned says that a region is in another state, and with it all of its servers.
func (t *Table) turned(name string, o *otherRegion, reason string, now time.Time) []Effect {
	o.since = now
	for _, s := range o.servers {
		t.dueKey(s.Key())
	}
	return []Effect{RegionChanged{&events.RegionState{
		Version: events.Version, Region: name, State: o.state(), Reason: reason, Seen: t.region, At: now.UTC(),
	}}}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
