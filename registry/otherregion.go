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
	// servers are sorted by id.
	servers []*events.Server
	// seq and at are those of the newest update, seen is when one last arrived here.
	seq  uint64
	at   time.Time
	seen time.Time
	// complete is the sequence of the last full update that has come whole, full collects the
	// parts of a later one.
	complete uint64
	full     *fullUpdate
	// unreachable says that no update has come for too long.
	unreachable bool
}

// fullUpdate collects the parts of a full update: once all are there, every server that is
// in none of them is gone.
type fullUpdate struct {
	seq     uint64
	parts   map[int]struct{}
	servers map[string]struct{}
}

// lapse is how long another region's updates, due each second, may stay away until it counts
// as cut off: when it is back it is told everything at once.
const lapse = 2 * time.Second

// Bounds of what other regions may claim.
const (
	maxParts    = 1024
	maxRegions  = 256
	maxSequence = 1 << 62
)

// shown returns a server as it counts here: one of a region out of reach is suspect, and what
// protected it was given by who is not heard any more.
func (o *otherRegion) shown(s *events.Server) *events.Server {
	if !o.unreachable {
		return s
	}
	v := *s
	v.Protection = ""
	if v.State == events.StateUp {
		v.State, v.Reason = events.StateSuspect, reasonNoUpdates
	}
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
		o = &otherRegion{seen: now}
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
	if u.Full && u.Seq < o.seq && u.At.After(o.at) {
		o.restart()
		t.afresh = true
	}
	if o.at.IsZero() || now.Sub(o.seen) >= lapse {
		t.fullDue = true // who was not heard did not hear either
	}
	var effects []Effect
	if o.seen = latest(o.seen, now); o.unreachable {
		effects = t.reach(u.Region, o, true, "view updates are back", now)
	}
	if o.late(u) {
		return append(effects, Skipped{SkipOlder})
	}
	if o.missed(u) {
		effects = append(effects, UpdateMissed{u.Region})
	}
	if u.Seq >= o.seq {
		o.seq, o.at = u.Seq, latest(o.at, u.At)
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
		t.complete(o, u)
	}
	return effects
}

// restart forgets how far a region had counted: its registry has lost that, with its store.
// What it says next replaces everything.
func (o *otherRegion) restart() {
	o.seq, o.at, o.complete, o.full = 0, time.Time{}, 0, nil
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

// missed reports whether an update shows that one before it has not arrived. An update
// without servers only repeats how far the region has counted.
func (o *otherRegion) missed(u *events.ViewUpdate) bool {
	if o.seq == 0 || u.Full {
		return false
	}
	if len(u.Servers) == 0 {
		return u.Seq > o.seq
	}
	return u.Seq > o.seq+1
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
	switch {
	case !ok && len(o.servers) >= most:
		return refused
	case !ok:
		o.servers = slices.Insert(o.servers, at, s)
	case s.Seq <= o.servers[at].Seq:
		return known
	default:
		o.servers[at] = s
	}
	return adopted
}

// complete drops, once all parts of a full update have come, the servers that are in none.
func (t *Table) complete(o *otherRegion, u *events.ViewUpdate) {
	if o.full == nil || o.full.seq < u.Seq {
		o.full = &fullUpdate{seq: u.Seq, parts: map[int]struct{}{}, servers: map[string]struct{}{}}
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
		}
		return drop
	})
	o.complete, o.full = u.Seq, nil
}

// reach notes that a region has come into reach or gone out of it.
func (t *Table) reach(name string, o *otherRegion, reachable bool, reason string, now time.Time) []Effect {
	o.unreachable = !reachable
	for _, s := range o.servers {
		t.dueKey(s.Key())
	}
	state := "unreachable"
	if reachable {
		state = "up"
	}
	return []Effect{RegionChanged{&events.RegionState{
		Version: events.Version, Region: name, State: state, Reason: reason, Seen: t.region, At: now.UTC(),
	}}}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
