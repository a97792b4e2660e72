package registry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// otherRegion is what the table knows of another region: what that region's registry says.
type otherRegion struct {
	servers map[string]events.Server
	// seq and at are those of the newest update, seen is when it arrived here.
	seq  uint64
	at   time.Time
	seen time.Time
	// full collects the parts of one full update.
	full *fullUpdate
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

// maxParts bounds what a full update may claim to have.
const maxParts = 1024

// get returns a server as it counts here: one of a region out of reach is suspect.
func (o *otherRegion) get(id string) (events.Server, bool) {
	s, ok := o.servers[id]
	if ok && o.unreachable && s.State == events.StateUp {
		s.State, s.Reason = events.StateSuspect, "region_unreachable"
	}
	return s, ok
}

func (t *Table) other(name string, now time.Time) *otherRegion {
	o, ok := t.others[name]
	if !ok {
		o = &otherRegion{servers: map[string]events.Server{}, seen: now}
		t.others[name] = o
	}
	return o
}

// update folds another region's view update. Of each server the value of the highest
// sequence counts; what a gap has left out comes with the next full update.
func (t *Table) update(u *events.ViewUpdate, now time.Time) []Effect {
	if u.Region == t.region {
		return nil
	}
	if u.Of > maxParts {
		return []Effect{Skipped{SkipTooMany}}
	}
	o := t.other(u.Region, now)
	if u.Seq < o.seq && u.Full && u.At.After(o.at) {
		// Its registry has lost count with its store: begin anew.
		o.seq, o.full = 0, nil
		for id, s := range o.servers {
			s.Seq = 0
			o.servers[id] = s
		}
	}
	o.seen = now
	if u.Seq > o.seq {
		o.seq, o.at = u.Seq, u.At
	}
	var effects []Effect
	if o.unreachable {
		effects = t.reach(u.Region, o, true, "view updates are back", now)
	}
	for i := range u.Servers {
		if !t.adopt(o, &u.Servers[i]) {
			effects = append(effects, Skipped{SkipTooMany})
		}
	}
	if u.Full {
		t.complete(o, u)
	}
	return effects
}

// adopt takes a server's value if it is newer than the one that is there. It refuses only
// what would exceed the bound.
func (t *Table) adopt(o *otherRegion, s *events.Server) bool {
	have, known := o.servers[s.Server]
	switch {
	case !known && len(o.servers) >= t.detection.MaxServers:
		return false
	case known && s.Seq <= have.Seq:
		return true
	}
	o.servers[s.Server] = *s
	t.dirty[s.Key()] = struct{}{}
	return true
}

// complete drops, once all parts of a full update have come, the servers that are in none.
func (t *Table) complete(o *otherRegion, u *events.ViewUpdate) {
	if o.full == nil || o.full.seq < u.Seq {
		o.full = &fullUpdate{seq: u.Seq, parts: map[int]struct{}{}, servers: map[string]struct{}{}}
	}
	if o.full.seq != u.Seq {
		return
	}
	o.full.parts[u.Part] = struct{}{}
	for i := range u.Servers {
		o.full.servers[u.Servers[i].Server] = struct{}{}
	}
	if len(o.full.parts) < u.Of {
		return
	}
	for id, s := range o.servers {
		if _, there := o.full.servers[id]; !there && s.Seq <= u.Seq {
			delete(o.servers, id)
			t.dirty[s.Key()] = struct{}{}
		}
	}
	o.full = nil
}

// reach notes that a region has come into reach or gone out of it.
func (t *Table) reach(name string, o *otherRegion, reachable bool, reason string, now time.Time) []Effect {
	o.unreachable = !reachable
	for _, s := range o.servers {
		t.dirty[s.Key()] = struct{}{}
	}
	state := "unreachable"
	if reachable {
		state = "up"
	}
	return []Effect{RegionChanged{&events.RegionState{
		Version: events.Version, Region: name, State: state, Reason: reason, Seen: t.region, At: now.UTC(),
	}}}
}

// cutKey splits a key of berth_servers.
func cutKey(key string) (region, id string, ok bool) { return strings.Cut(key, ".") }

func compareServers(a, b events.Server) int {
	return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Server, b.Server))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
