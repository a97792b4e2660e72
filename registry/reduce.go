package registry

import (
	"fmt"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Why a server is in its state: the Reason of events.Server and events.ServerState.
const (
	reasonHeartbeat    = "heartbeat"
	reasonAnnounced    = "announced"
	reasonStored       = "stored_heartbeat"
	reasonSilent       = "missed_heartbeats"
	reasonAnswering    = "probe_answered"
	reasonForgotten    = "forgotten"
	reasonElsewhere    = "probe_answered_elsewhere"
	reasonFlapping     = "flapping"
	reasonDisconnected = "disconnected"
)

// Reduce folds an event into the table and returns what is to be done. now is when the event
// was learned.
func (t *Table) Reduce(e Event, now time.Time) []Effect {
	switch e := e.(type) {
	case HeartbeatSeen:
		return t.heartbeat(e, now)
	case LoadSeen:
		t.stir(e.Report.Server)
		return t.loadReported(e.Report, now)
	case ProbeDone:
		t.stir(e.Server)
		return t.probed(e, now)
	case UpdateSeen:
		return t.update(e.Update, now)
	case ViewAnswered:
		return t.answered(e, now)
	case Witnessed:
		t.stir(e.Server)
		return t.witnessed(e, now)
	case Surveyed:
		return t.surveyed(e, now)
	case SequenceSeen:
		t.counted(e.Seq)
	case Restored:
		defer t.stirAll()
		return t.restore(e.Servers, now)
	case Elected:
		defer t.stirAll()
		return t.succeed(e, now)
	case WishesSeen:
		defer t.stirAll()
		return t.wished(e, now)
	case Disconnected:
		t.stir(e.Server)
		return t.disconnected(e, now)
	case Reported:
		t.stir(e.Server)
		return t.reported(e, now)
	case RTTMeasured:
		t.measured(e)
	case DemandSeen:
		return t.demanded(e.Demand, now)
	case BadInput:
		return t.bad(e, now)
	case Gap:
		t.stirAll()
		return t.hush("messages of this registry's may have been missed", now)
	case Ticked:
		return t.tick(now)
	}
	return nil
}

// server is what the table knows of one server of the own region.
type server struct {
	// value is what others are told of it, by the time they are.
	value events.Server
	cell
	evidence
	flaps
	drain
	told
	// shown is the value as it was told last, nil if it was not yet. It is not changed.
	shown *events.Server
	// central is what a telemetry system says of its load, nil for nothing.
	central *central
	removed bool
	// place is the server's in Table.order.
	place int
}

// heartbeat folds one heartbeat. Of a member's heartbeats the one with the highest (boot,
// seq) counts, whenever it arrives.
func (t *Table) heartbeat(e HeartbeatSeen, now time.Time) []Effect {
	h := e.Heartbeat
	if h.Region != t.region {
		return []Effect{Skipped{SkipForeign}}
	}
	if t.processes >= processesPerServer*t.detection.MaxServers && t.own[h.Server] == nil {
		return t.refuse(h, "", "no room for another process", now) // it would be a server without members
	}
	s, ok := t.find(h.Server)
	if !ok {
		return t.refuse(h, "", fmt.Sprintf("no room for more than %d servers", t.detection.MaxServers), now)
	}
	m, at := s.member(h.Member)
	if m == nil {
		if len(s.members) >= t.detection.MaxMembers || t.processes >= processesPerServer*t.detection.MaxServers {
			return t.refuse(h, h.Server, "no room for another member", now)
		}
		m = &member{name: h.Member}
		s.members = slices.Insert(s.members, at, m)
		t.vigils[s.place].calm = false
		t.processes++
	}
	l, kind := m.fold(h, e.Stored, now)
	switch kind {
	case stale:
		return t.backwards(h, l, e.Stored, now)
	case outdated:
		return t.outdated(s, m, l, e, now)
	case facts, alive:
	}
	if kind == alive && counted(l.interval()) {
		t.arrived[t.at]++
	}
	before := s.value
	t.describeLoad(s, now)
	effects := t.hear(s, kind == alive, now)
	t.observe(s)
	t.weigh(s, &before)
	return effects
}

// hear puts a server into the state that its members announce. Only a live heartbeat brings
// one back that is silent or gone; a stored one can but take it away.
func (t *Table) hear(s *server, live bool, now time.Time) []Effect {
	said := s.announced(t.gap, now, t.detection.DownAfter)
	s.announce(said, now)
	state, reason := t.intended(s, said)
	if live {
		s.heard(s.lastHeard())
	}
	if live && said != "" && said != events.StateLeft {
		if effects, held := t.hold(s, now); held {
			return effects
		}
	}
	switch {
	case said == events.StateLeft, live && said != "":
		return t.enter(s, state, reason, now)
	case s.value.State == "":
		return t.become(s, events.StateSuspect, reasonStored, now)
	case s.value.State == events.StateUp && said == events.StateDraining:
		return t.become(s, state, reason, now)
	}
	return nil
}

// reasonSaid is why a server is in a state that it announced itself.
func reasonSaid(s events.State) string {
	if s == events.StateUp {
		return reasonHeartbeat
	}
	return reasonAnnounced
}

// outdated is a heartbeat of a boot that another has replaced: late, or a second process that
// claims the same name. Operators are told of the latter.
func (t *Table) outdated(s *server, m *member, l *life, e HeartbeatSeen, now time.Time) []Effect {
	effects := []Effect{Skipped{SkipOldBoot}}
	if e.Stored || l != m.rival || !m.claimed(now) || now.Sub(m.disputed) < t.detection.DisputeEvery {
		return effects
	}
	m.disputed = now
	who := "server " + s.value.Server
	if m.name != "" {
		who += ", member " + m.name
	}
	return append(effects, RegionChanged{&events.RegionState{
		Version: events.Version, Region: t.region, State: events.DuplicateID, Seen: t.region, At: now.UTC(),
		Reason: fmt.Sprintf("%s: boots %s and %s both live; the later counts", who, l.boot, m.counts.boot),
	}})
}

// enter puts a server into the state that it should be in by its own word and operators'.
func (t *Table) enter(s *server, state events.State, reason string, now time.Time) []Effect {
	effects := t.become(s, state, reason, now)
	if state == events.StateDraining {
		t.explain(s, reason)
	}
	t.schedule(s)
	return effects
}

// become puts a server into a state. Others are to be told at once.
func (t *Table) become(s *server, state events.State, reason string, now time.Time) []Effect {
	if s.value.State == state {
		return nil
	}
	return t.put(s, state, reason, now)
}

// put writes the state into the server's value, if only for a new reason.
func (t *Table) put(s *server, state events.State, reason string, now time.Time) []Effect {
	rejoin(&s.value, state, now)
	t.vigils[s.place].calm = false
	previous := s.value.State
	s.value.State, s.value.Reason, s.value.Since = state, reason, now.UTC()
	t.schedule(s)
	t.due(s, true)
	return []Effect{StateChanged{&events.ServerState{
		Version: events.Version, Server: s.value.Server, Region: t.region, State: state, Previous: previous,
		Reason: reason, URL: s.value.URL, Boot: s.value.Boot, At: now.UTC(),
	}}}
}

// restore takes over what an earlier registry knew. Silence is counted from now: nobody is
// dead because no registry listened. The count of view updates goes on well beyond those that
// may have been sent after the last value was written.
func (t *Table) restore(list []events.Server, now time.Time) (effects []Effect) {
	t.missed(now)
	for i := range list {
		v := &list[i]
		if v.Region == t.region {
			t.counted(v.Seq)
		}
		if !t.takeOver(v, now) {
			effects = append(effects, Skipped{SkipTooMany})
		}
	}
	for _, s := range t.order {
		effects = append(effects, t.comply(s, now)...)
	}
	if t.seq > 0 {
		t.seq += seqLeap
	}
	t.changes++
	t.afresh = true
	return effects
}

// takeOver keeps a restored server unless there is something newer. It refuses only what
// would exceed a bound.
func (t *Table) takeOver(v *events.Server, now time.Time) bool {
	if v.Region != t.region {
		o := t.other(v.Region, now)
		if o == nil {
			return false
		}
		o.recall(v)
		return o.takeOver(v, t.detection.MaxServers)
	}
	s, ok := t.find(v.Server)
	if !ok {
		return false
	}
	if len(s.members) == 0 {
		s.value = *v
		s.value.Protection, s.value.RegionRole, s.value.RegionWeight = "", "", nil
		if v.State == events.StateDraining && v.Reason == reasonAnnounced {
			s.own = v.DrainUntil
		}
		s.shown = nil
		s.central = restoredLoad(v, now)
		s.told = told{at: now, utilisation: v.Load.Utilisation, capacity: v.Capacity}
	}
	return true
}
