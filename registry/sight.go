package registry

import (
	"maps"
	"time"

	"github.com/berthhq/berth/events"
)

// sight is what another region last said of how lately it has heard the others, in ms, and
// when it said so.
type sight struct {
	sees   map[string]int64
	saidAt time.Time
}

// says keeps what an update says.
func (s *sight) says(u *events.ViewUpdate, now time.Time) {
	if len(u.Sees) <= maxRegions {
		s.sees, s.saidAt = u.Sees, now
	}
}

// age returns how long ago the region heard another, by its own word; false if it never said
// that it did.
func (s *sight) age(name string, now time.Time) (time.Duration, bool) {
	ms, ok := s.sees[name]
	return max(0, time.Duration(ms))*time.Millisecond + max(0, now.Sub(s.saidAt)), ok
}

// Sees returns the age of the last update of each other region in milliseconds. Regions that
// were not heard since this registry started are not in it.
func (t *Table) Sees(now time.Time) map[string]int64 {
	sees := make(map[string]int64, len(t.others))
	for name, o := range t.others {
		if !o.heard.IsZero() {
			sees[name] = max(0, now.Sub(o.heard).Milliseconds())
		}
	}
	return sees
}

// SeesOf returns what another region last said that it sees, as in its view updates, and when
// that arrived: a region that this one cannot reach may be in reach of those that see it.
// False if it has said nothing. The map is the caller's.
func (t *Table) SeesOf(region string) (sees map[string]int64, said time.Time, ok bool) {
	o, ok := t.others[region]
	if !ok || o.saidAt.IsZero() {
		return nil, time.Time{}, false
	}
	return maps.Clone(o.sees), o.saidAt, true
}
