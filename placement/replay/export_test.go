package replay

import (
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Views returns the views that sights of one token service make, by number.
func Views(sights []*events.Sight) map[uint64]placement.View {
	views := map[uint64]placement.View{}
	made := func(number uint64, view *placement.View) { views[number] = *view }
	var s seen
	for _, e := range sights {
		s.take(e, made)
	}
	s.apply(0, made)
	return views
}
