package registry

import (
	"cmp"
	"time"

	"github.com/berthhq/berth/events"
)

// Detection says when silence becomes a verdict.
type Detection struct {
	// ProbeEvery is the pause between two probes of a silent server; 0: 500 ms.
	ProbeEvery time.Duration
	// DownAfter is how long after its third missed heartbeat a server is down; 0: 1 s.
	DownAfter time.Duration
	// Unreachable is how long another region's updates may stop; 0: 10 s.
	Unreachable time.Duration
	// Forget is how long a dead server is remembered as down, and then as left; 0: a day.
	Forget time.Duration
	// Refresh is how long a value stays unwritten while only its time of sight changes; 0: 10 s.
	Refresh time.Duration
	// DisputeEvery bounds how often one member's dispute is told; 0: 1 min.
	DisputeEvery time.Duration
	// Pause is a time without a tick after which this registry itself was stopped; 0: 1 s.
	Pause time.Duration
	// MaxServers bounds the servers of the region, MaxMembers those behind one URL; 0:
	// 20 000, and 1 000.
	MaxServers, MaxMembers int
}

func (d Detection) withDefaults() Detection {
	d.ProbeEvery = cmp.Or(d.ProbeEvery, 500*time.Millisecond)
	d.DownAfter = cmp.Or(d.DownAfter, time.Second)
	d.Unreachable = cmp.Or(d.Unreachable, 10*time.Second)
	d.Forget = cmp.Or(d.Forget, 24*time.Hour)
	d.Refresh = cmp.Or(d.Refresh, 10*time.Second)
	d.DisputeEvery = cmp.Or(d.DisputeEvery, time.Minute)
	d.Pause = cmp.Or(d.Pause, time.Second)
	d.MaxServers = cmp.Or(d.MaxServers, 20_000)
	d.MaxMembers = cmp.Or(d.MaxMembers, 1_000)
	return d
}

// jitter is how much later than its interval a heartbeat may come.
const jitter = 0.1

// probesToDie is how many probes in a row must have failed before silence is death.
const probesToDie = 2

// missedBy returns the silence by which n heartbeats have been missed. Only the last of them
// can be late, so the jitter counts once.
func missedBy(n int, interval time.Duration) time.Duration {
	return time.Duration((float64(n) + jitter) * float64(interval))
}

func intervalOf(ms int) time.Duration { return time.Duration(cmp.Or(ms, 1000)) * time.Millisecond }

// tick judges the silent. Verdicts rest for two intervals after messages may have been
// missed or this registry was stopped itself: the fault may be on this side.
func (t *Table) tick(now time.Time) []Effect {
	if !t.ticked.IsZero() && now.Sub(t.ticked) > t.detection.Pause {
		t.gap = now
	}
	t.ticked = now
	var effects []Effect
	for _, id := range sortedKeys(t.own) {
		effects = append(effects, t.judge(id, t.own[id], now)...)
	}
	for _, name := range sortedKeys(t.others) {
		effects = append(effects, t.judgeRegion(name, t.others[name], now)...)
	}
	return effects
}

// judge applies the rules of silence to one server: probes from the second missed heartbeat
// on, suspect after two, down at three and DownAfter if the last two probes failed.
func (t *Table) judge(id string, s *server, now time.Time) []Effect {
	interval := intervalOf(s.value.IntervalMS)
	silence := now.Sub(s.seen)
	switch s.value.State {
	case events.StateLeft:
		if now.Sub(s.value.Since) >= t.detection.Forget {
			delete(t.own, id)
			t.dirty[s.value.Key()] = struct{}{}
		}
		return nil
	case events.StateDown:
		if now.Sub(s.value.Since) >= t.detection.Forget {
			return t.become(s, events.StateLeft, "forgotten", now)
		}
		return nil
	}
	if silence < missedBy(2, interval) || now.Sub(t.gap) < 2*interval {
		return nil
	}
	var effects []Effect
	if !s.probing && now.Sub(s.probed) >= t.detection.ProbeEvery {
		s.probing = true
		effects = append(effects, ProbeDue{Server: id, Boot: s.value.Boot, URL: s.value.Health()})
	}
	switch {
	case s.failed >= probesToDie && silence >= missedBy(3, interval)+t.detection.DownAfter:
		return append(effects, t.become(s, events.StateDown, "missed_heartbeats", now)...)
	case s.answered:
		return append(effects, t.become(s, events.StateSuspect, "silent_but_answering", now)...)
	default:
		return append(effects, t.become(s, events.StateSuspect, "missed_heartbeats", now)...)
	}
}

// probed notes what came of a probe. One of an earlier boot says nothing of this one.
func (t *Table) probed(p ProbeDone, now time.Time) []Effect {
	s, ok := t.own[p.Server]
	if !ok {
		return nil
	}
	s.probing, s.probed = false, now
	if p.Boot != s.value.Boot {
		return nil
	}
	if p.OK {
		s.failed, s.answered = 0, true
	} else {
		s.failed++
		s.answered = false
	}
	return t.judge(p.Server, s, now)
}

// judgeRegion says when another region is out of reach from here, and only here: its servers
// get no new sessions and keep the ones they have.
func (t *Table) judgeRegion(name string, o *otherRegion, now time.Time) []Effect {
	silent := now.Sub(o.seen) >= t.detection.Unreachable && now.Sub(t.gap) >= t.detection.Unreachable
	if silent == o.unreachable || !silent {
		return nil
	}
	return t.reach(name, o, false, "no view update for "+t.detection.Unreachable.String(), now)
}
