package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// showing is what the views of a table have still to take over. A view shows the own servers
// as they were told.
type showing struct {
	// unshown are the own servers that were told anew, keys those of others that changed and of
	// all that are gone. afresh says that the next view is to be made of everything.
	unshown []*server
	keys    []string
	afresh  bool
}

// mostUnshown bounds what is noted for a view that nobody asks for.
const mostUnshown = 100_000

// show notes that the server under a key of the bucket has changed or gone.
func (t *Table) show(key string) {
	if len(t.keys) >= mostUnshown {
		t.afresh, t.keys = true, nil
	}
	t.keys = append(t.keys, key)
}

// showOwn notes that an own server was told anew.
func (t *Table) showOwn(s *server) {
	if len(t.unshown) >= mostUnshown {
		t.afresh, t.unshown = true, nil
	}
	s.shown = t.copied(s)
	t.unshown = append(t.unshown, s)
}

// copied returns a copy of an own server's value with what is known of its region. It is not
// changed afterwards.
func (t *Table) copied(s *server) *events.Server {
	v := s.value
	v.RegionRole, v.RegionWeight = t.wishes.region()
	return &v
}

// View makes the next view of the table.
func (t *Table) View(series *Series, now time.Time) *View {
	changed, gone := make([]*events.Server, 0, len(t.unshown)+len(t.keys)), []string(nil)
	for _, s := range t.unshown {
		if !s.removed {
			changed = append(changed, s.shown)
		}
	}
	for _, key := range t.keys {
		if v := t.get(key); v != nil {
			changed = append(changed, v)
		} else {
			gone = append(gone, key)
		}
	}
	clear(t.unshown)
	t.unshown, t.keys = t.unshown[:0], t.keys[:0]
	if !t.afresh {
		return series.Next(changed, gone, now)
	}
	t.afresh = false
	list := make([]*events.Server, 0, t.size())
	t.each(func(s *server) {
		if s.shown == nil {
			s.shown = t.copied(s) // taken over, and not told yet
		}
		list = append(list, s.shown)
	}, func(v *events.Server) { list = append(list, v) })
	return series.All(list, now)
}
