package placement

import "slices"

// With returns the view in which each of the servers counts as given and all others as before:
// what NewView would make of them all, at the price of what has changed. v stays as it is and
// shares the rest. It fails if one of the servers is new: that takes a NewView.
func (v *View) With(servers ...Server) (View, bool) {
	next := *v
	next.Regions = slices.Clone(v.Regions)
	touched := make([]touch, len(v.Regions))
	for i := range servers {
		s := &servers[i]
		at, ok := v.servers[s.ID]
		if !ok {
			return View{}, false
		}
		if r := &next.Regions[at.Region]; r.Name == s.Region { // else it is left out, as before
			r.put(at.Server, s, &touched[at.Region])
		}
	}
	reranked := false
	for i, t := range touched {
		if t != (touch{}) {
			before := &v.Regions[i]
			r := &next.Regions[i]
			r.renew(t)
			reranked = reranked || r.at != before.at || (r.Usable > 0) != (before.Usable > 0)
		}
	}
	if reranked {
		next.rank()
	}
	next.level()
	return next, true
}

// touch says which of a region's slices are copies already, to be written to.
type touch struct{ state, capacity, utilisation, since, until, rejoined, places bool }

// put makes the server at an index count as given.
func (r *Region) put(i int, s *Server, t *touch) {
	set(&r.State, i, s.State, &t.state)
	set(&r.Capacity, i, bounded(s.Capacity, 0, maxCapacity), &t.capacity)
	set(&r.Utilisation, i, bounded(s.Utilisation, 1, maxUtilisation), &t.utilisation)
	set(&r.since, i, s.DrainingSince, &t.since)
	set(&r.until, i, s.DrainUntil, &t.until)
	set(&r.rejoined, i, s.RejoinedAt, &t.rejoined)
	set(&r.places, i, s.Location, &t.places)
}

// set puts a value into a slice, before the first change of it into a copy.
func set[T comparable](list *[]T, i int, value T, copied *bool) {
	if (*list)[i] == value {
		return
	}
	if !*copied {
		*list, *copied = slices.Clone(*list), true
	}
	(*list)[i] = value
}

// renew works out anew what follows from the servers.
func (r *Region) renew(t touch) {
	if t.places {
		r.center()
	}
	if t.state || t.capacity || t.rejoined {
		r.count()
	}
	if t.state || t.capacity || t.rejoined || t.utilisation {
		r.sum()
	}
}

// Added is what sessions on their way add to the utilisation of servers, as fractions of their
// capacity, by server; negative where sessions have left.
type Added map[string]float64

// WithAdded returns the view in which each server's utilisation is so much more than it has reported.
// v stays as it is and shares the rest. Servers that it does not have are passed over.
func (v *View) WithAdded(a Added) View {
	next := *v
	next.Regions = slices.Clone(v.Regions)
	touched := make([]touch, len(v.Regions))
	for id, more := range a {
		if at, ok := v.servers[id]; ok {
			r := &next.Regions[at.Region]
			set(&r.Utilisation, at.Server, bounded(v.Regions[at.Region].Utilisation[at.Server]+more, 1, maxUtilisation), &touched[at.Region].utilisation)
		}
	}
	for i, t := range touched {
		next.Regions[i].renew(t)
	}
	next.level()
	return next
}
