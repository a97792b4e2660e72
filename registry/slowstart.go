package registry

import (
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// A server that comes back from the dead gets sessions as if it were smaller at first: its
// caches are cold, and what killed it may do so again.
const (
	slowStart      = time.Minute
	slowStartShare = 0.1
	// remembered is how long a return is known of: placement asks how long a region has been back.
	remembered = placement.MaxReturnAfter
	// rampEvery is how often a view is made anew while a server in it is in slow start.
	rampEvery = time.Second
)

// Effective returns how many sessions a server can hold at now: its capacity or, in the minute
// after its return from the dead, a share of it that grows from 10 % to all. It follows from
// the record alone, so that every reader has the same.
func Effective(s *events.Server, now time.Time) float64 {
	full := float64(s.Capacity)
	if s.RejoinedAt.IsZero() || s.Settled {
		return full
	}
	share := slowStartShare + (1-slowStartShare)*float64(now.Sub(s.RejoinedAt))/float64(slowStart)
	return full * min(1, max(slowStartShare, share))
}

// rejoin notes a return: from down, also by way of suspect, or after the dead was forgotten. A
// server that is new, or that said goodbye before, is as large as it says from the start: a
// deploy is no failure.
func rejoin(v *events.Server, state events.State, now time.Time) {
	switch {
	case state == events.StateDown, state == events.StateLeft:
		v.RejoinedAt, v.Settled = time.Time{}, false
	case v.State == events.StateDown, v.State == events.StateLeft && v.Reason == reasonForgotten,
		v.State == events.StateSuspect && !v.RejoinedAt.IsZero() && !v.Settled:
		v.RejoinedAt, v.Settled = now.UTC(), false
	}
}

// settle ends a slow start by this registry's clock, so that a reader with another does not
// hold it to be in one for long, and forgets it by and by.
func (t *Table) settle(s *server, now time.Time) {
	v := &s.value
	if v.State != events.StateUp || v.RejoinedAt.IsZero() {
		return
	}
	switch back := now.Sub(v.RejoinedAt); {
	case back >= remembered:
		v.RejoinedAt, v.Settled = time.Time{}, false
		t.due(s, false)
	case back >= slowStart && !v.Settled:
		v.Settled = true
		t.due(s, false)
	}
}
