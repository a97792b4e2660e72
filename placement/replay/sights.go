package replay

import (
	"slices"
	"sort"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Bounds of a part of a sight, which keep it below events.MaxViewPart.
const (
	partServers = 500
	partOthers  = 1500
)

// Sights writes a view down: as what has changed since the one that was written before or, where head
// says so, as a whole. Each is one part. head holds everything but the servers, and what follows from
// them.
func Sights(head events.Sight, v, before *placement.View) []*events.Sight {
	if head.Whole {
		before = &placement.View{}
	}
	change := v.Since(before)
	for _, s := range change.Settings {
		head.Regions = append(head.Regions, events.SightRegion{Region: s.Region, Role: s.Role, Weight: s.Weight})
	}
	w := parts{list: []*events.Sight{&head}, head: head}
	w.head.Regions = nil
	for _, s := range change.Servers {
		w.server(s, before)
	}
	for _, id := range change.Gone {
		part := w.room(func(p *events.Sight) bool { return len(p.Gone) < partOthers })
		part.Gone = append(part.Gone, id)
	}
	for i, p := range w.list {
		p.Part, p.Of = i+1, len(w.list)
	}
	return w.list
}

// parts is a sight in the making.
type parts struct {
	list []*events.Sight
	head events.Sight
}

// room returns the last part, or another if that has none left.
func (w *parts) room(has func(*events.Sight) bool) *events.Sight {
	last := w.list[len(w.list)-1]
	if !has(last) {
		next := w.head
		last = &next
		w.list = append(w.list, last)
	}
	return last
}

// server adds a server that is not what it was before.
func (w *parts) server(s placement.Server, before *placement.View) {
	if at, ok := before.Find(s.ID); ok {
		old := before.At(at)
		u := s.Utilisation
		if old.Utilisation = u; sameServer(old, s) {
			part := w.room(func(p *events.Sight) bool { return len(p.Utilisation) < partOthers })
			if part.Utilisation == nil {
				part.Utilisation = map[string]float64{}
			}
			part.Utilisation[s.ID] = u
			return
		}
	}
	part := w.room(func(p *events.Sight) bool { return len(p.Servers) < partServers })
	part.Servers = append(part.Servers, events.SightServer{
		Server: s.ID, Region: s.Region, State: s.State, Capacity: s.Capacity, Utilisation: s.Utilisation,
		Location: s.Location, DrainingSince: s.DrainingSince.UTC(), DrainUntil: s.DrainUntil.UTC(), RejoinedAt: s.RejoinedAt.UTC(),
	})
}

// sameServer reports whether placement would take two servers for the same.
func sameServer(a, b placement.Server) bool {
	return a.ID == b.ID && a.Region == b.Region && a.State == b.State && a.Capacity == b.Capacity && a.Utilisation == b.Utilisation &&
		a.Location == b.Location && a.DrainingSince.Equal(b.DrainingSince) && a.DrainUntil.Equal(b.DrainUntil) &&
		a.RejoinedAt.Equal(b.RejoinedAt)
}

// window is how many sights of a token service wait for one before them that comes late, until that
// counts as lost.
const window = 256

// seen follows what one token service has seen, through its sights, in whatever order they come within
// the window.
type seen struct {
	// number is that of view, 0 before the first.
	number uint64
	view   placement.View
	// waiting are the sights that are to be applied, by number; some lack parts.
	waiting []*sight
}

// sight is a sight of which parts have come.
type sight struct {
	number, since uint64
	whole         bool
	parts         []*events.Sight
	missing       int
}

// take adds a part, and calls made for each view that it completes.
func (v *seen) take(e *events.Sight, made func(number uint64, view *placement.View)) {
	if e.Number <= v.number {
		return // told twice
	}
	i := sort.Search(len(v.waiting), func(i int) bool { return v.waiting[i].number >= e.Number })
	if i == len(v.waiting) || v.waiting[i].number != e.Number {
		s := &sight{number: e.Number, since: e.Since, whole: e.Whole, parts: make([]*events.Sight, e.Of), missing: e.Of}
		v.waiting = slices.Insert(v.waiting, i, s)
	}
	if s := v.waiting[i]; e.Part <= len(s.parts) && s.parts[e.Part-1] == nil {
		s.parts[e.Part-1] = e
		s.missing--
	}
	v.apply(window, made)
}

// apply makes the views that can be made, and gives up what more than some wait for.
func (v *seen) apply(most int, made func(number uint64, view *placement.View)) {
	if v.number == 0 { // what comes before the first whole one changes what is not known
		if i := slices.IndexFunc(v.waiting, func(s *sight) bool { return s.whole && s.missing == 0 }); i > 0 {
			v.waiting = slices.Delete(v.waiting, 0, i)
		}
	}
	for len(v.waiting) > 0 {
		next := v.waiting[0]
		follows := next.missing == 0 && (next.since == v.number || next.whole && v.number == 0)
		if !follows && len(v.waiting) <= most {
			return
		}
		v.waiting = slices.Delete(v.waiting, 0, 1)
		if !follows && (next.missing > 0 || !next.whole) {
			continue
		}
		if view, ok := next.after(&v.view); ok {
			v.view, v.number = view, next.number
			made(v.number, &view)
		}
	}
}

// after returns the view that a sight makes of the one before; false if it is not of that.
func (s *sight) after(before *placement.View) (placement.View, bool) {
	if s.whole {
		before = &placement.View{}
	}
	var c placement.Change
	for _, p := range s.parts {
		for _, r := range p.Regions {
			c.Settings = append(c.Settings, placement.Setting{Region: r.Region, Role: r.Role, Weight: r.Weight})
		}
		for _, e := range p.Servers {
			c.Servers = append(c.Servers, placement.Server{
				ID: e.Server, Region: e.Region, State: e.State, Capacity: e.Capacity, Utilisation: e.Utilisation,
				Location: e.Location, DrainingSince: e.DrainingSince, DrainUntil: e.DrainUntil, RejoinedAt: e.RejoinedAt,
			})
		}
		for id, u := range p.Utilisation {
			at, ok := before.Find(id)
			if !ok {
				return placement.View{}, false
			}
			server := before.At(at)
			server.Utilisation = u
			c.Servers = append(c.Servers, server)
		}
		c.Gone = append(c.Gone, p.Gone...)
	}
	return before.After(c), true
}
