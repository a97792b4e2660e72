package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// reasonOperator is why a server drains that has not announced so itself.
const reasonOperator = "operator"

// drain is what a server itself has said of its drain.
type drain struct {
	// own is when it wants its sessions gone, zero if it does not say that it drains.
	own time.Time
}

// wished folds what operators want of the region.
func (t *Table) wished(e WishesSeen, now time.Time) (effects []Effect) {
	if t.wishes != nil && !e.Anew && e.Revision <= t.wishRevision {
		return []Effect{Skipped{SkipOlder}}
	}
	role, weight := t.wishes.region()
	t.wishes, t.wishRevision = e.Wishes, e.Revision
	if r, w := t.wishes.region(); len(t.order) > 0 && (r != role || events.WeightOf(w) != events.WeightOf(weight)) {
		// One value tells: the newest of a region counts. The others follow as they are refreshed.
		t.due(t.order[0], true)
	}
	for _, s := range t.order {
		effects = append(effects, t.comply(s, now)...)
	}
	return effects
}

// intended returns the state that a server should be in which says that it is in another: one
// that is up drains if an operator wants it to.
func (t *Table) intended(s *server, said events.State) (events.State, string) {
	if said == events.StateUp {
		if _, wanted := t.wishes.drainOf(s.value.Server); wanted {
			return events.StateDraining, reasonOperator
		}
	}
	return said, reasonSaid(said)
}

// announce notes until when a server itself wants to drain, by what its members say.
func (s *server) announce(said events.State, now time.Time) {
	switch said {
	case events.StateDraining:
		var until time.Time
		for _, m := range s.members {
			if l := m.counts.last; l.State == events.StateDraining {
				until = latest(until, l.DrainUntil)
			}
		}
		switch {
		case !until.IsZero():
			s.own = until.UTC()
		case s.own.IsZero():
			s.own = now.Add(DefaultDrain).UTC()
		}
	case events.StateUp, events.StateLeft:
		s.own = time.Time{}
	case events.StateSuspect, events.StateDown:
	}
}

// comply brings a server that was not heard just now in line with what operators want.
func (t *Table) comply(s *server, now time.Time) (effects []Effect) {
	var said events.State
	if len(s.members) > 0 {
		said = s.announced(t.gap, now, t.detection.DownAfter)
	}
	_, wanted := t.wishes.drainOf(s.value.Server)
	drains := s.value.State == events.StateDraining
	switch {
	case wanted && s.value.State == events.StateUp:
		effects = t.become(s, events.StateDraining, reasonOperator, now)
	case wanted || !drains:
	case said == events.StateUp:
		effects = t.become(s, said, reasonSaid(said), now)
	case said == events.StateDraining:
		t.explain(s, reasonAnnounced)
	case s.value.Reason == reasonOperator && len(s.members) == 0:
		effects = t.become(s, events.StateSuspect, reasonStored, now)
	case s.value.Reason == reasonOperator:
		effects = t.become(s, events.StateSuspect, reasonSilent, now)
	}
	t.schedule(s)
	return effects
}

// explain gives the present state another reason, of which nobody makes an event.
func (t *Table) explain(s *server, reason string) {
	if s.value.Reason != reason {
		s.value.Reason = reason
		t.due(s, true)
	}
}

// schedule writes into a server's value when its drain ends: the operator's or its own,
// whichever comes first.
func (t *Table) schedule(s *server) {
	until, _ := t.wishes.drainOf(s.value.Server)
	switch s.value.State {
	case events.StateLeft:
		until = time.Time{}
	case events.StateDraining:
		until = earliest(until, s.own)
	case events.StateUp, events.StateSuspect, events.StateDown:
	}
	if !until.Equal(s.value.DrainUntil) {
		s.value.DrainUntil = until
		t.due(s, true)
	}
}
