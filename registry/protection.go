package registry

import (
	"fmt"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Bounds of protection: what looks like mass death is more often a fault of the bus or of this
// registry.
const (
	// protectBelow is the share of the expected heartbeats that arrive, healthyShare that of
	// servers in good health, below which something else than servers has failed.
	protectBelow = 0.85
	healthyShare = 0.5
	// protectWindow is the time within which servers that fall silent did so together, for
	// which deaths are counted, and how long a protection outlasts its cause.
	protectWindow = 10 * time.Second
	// A third of the region, in other words one of thirdOf.
	thirdOf = 3
	// leastTogether is how many servers must be late before it is more than a server's fault.
	leastTogether = 2
	// deathsAtLeast and deathsShare bound the deaths per protectWindow under protection.
	deathsAtLeast = 3
	deathsShare   = 0.05
)

// Reasons at the end of a protection.
const (
	reasonArrive = "heartbeats arrive again"
	reasonHealed = "most servers are healthy again"
)

// protection keeps a registry from mistaking a fault of the bus, or of its own, for the death
// of many servers. While guarded, a region's servers die by failed probes only, and few at a
// time; while open, those that may well live count as usable although they are suspect.
type protection struct {
	guarded, open guard
	arrivals
	// deaths are when servers were declared down in the last protectWindow, heldBack is when
	// operators were last told that more of them wait.
	deaths   []time.Time
	heldBack time.Time
}

// guard is one protection: on from when its cause is seen until that was away for
// protectWindow.
type guard struct {
	on   bool
	last time.Time
}

// see notes whether the cause is there, and reports whether the guard has changed.
func (g *guard) see(cause bool, now time.Time) bool {
	if cause {
		g.last = now
	}
	was := g.on
	g.on = cause || was && now.Sub(g.last) < protectWindow
	return g.on != was
}

// Arrivals are counted over the last whole slots.
const (
	slots    = 3
	slotTime = time.Second
)

// arrivals counts heartbeats that arrived against those that were expected, in slots of time.
type arrivals struct {
	begun             time.Time
	expected, arrived [slots + 1]float64
	// at is the slot of now, whole how many before it are complete.
	at, whole int
}

// counted reports whether heartbeats of an interval are counted: a slower one says nothing
// within so short a time.
func counted(interval time.Duration) bool { return interval <= slots*slotTime }

// roll goes on to the slot of now.
func (a *arrivals) roll(now time.Time) {
	if a.begun.IsZero() || now.Sub(a.begun) >= slots*slotTime {
		*a = arrivals{begun: now}
		return
	}
	for now.Sub(a.begun) >= slotTime {
		a.begun = a.begun.Add(slotTime)
		a.at = (a.at + 1) % len(a.expected)
		a.expected[a.at], a.arrived[a.at] = 0, 0
		a.whole = min(a.whole+1, slots)
	}
}

// share returns which share of the heartbeats arrived in the whole slots, 1 while there are
// too few of them.
func (a *arrivals) share() float64 {
	var expected, arrived float64
	for i := range a.expected {
		if i != a.at {
			expected, arrived = expected+a.expected[i], arrived+a.arrived[i]
		}
	}
	if a.whole < slots || expected == 0 {
		return 1
	}
	return min(1, arrived/expected)
}

// census is how the region's servers are at a moment: of those that are expected to be heard,
// or were until just now, how many are late by a heartbeat, silent by two, silent only since
// protectWindow, and how many are well.
type census struct {
	all, serving, late, silent, together, well int
	expected                                   float64
}

// protect looks over the region before anyone is judged, and says what protection begins or
// ends. dt is the time since it last did.
func (t *Table) protect(dt time.Duration, now time.Time) []Effect {
	t.roll(now)
	c := t.census(dt, now)
	t.expected[t.at] += c.expected
	share := t.share()
	many := c.together >= leastTogether && c.together*thirdOf > c.all ||
		t.guarded.on && c.silent >= leastTogether && c.silent*thirdOf > c.all
	few := share < protectBelow && c.late >= leastTogether
	var effects []Effect
	if t.guarded.see(many || few, now) {
		reason := fmt.Sprintf("%.0f %% of the expected heartbeats arrive; %d of %d servers are silent: only failed probes count", 100*share, c.silent, c.all)
		effects = append(effects, t.protects(events.Protected, reason, reasonArrive, t.guarded.on, now))
	}
	ill := c.serving - c.well
	if t.open.see(ill >= leastTogether && float64(c.well) < healthyShare*float64(c.serving), now) {
		reason := fmt.Sprintf("%d of %d servers are healthy: suspect ones without a failed probe are used", c.well, c.serving)
		effects = append(effects, t.protects(events.FailOpen, reason, reasonHealed, t.open.on, now))
	}
	return effects
}

func (t *Table) protects(state, began, ended string, on bool, now time.Time) Effect {
	e := &events.RegionState{Version: events.Version, Region: t.region, State: state, Reason: began, Seen: t.region, At: now.UTC()}
	if !on {
		e.State, e.Reason = string(events.StateUp), state+" ended: "+ended
	}
	return RegionChanged{e}
}

// census counts the servers and, over dt, the heartbeats that they should send.
func (t *Table) census(dt time.Duration, now time.Time) (c census) {
	clock := t.clock(now)
	for i := range t.vigils {
		v := &t.vigils[i]
		if v.calm && v.silence(clock) < missedBy(1, v.interval) {
			c.all, c.serving, c.well = c.all+1, c.serving+1, c.well+1
			if counted(v.interval) {
				c.expected += dt.Seconds() / v.interval.Seconds()
			}
			continue
		}
		s := v.server
		switch {
		case s.value.State == events.StateLeft, s.value.State == "":
			continue
		case s.value.State == events.StateDown && (s.value.Reason == reasonFlapping || now.Sub(s.value.Since) >= protectWindow):
			continue
		}
		c.all++
		if s.value.State != events.StateDraining {
			c.serving++
		}
		if s.value.State == events.StateUp {
			c.well++
		}
		interval := intervalOf(s.value.IntervalMS)
		silence := now.Sub(latest(s.seen, t.gap))
		if s.value.State != events.StateDown && counted(interval) {
			c.expected += float64(t.senders(s, now)) * dt.Seconds() / interval.Seconds()
		}
		fell := s.value.State == events.StateDown || !s.gone.IsZero() // just now
		long := missedBy(2, interval)
		if fell || silence >= missedBy(1, interval) {
			c.late++
		}
		if fell || silence >= long {
			c.silent++
		}
		if fell || silence >= long && silence < long+protectWindow {
			c.together++
		}
	}
	return c
}

// senders is how many members of a server should be heard.
func (t *Table) senders(s *server, now time.Time) int {
	if len(s.members) <= 1 {
		return 1
	}
	n := 0
	for _, m := range s.members {
		if m.heard(t.gap, now, t.detection.DownAfter) {
			n++
		}
	}
	return n
}

// die declares a server down. Under protection that waits while enough others were in the
// last seconds: what is wrong with so many is more likely wrong here.
func (t *Table) die(s *server, reason string, now time.Time) []Effect {
	t.deaths = slices.DeleteFunc(t.deaths, func(at time.Time) bool { return now.Sub(at) >= protectWindow })
	if most := max(deathsAtLeast, int(deathsShare*float64(len(t.order)))); t.guarded.on && len(t.deaths) >= most {
		if now.Sub(t.heldBack) < protectWindow {
			return nil
		}
		t.heldBack = now
		why := fmt.Sprintf("%d servers died in %s: further deaths wait, as that of %s", len(t.deaths), protectWindow, s.value.Server)
		return []Effect{t.protects(events.Protected, why, "", true, now)}
	}
	t.deaths = append(t.deaths, now)
	effects := t.become(s, events.StateDown, reason, now)
	if len(t.deaths) >= leastTogether && len(t.deaths)*thirdOf > len(t.order) {
		effects = append(effects, t.protect(0, now)...)
	}
	return effects
}

// mark writes into a server's value what protects it. Where that decides about placement it
// is told at once; elsewhere with the next refresh, so that a fault of the bus is not answered
// with a flood of writes.
func (t *Table) mark(s *server) {
	var is string
	switch {
	case s.value.State == events.StateLeft:
	case t.open.on && s.value.State == events.StateSuspect && s.failed == 0 && s.value.DrainUntil.IsZero():
		is = events.FailOpen
	case t.guarded.on:
		is = events.Protected
	}
	if is == s.value.Protection {
		return
	}
	s.value.Protection = is
	if s.value.State == events.StateSuspect {
		t.due(s, true)
	}
}
