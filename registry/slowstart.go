package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// A server that comes back from the dead gets sessions as if it were smaller at first: its
// caches are cold, and what killed it may do so again.
const (
	slowStart      = time.Minute
	slowStartShare = 0.1
	// rampEvery is how often a view is made anew while a server in it is in slow start.
	rampEvery = time.Second
)

// Effective returns how many sessions a server can hold at now: its capacity or, in the minute
// after its return from the dead, a share of it that grows from 10 % to all. It follows from
// the record alone, so that every reader has the same.
func Effective(s *events.Server, now time.Time) float64 {
	full := float64(s.Capacity)
	if s.RejoinedAt.IsZero() {
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
		v.RejoinedAt = time.Time{}
	case v.State == events.StateDown, v.State == events.StateLeft && v.Reason == reasonForgotten,
		v.State == events.StateSuspect && !v.RejoinedAt.IsZero():
		v.RejoinedAt = now.UTC()
	}
}

// settle ends a slow start by this registry's clock, so that a reader with another does not
// hold it to be in one for long.
func (t *Table) settle(s *server, now time.Time) {
	v := &s.value
	if v.State == events.StateUp && !v.RejoinedAt.IsZero() && now.Sub(v.RejoinedAt) >= slowStart {
		v.RejoinedAt = time.Time{}
		t.due(s, false)
	}
}
