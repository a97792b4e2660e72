package placement

import (
	"slices"

	"github.com/berthhq/berth/events"
)

// Change is what makes one View of another: as little as is needed to write down each of many.
type Change struct {
	// Servers are those that are new or not what they were, by region and id; Gone the ids of those
	// that are no more, sorted.
	Servers []Server
	Gone    []string
	// Settings are those of all regions in which operators have set something, changed or not.
	Settings []Setting
}

// Since returns what makes this view of base: base.After(v.Since(base)) decides as v does, at v's
// prices. Where base is the zero View that is all of it.
func (v *View) Since(base *View) Change {
	c := Change{Settings: v.settings()}
	left := len(base.servers) // those of base that were not come across
	for i := range v.Regions {
		r := &v.Regions[i]
		var before *Region
		if at, ok := base.regions[r.Name]; ok {
			before = &base.Regions[at]
		}
		if before != nil && same(r.ID, before.ID) {
			left -= len(r.ID)
			if r.shares(before) {
				continue
			}
		}
		for k, id := range r.ID {
			if s := r.server(k); before == nil || !before.has(k, id, s, base) {
				c.Servers = append(c.Servers, s)
			}
		}
	}
	for id := range base.servers {
		if left == 0 {
			break
		}
		if _, ok := v.servers[id]; !ok {
			c.Gone = append(c.Gone, id)
		}
	}
	slices.Sort(c.Gone)
	return c
}

// After returns the view after a change. v stays as it is. Prices are none's.
func (v *View) After(c Change) View {
	if v.servers != nil && len(c.Gone) == 0 && slices.Equal(c.Settings, v.settings()) && v.places(c.Servers) {
		if next, ok := v.With(c.Servers...); ok {
			return next
		}
	}
	leaves := make(map[string]struct{}, len(c.Gone)+len(c.Servers))
	for _, id := range c.Gone {
		leaves[id] = struct{}{}
	}
	for i := range c.Servers {
		leaves[c.Servers[i].ID] = struct{}{}
	}
	all := slices.Clone(c.Servers)
	for i := range v.Regions {
		for k, id := range v.Regions[i].ID {
			if _, ok := leaves[id]; !ok {
				all = append(all, v.Regions[i].server(k))
			}
		}
	}
	return NewView(all, c.Settings...)
}

// places reports whether each of the servers stands where it did.
func (v *View) places(servers []Server) bool {
	for i := range servers {
		if at, ok := v.servers[servers[i].ID]; !ok || v.Regions[at.Region].Name != servers[i].Region {
			return false
		}
	}
	return true
}

// settings returns those that are not every region's from the start.
func (v *View) settings() (list []Setting) {
	for i := range v.Regions {
		if r := &v.Regions[i]; r.Role != events.RoleActive || r.Weight != events.FullWeight {
			list = append(list, Setting{Region: r.Name, Role: r.Role, Weight: r.Weight})
		}
	}
	return list
}

// server returns the server at an index, as bounded.
func (r *Region) server(i int) Server {
	return Server{
		ID: r.ID[i], Region: r.Name, State: r.State[i], Capacity: r.Capacity[i], Utilisation: r.Utilisation[i],
		Location: r.places[i], DrainingSince: r.since[i], DrainUntil: r.until[i], RejoinedAt: r.rejoined[i],
	}
}

// has reports whether the region, which is of view v, has a server just as given, probably at an index.
func (r *Region) has(i int, id string, s Server, v *View) bool {
	if i >= len(r.ID) || r.ID[i] != id {
		at, ok := v.servers[id]
		if !ok || v.Regions[at.Region].Name != r.Name {
			return false
		}
		i = at.Server
	}
	return r.State[i] == s.State && r.Capacity[i] == s.Capacity && r.Utilisation[i] == s.Utilisation &&
		r.places[i] == s.Location && r.since[i].Equal(s.DrainingSince) && r.until[i].Equal(s.DrainUntil) &&
		r.rejoined[i].Equal(s.RejoinedAt)
}

// shares reports whether two regions of the same servers are the same slices, as With leaves those without
// a change.
func (r *Region) shares(o *Region) bool {
	return same(r.State, o.State) && same(r.Capacity, o.Capacity) && same(r.Utilisation, o.Utilisation) &&
		same(r.places, o.places) && same(r.since, o.since) && same(r.until, o.until) && same(r.rejoined, o.rejoined)
}

// same reports whether two slices, which are not empty, are one.
func same[T any](a, b []T) bool { return len(a) == len(b) && &a[0] == &b[0] }

// At returns the server at a position of this view, its numbers as bounded.
func (v *View) At(at Ref) Server { return v.Regions[at.Region].server(at.Server) }
