package registry

import (
	"cmp"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// Detection says when silence becomes a verdict.
type Detection struct {
	// ProbeEvery is the least time from one probe of a silent server to the next; 0: 500 ms. One that answers is probed at
	// a quarter of that rate, one that is down at a twentieth.
	ProbeEvery time.Duration
	// DownAfter is how long after its third missed heartbeat a server is down; 0: 1 s.
	DownAfter time.Duration
	// Unreachable is how long another region's updates may stop; 0: 10 s.
	Unreachable time.Duration
	// Alone is how long the servers of a region that is out of reach must fail their probes before it is down, where no
	// other region is in reach to confirm it; 0: 1 min.
	Alone time.Duration
	// Forget is how long a server is down before it has left; 0: a day.
	Forget time.Duration
	// Keep is how long one that has left is still listed; 0: an hour.
	Keep time.Duration
	// DisputeEvery bounds how often one member's dispute is told; 0: 1 min.
	DisputeEvery time.Duration
	// Pause is a time without a tick after which this registry itself was stopped; 0: 1 s.
	Pause time.Duration
	// MaxServers bounds the servers of each region, MaxMembers those behind one URL; 0:
	// 20 000, and 1 000.
	MaxServers, MaxMembers int
}

func (d Detection) withDefaults() Detection {
	d.ProbeEvery = cmp.Or(d.ProbeEvery, 500*time.Millisecond)
	d.DownAfter = cmp.Or(d.DownAfter, time.Second)
	d.Unreachable = cmp.Or(d.Unreachable, 10*time.Second)
	d.Alone = cmp.Or(d.Alone, time.Minute)
	d.Forget = cmp.Or(d.Forget, 24*time.Hour)
	d.Keep = cmp.Or(d.Keep, time.Hour)
	d.DisputeEvery = cmp.Or(d.DisputeEvery, time.Minute)
	d.Pause = cmp.Or(d.Pause, time.Second)
	d.MaxServers = cmp.Or(d.MaxServers, 20_000)
	d.MaxMembers = cmp.Or(d.MaxMembers, 1_000)
	return d
}

// processesPerServer bounds the members of a region: as many for each server of MaxServers.
const processesPerServer = 2

// How often a probe is due, in multiples of Detection.ProbeEvery.
const (
	answeringFactor = 4
	downFactor      = 20
)

// probesToDie is how many probes in a row must have failed before silence is death.
const probesToDie = 2

// lostProbe is how long the result of a probe is awaited.
const lostProbe = time.Minute

// slack is how much later than due a heartbeat may come before it counts as missed, as a
// fraction of the interval: each may be a tenth late, and two follow one another until a
// verdict.
const slack = 0.2

// missedBy returns the silence by which n heartbeats have been missed.
func missedBy(n int, interval time.Duration) time.Duration {
	return time.Duration((float64(n) + slack) * float64(interval))
}

// intervalOf reads the interval of a heartbeat or a server, 1 s where there is none.
func intervalOf(ms int) time.Duration { return time.Duration(cmp.Or(ms, 1000)) * time.Millisecond }

// evidence is what speaks for and against a server's life.
type evidence struct {
	// seen is when a member was last heard live, zero for never.
	seen time.Time
	// probing says that a probe is under way, asked when the last one began, failed how many
	// failed in a row, answered that the last went well. They are of the present silence.
	probing  bool
	asked    time.Time
	failed   int
	answered bool
	hint
	testimony
}

// heard ends a silence, and with it what probes have said of it.
func (e *evidence) heard(at time.Time) {
	e.seen, e.failed, e.answered, e.refused, e.gone = at, 0, false, false, time.Time{}
	e.testimony = testimony{}
}

// found notes what a probe has found; early says that it began before the connection ended.
func (e *evidence) found(p ProbeDone, early bool) {
	e.answered, e.refused = p.OK, p.Refused
	switch {
	case !p.OK:
		e.failed++
	case early:
		e.failed = 0
	default:
		e.failed, e.gone = 0, time.Time{}
	}
}

// missed notes that this registry itself may have missed messages: silence is counted anew.
// Other regions may have missed what it sent meanwhile, so they are told all.
func (t *Table) missed(now time.Time) {
	t.gap = latest(t.gap, now)
	t.arrivals = arrivals{}
	t.fullDue = true
}

// hush keeps verdicts back after a fault of this registry's own, and says so to operators, once
// for faults that follow closely.
func (t *Table) hush(fault string, now time.Time) []Effect {
	t.missed(now)
	if !t.hushed.IsZero() && now.Sub(t.hushed) < protectWindow {
		return nil
	}
	t.hushed = now
	return []Effect{t.protects(events.Protected, fault+": no server is judged for two of its intervals", "", true, now)}
}

// tick judges the silent. No verdict is based on a silence that began before messages may
// have been missed here, or this registry was stopped: the fault may be on this side.
func (t *Table) tick(now time.Time) []Effect {
	var dt time.Duration
	if !t.ticked.IsZero() {
		dt = now.Sub(t.ticked)
	}
	var effects []Effect
	if dt > t.detection.Pause {
		effects = t.hush(fmt.Sprintf("this registry stood still for %s", dt.Round(100*time.Millisecond)), now)
		dt = 0
	}
	t.ticked = now
	effects = append(effects, t.protect(dt, now)...)
	var expired []*server
	guarded, clock := t.guarded.on || t.open.on, t.clock(now)
	for i := range t.vigils {
		v := &t.vigils[i]
		if v.calm && !guarded && v.silence(clock) < 2*v.interval {
			continue
		}
		s := v.server
		if s.value.State == events.StateLeft && now.Sub(s.value.Since) >= t.detection.Keep {
			expired = append(expired, s)
			continue
		}
		if len(s.members) > 1 {
			effects = append(effects, t.regroup(s, now)...)
		}
		effects = append(effects, t.judge(s, now)...)
		t.mark(s)
		t.settle(s, now)
		t.expire(s, now)
		v.calm = s.calm()
	}
	effects = append(effects, t.expireEarly(now)...)
	effects = append(effects, t.sweep(now)...)
	for _, s := range expired {
		t.remove(s)
	}
	for _, name := range sortedKeys(t.others) {
		effects = append(effects, t.judgeRegion(name, t.others[name], now)...)
	}
	return effects
}

// regroup counts a cell's members anew: one that fell silent adds nothing to capacity and load
// any more, and is forgotten in the end.
func (t *Table) regroup(s *server, now time.Time) []Effect {
	before := len(s.members)
	s.prune(t.gap, now)
	t.processes -= before - len(s.members)
	was := s.value
	t.describeLoad(s, now)
	t.weigh(s, &was)
	said := s.announced(t.gap, now, t.detection.DownAfter)
	s.announce(said, now)
	serving := func(state events.State) bool { return state == events.StateUp || state == events.StateDraining }
	if serving(s.value.State) && serving(said) {
		state, reason := t.intended(s, said)
		return t.enter(s, state, reason, now)
	}
	return nil
}

// judge applies the rules of silence to one server: probes from the second missed heartbeat
// on, beside the count; suspect after two; down at three and DownAfter if the last two probes
// failed and no other region reaches it. One that drains goes on draining until it is down. One that is down and answers
// probes again is suspect.
func (t *Table) judge(s *server, now time.Time) []Effect {
	interval := intervalOf(s.value.IntervalMS)
	began := latest(s.seen, t.gap)
	if s.asked.Before(began) {
		// A probe that is still under way will say nothing of this silence.
		s.probing, s.failed, s.answered, s.refused, s.testimony = false, 0, false, false, testimony{}
	}
	silence := now.Sub(began)
	if !s.gone.IsZero() && s.value.State.Alive() {
		if effects := t.judgeGone(s, interval, now); effects != nil {
			return effects
		}
	}
	switch {
	case s.value.State == events.StateLeft, silence < 2*interval:
		return nil
	case s.value.State == events.StateDown:
		if now.Sub(s.value.Since) >= t.detection.Forget {
			return t.become(s, events.StateLeft, reasonForgotten, now)
		}
		if now.Before(s.value.HeldUntil) {
			return nil
		}
		if s.answered {
			if effects, held := t.hold(s, now); held {
				return effects
			}
			return t.become(s, events.StateSuspect, reasonAnswering, now)
		}
		return s.ask(downFactor*t.detection.ProbeEvery, now)
	}
	every := t.detection.ProbeEvery
	if s.answered {
		every *= answeringFactor
	}
	effects := append(s.ask(every, now), t.inquire(s, now)...)
	switch {
	case s.failed >= probesToDie && !s.vouched(now) && silence >= missedBy(3, interval)+t.detection.DownAfter:
		return append(effects, t.die(s, reasonSilent, now)...)
	case s.value.State == events.StateUp && silence >= missedBy(2, interval):
		return append(effects, t.become(s, events.StateSuspect, reasonSilent, now)...)
	}
	return effects
}

// ask asks for a probe unless one is under way or began less than every ago.
func (s *server) ask(every time.Duration, now time.Time) []Effect {
	if s.probing && now.Sub(s.asked) < lostProbe || now.Sub(s.asked) < every {
		return nil
	}
	s.probing, s.asked = true, now
	first := s.failed == 0 && !s.answered
	return []Effect{ProbeDue{Server: s.value.Server, Boot: s.value.Boot, URL: s.value.Health(), First: first}}
}

// probed notes what came of a probe. One of an earlier boot says nothing, nor does one of a
// silence that has ended.
func (t *Table) probed(p ProbeDone, now time.Time) (effects []Effect) {
	s, ok := t.own[p.Server]
	if !ok {
		return nil
	}
	s.probing = false
	again := s.again
	s.again = false
	if p.Boot == s.value.Boot {
		if !s.asked.Before(latest(s.seen, t.gap)) {
			s.found(p, again)
		}
		effects = t.judge(s, now)
	}
	if again && s.value.State.Alive() {
		effects = append(effects, s.ask(0, now)...)
	}
	return effects
}

// judgeRegion says when another region is out of reach from here, and only here: its servers
// get no new sessions and keep the ones they have, unless they turn out to be dead.
func (t *Table) judgeRegion(name string, o *otherRegion, now time.Time) []Effect {
	effects := o.askDue(name, now)
	switch {
	case o.unreachable:
		effects = append(effects, t.survey(name, o, now)...)
	case now.Sub(latest(o.seen, t.gap)) >= t.detection.Unreachable:
		effects = append(effects, t.reach(name, o, false, t.noUpdate(), now)...)
	}
	return effects
}

// noUpdate is why a region is out of reach.
func (t *Table) noUpdate() string { return "no view update for " + t.detection.Unreachable.String() }
