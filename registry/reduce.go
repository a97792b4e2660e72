package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// Reduce folds an event into the table and returns what is to be done. now is when the event
// was learned; it never goes back.
func (t *Table) Reduce(e Event, now time.Time) []Effect {
	switch e := e.(type) {
	case HeartbeatSeen:
		return t.heartbeat(e.Heartbeat, now)
	case ProbeDone:
		return t.probed(e, now)
	case UpdateSeen:
		return t.update(e.Update, now)
	case Restored:
		t.restore(e.Servers, now)
	case Gap:
		t.gap = now
	case Ticked:
		return t.tick(now)
	}
	return nil
}

// server is what the table knows of one server of the own region.
type server struct {
	// value is what others are told of it.
	value events.Server
	// members are the processes behind its URL, by name; one without a name for most.
	members map[string]*member
	// seen is when the last heartbeat of any member arrived, or when this registry began to
	// wait for one.
	seen time.Time
	// probing says that a probe is under way, probed when the last one ended, failed how
	// many failed in a row, answered that one went well since the last heartbeat.
	probing  bool
	probed   time.Time
	failed   int
	answered bool
	// refreshed is when the value last counted as changed.
	refreshed time.Time
}

// member is one process of a server.
type member struct {
	last events.Heartbeat
	seen time.Time
	// since is when its boot was first seen, disputed when an older boot was last heard
	// beside it.
	since, disputed time.Time
}

// heartbeat folds one heartbeat. Of a member's heartbeats the one with the highest (boot,
// seq) counts, whenever it arrives.
func (t *Table) heartbeat(h *events.Heartbeat, now time.Time) []Effect {
	if h.Region != t.region {
		return []Effect{Skipped{SkipForeign}}
	}
	s, known := t.own[h.Server]
	if !known {
		if len(t.own) >= t.detection.MaxServers {
			return []Effect{Skipped{SkipTooMany}}
		}
		s = &server{members: map[string]*member{}}
		t.own[h.Server] = s
	}
	m, known := s.members[h.Member]
	if !known {
		if len(s.members) >= t.detection.MaxMembers {
			return []Effect{Skipped{SkipTooMany}}
		}
		m = &member{since: now}
		s.members[h.Member] = m
	}
	switch {
	case h.Boot < m.last.Boot:
		return t.olderBoot(s, m, h, now)
	case h.Boot == m.last.Boot && h.Seq <= m.last.Seq:
		return []Effect{Skipped{SkipOlder}}
	case h.Boot > m.last.Boot:
		m.since = now
	}
	m.last, m.seen = *h, now
	s.seen, s.failed, s.answered = now, 0, false
	return t.describe(s, h, now)
}

// olderBoot is a heartbeat of a process that a later one has replaced. Just after a restart
// that is a late message; long after it, two processes claim one name.
func (t *Table) olderBoot(s *server, m *member, h *events.Heartbeat, now time.Time) []Effect {
	effects := []Effect{Skipped{SkipOldBoot}}
	settled := 2 * intervalOf(h.IntervalMS)
	if now.Sub(m.since) < settled || now.Sub(m.disputed) < t.detection.DisputeEvery {
		return effects
	}
	m.disputed = now
	return append(effects, RegionChanged{&events.RegionState{
		Version: events.Version, Region: t.region, State: "duplicate_id", Seen: t.region, At: now.UTC(),
		Reason: "server " + s.value.Server + " member \"" + h.Member + "\" is claimed by boots " + h.Boot + " and " + m.last.Boot + "; the later one counts",
	}})
}

// describe makes a server's value anew from its members, after a heartbeat of one.
func (t *Table) describe(s *server, h *events.Heartbeat, now time.Time) []Effect {
	before := s.value
	v := &s.value
	v.Server, v.Region, v.URL, v.HealthURL, v.AuthURL = h.Server, h.Region, h.URL, h.HealthURL, h.AuthURL
	v.Boot, v.SeenAt, v.IntervalMS = h.Boot, now.UTC(), h.IntervalMS
	v.Location, v.Replication = h.Location, h.Replication
	v.Capacity, v.Load = s.sum(now)
	state := s.announced(now)
	reason := "heartbeat"
	if state != events.StateUp {
		reason = "announced"
	}
	effects := t.become(s, state, reason, now)
	if differs(before, *v) || now.Sub(s.refreshed) >= t.detection.Refresh {
		t.touch(s, now)
	}
	return effects
}

// announced is the state that the members' last words amount to: up while any says so.
func (s *server) announced(now time.Time) events.State {
	state := events.StateLeft
	for _, m := range s.members {
		switch {
		case m.last.State == events.StateLeft, m.silent(now):
		case m.last.State == events.StateUp:
			return events.StateUp
		default:
			state = m.last.State
		}
	}
	return state
}

// sum adds up the capacity and load of the members that are heard and have not left. The
// slowest member's response time and the mean of the rest stand for all.
func (s *server) sum(now time.Time) (int, events.Load) {
	var load events.Load
	capacity := 0
	var weighted, cpu float64
	for _, m := range s.members {
		h := &m.last
		if h.State == events.StateLeft || m.silent(now) {
			continue
		}
		capacity += h.Capacity
		load.Sessions += h.Load.Sessions
		load.InFlight += h.Load.InFlight
		load.MaxInFlight += h.Load.MaxInFlight
		load.P99 = max(load.P99, h.Load.P99)
		weighted += h.Load.Utilisation * float64(h.Capacity)
		cpu += h.Load.CPU * float64(h.Capacity)
	}
	if capacity == 0 {
		for _, m := range s.members { // all have left: what they last said
			capacity += m.last.Capacity
		}
		return capacity, load
	}
	load.Utilisation, load.CPU = weighted/float64(capacity), cpu/float64(capacity)
	return capacity, load
}

// silent reports whether a member has missed three heartbeats.
func (m *member) silent(now time.Time) bool {
	return now.Sub(m.seen) >= missedBy(3, intervalOf(m.last.IntervalMS))
}

// become puts a server into a state.
func (t *Table) become(s *server, state events.State, reason string, now time.Time) []Effect {
	if s.value.State == state {
		return nil
	}
	previous := s.value.State
	s.value.State, s.value.Reason, s.value.Since = state, reason, now.UTC()
	t.touch(s, now)
	return []Effect{StateChanged{&events.ServerState{
		Version: events.Version, Server: s.value.Server, Region: t.region, State: state, Previous: previous,
		Reason: reason, URL: s.value.URL, Boot: s.value.Boot, At: now.UTC(),
	}}}
}

// touch marks a server's value as changed.
func (t *Table) touch(s *server, now time.Time) {
	s.refreshed = now
	t.dirty[s.value.Key()] = struct{}{}
}

// restore takes over what an earlier registry knew. Silence is counted from now: nobody is
// dead because no registry listened.
func (t *Table) restore(list []events.Server, now time.Time) {
	t.gap = now
	for _, v := range list {
		if v.Region != t.region {
			o := t.other(v.Region, now)
			if _, known := o.servers[v.Server]; !known {
				o.servers[v.Server] = v
			}
			continue
		}
		if _, known := t.own[v.Server]; known || len(t.own) >= t.detection.MaxServers {
			continue
		}
		t.own[v.Server] = &server{value: v, seen: now, refreshed: now, members: map[string]*member{}}
	}
}
