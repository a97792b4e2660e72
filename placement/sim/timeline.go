package sim

import (
	"context"
	"slices"
	"time"
)

// crowd is the clients of a burst.
type crowd struct{ over bool }

// turnOf is something that happens at a step.
type turnOf struct {
	at int
	do func(context.Context)
}

// schedule lays the events out in time. It is in no hurry: it runs once.
func (s *simulation) schedule() {
	for i := range s.Events {
		e := &s.Events[i]
		from, to := steps(e.At), steps(e.At+e.For)
		switch {
		case e.Burst > 0:
			n := int32(len(s.crowds))
			s.crowds = append(s.crowds, crowd{})
			s.turns = append(s.turns, turnOf{at: from, do: func(ctx context.Context) { s.rush(ctx, e, n) }})
			s.at(to, func() { s.crowds[n].over = true })
		case e.Lose != "":
			s.at(from, func() { s.each(e.Lose, s.kill); s.scatter() })
			s.at(to, func() { s.each(e.Lose, s.revive) })
		case e.Slow != "":
			s.at(from, func() { s.each(e.Slow, func(v *server) { v.factor = e.Factor }) })
			s.at(to, func() { s.each(e.Slow, func(v *server) { v.factor = 1 }) })
		case e.Drain != "":
			s.at(from, func() {
				s.each(e.Drain, func(v *server) { v.since, v.drain, v.announce = s.time(), s.time().Add(e.Deadline), s.now })
			})
			s.at(to, func() {
				s.each(e.Drain, func(v *server) { v.since, v.drain, v.announce = time.Time{}, time.Time{}, s.now })
			})
		case e.Delay > 0:
			s.at(from, func() { s.fleet.delay = int(e.Delay / step) })
			s.at(to, func() { s.fleet.delay = 0 })
		}
	}
	slices.SortStableFunc(s.turns, func(a, b turnOf) int { return a.at - b.at })
}

func (s *simulation) at(step int, do func()) {
	s.turns = append(s.turns, turnOf{at: step, do: func(context.Context) { do() }})
}

// happen does what is to happen at this step.
func (s *simulation) happen(ctx context.Context) {
	for len(s.turns) > 0 && s.turns[0].at <= s.now {
		s.turns[0].do(ctx)
		s.turns = s.turns[1:]
	}
}

// each does something to a server or to all of a region.
func (s *simulation) each(name string, do func(*server)) {
	for i := range s.fleet.servers {
		if v := &s.fleet.servers[i]; v.id == name || s.fleet.regions[v.region] == name {
			do(v)
		}
	}
}

func (s *simulation) kill(v *server) {
	v.dead = true
	v.announce = s.now + steps(s.Detect)
}

// scatter has the clients of dead servers come within the time in which they reconnect.
func (s *simulation) scatter() {
	if s.Reconnect == 0 {
		return
	}
	var orphans []int32
	for slot, c := range s.due {
		s.due[slot] = nobody
		for c != nobody {
			next := s.clients[c].next
			if at := s.clients[c].server; at != nobody && s.fleet.servers[at].dead {
				orphans = append(orphans, c)
			} else {
				s.clients[c].next, s.due[slot] = s.due[slot], c
			}
			c = next
		}
	}
	for _, c := range orphans {
		s.plan(c, s.random.IntN(steps(s.Reconnect)))
	}
}

// revive has a server start empty: its sessions are elsewhere, or are nowhere yet.
func (s *simulation) revive(v *server) {
	v.dead, v.back = false, s.time()
	v.announce = s.now + steps(s.Detect)
}

// rush has the clients of a burst log in. It leaves off when the context ends.
func (s *simulation) rush(ctx context.Context, e *Event, n int32) {
	for range int(e.Burst * float64(s.Clients)) {
		if ctx.Err() != nil {
			return
		}
		at := s.draw(e.In)
		s.arrive(1+s.random.IntN(steps(max(e.Over, step))), n, at)
	}
}
