package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// vigil is what a tick reads of an own server. Ten thousand of them lie side by side, so that
// twenty looks a second at all servers cost little; most servers are calm.
type vigil struct {
	server *server
	// calm says that only silence can change the server's state, as far as was known when all of
	// it was last looked at. Whatever else is learned of it ends that (Table.stir).
	calm bool
	// seen is when it was last heard live, from the table's origin on; interval is that of its
	// heartbeats.
	seen, interval time.Duration
}

// silence is how long ago a server was heard, at the least: who may have missed messages
// counts from later on.
func (v *vigil) silence(now time.Duration) time.Duration { return now - v.seen }

// clock returns now as the time since the first that the table learned of, which is not
// disturbed by a clock that is set.
func (t *Table) clock(now time.Time) time.Duration {
	if t.origin.IsZero() {
		t.origin = now
	}
	return now.Sub(t.origin)
}

// stir has the next tick look at all of a server.
func (t *Table) stir(id string) {
	if s, ok := t.own[id]; ok {
		t.vigils[s.place].calm = false
	}
}

// stirAll has the next tick look at all of every server.
func (t *Table) stirAll() {
	for i := range t.vigils {
		t.vigils[i].calm = false
	}
}

// observe notes that a server was heard, at the time in its evidence.
func (t *Table) observe(s *server) {
	v := &t.vigils[s.place]
	v.seen, v.interval = t.clock(s.seen), intervalOf(s.value.IntervalMS)
}

// calm reports whether nothing but silence can change the state of a server.
func (s *server) calm() bool {
	v := &s.value
	return v.State == events.StateUp && len(s.members) == 1 && !s.seen.IsZero() &&
		v.Protection == "" && v.RejoinedAt.IsZero() && v.LoadSource == "" &&
		s.gone.IsZero() && !s.probing && !s.answered && s.failed == 0
}
