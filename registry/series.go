package registry

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Series makes the views of one source, each from the one before: what did not change is
// shared, so that a view costs what has changed since. It is owned by one goroutine; the views
// are anybody's.
type Series struct {
	current *atomic.Int64
	last    *View
	// slow are the servers in slow start, by key: they change by themselves.
	slow map[string]*events.Server
}

// NewSeries returns a series without a view. current is as in NewView.
func NewSeries(current *atomic.Int64) *Series {
	return &Series{current: current, slow: map[string]*events.Server{}}
}

// All makes the view of the servers, which must be sorted by region and id. They are not
// changed afterwards, nor is the list.
func (s *Series) All(servers []*events.Server, now time.Time) *View {
	clear(s.slow)
	for _, v := range servers {
		s.ramp(v)
	}
	s.last = newView(servers, seqsOf(servers), s.current, now)
	return s.last
}

// Next makes the view in which the changed servers, some of which may be new, count as given,
// those with the gone keys are no more, and the others are as before. Of a server that is
// among the changed twice the last counts.
func (s *Series) Next(changed []*events.Server, gone []string, now time.Time) *View {
	if s.last == nil {
		s.All(nil, now)
	}
	m := s.last.merge(changed, gone)
	if !m.same || m.anew || s.last.reset(changed) {
		return s.All(m.list, now)
	}
	v := *s.last
	v.Servers, v.settled = m.list, time.Time{}
	candidates := make([]placement.Server, 0, len(changed)+len(s.slow))
	for _, c := range changed {
		s.ramp(c)
		candidates = append(candidates, candidate(c, now))
	}
	for _, c := range s.slow {
		candidates = append(candidates, candidate(c, now))
		v.settled = latest(v.settled, settles(c))
	}
	var known bool
	if v.View, known = s.last.With(candidates...); !known {
		return s.All(m.list, now)
	}
	if v.seqs = s.last.reached(changed); m.anew {
		v.seqs = seqsOf(m.list)
	}
	s.last = &v
	return s.last
}

// ramp notes whether a server is in slow start.
func (s *Series) ramp(v *events.Server) {
	switch {
	case !v.RejoinedAt.IsZero() && !v.Settled:
		s.slow[v.Key()] = v
	case len(s.slow) > 0:
		delete(s.slow, v.Key())
	}
}

// merged is a list of servers after a change of another.
type merged struct {
	list []*events.Server
	// same says that they are the same servers, each where it was; anew that the sequence of
	// one has fallen.
	same, anew bool
}

// merge applies a change to the servers of a view, which stays as it is.
func (v *View) merge(changed []*events.Server, gone []string) merged {
	m := merged{list: slices.Clone(v.Servers)}
	var added []*events.Server
	for _, c := range changed {
		if at, ok := slices.BinarySearchFunc(m.list, c, compareServers); ok {
			m.anew = m.anew || c.Seq < m.list[at].Seq
			m.list[at] = c
		} else {
			added = append(added, c)
		}
	}
	m.same = len(added) == 0 && len(gone) == 0
	if len(added) > 0 {
		m.list = insert(m.list, added)
	}
	if len(gone) > 0 {
		leaves := make(map[string]struct{}, len(gone))
		for _, key := range gone {
			leaves[key] = struct{}{}
		}
		m.list = slices.DeleteFunc(m.list, func(s *events.Server) bool {
			_, leaves := leaves[s.Key()]
			return leaves
		})
	}
	return m
}

// insert returns a sorted list with others that are not in it. Of those that come twice the
// last counts.
func insert(list, added []*events.Server) []*events.Server {
	slices.SortStableFunc(added, compareServers)
	all := make([]*events.Server, 0, len(list)+len(added))
	for i, a := range added {
		if i+1 < len(added) && compareServers(a, added[i+1]) == 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(list, a, compareServers)
		all = append(append(all, list[:at]...), a)
		list = list[at:]
	}
	return append(all, list...)
}

// reset reports whether a change sets a region's role or weight anew: its newest value counts.
func (v *View) reset(changed []*events.Server) bool {
	var newest *events.Server
	differs := func() bool {
		if newest == nil || newest.Seq < v.seqs[newest.Region] {
			return false
		}
		at, ok := v.Region(newest.Region)
		if !ok {
			return true
		}
		r := &v.Regions[at]
		return cmp.Or(newest.RegionRole, events.RoleActive) != r.Role || events.WeightOf(newest.RegionWeight) != r.Weight
	}
	for _, c := range changed {
		if newest != nil && newest.Region != c.Region {
			if differs() {
				return true
			}
			newest = nil
		}
		if newest == nil || c.Seq > newest.Seq || c.Seq == newest.Seq && c.Server < newest.Server {
			newest = c
		}
	}
	return differs()
}

// reached returns the sequences after a change.
func (v *View) reached(changed []*events.Server) map[string]uint64 {
	seqs, copied := v.seqs, false
	for _, c := range changed {
		if c.Seq <= seqs[c.Region] {
			continue
		}
		if !copied {
			seqs, copied = maps.Clone(seqs), true
		}
		seqs[c.Region] = c.Seq
	}
	return seqs
}
