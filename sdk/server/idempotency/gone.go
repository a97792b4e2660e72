package idempotency

import (
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// GoneByView returns a Config.Gone that goes by the active servers as the agent sees them, its View: a server that is down or
// has left has no process that lives, and of one without members the process before the present boot has died. Boots are those of
// the agents' configurations, ULIDs, which grow from one start to the next.
func GoneByView(view func() *registry.View) func(Owner) bool {
	return func(o Owner) bool {
		v := view()
		if v == nil {
			return false
		}
		s, ok := v.Server(o.Server)
		switch {
		case !ok || s.Region != o.Region:
			return false
		case s.State == events.StateDown, s.State == events.StateLeft:
			return true
		default:
			return o.Member == "" && s.Boot > o.Boot
		}
	}
}
