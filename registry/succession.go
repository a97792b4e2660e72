package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// Elected says that this registry leads from now on.
type Elected struct {
	// Servers is what berth_servers holds.
	Servers []events.Server
	// Told are the states of the own region's servers, and of other regions, as events have
	// told them.
	Told Sayings
	// First says that no other registry has ever led.
	First bool
	// term is the leader's, to know an election that was lost again meanwhile.
	term uint64
}

func (Elected) event() {}

// Saying is the last state that was told of a server or a region.
type Saying struct {
	State events.State
	At    time.Time
}

// Sayings are what was told, by servers' ids, and "region <name>" for regions. A standby
// listens, so that it repeats nothing when it leads, and leaves nothing out.
type Sayings map[string]Saying

func regionSaying(name string) string { return "region " + name }

// Heard notes an event about a server or a region.
func (s Sayings) Heard(e events.Event) {
	switch e := e.(type) {
	case *events.ServerState:
		s.note(e.Server, Saying{e.State, e.At})
	case *events.RegionState:
		if e.State == regionUp || e.State == regionUnreachable || e.State == regionDown {
			s.note(regionSaying(e.Region), Saying{events.State(e.State), e.At})
		}
	}
}

// note keeps what is newest.
func (s Sayings) note(who string, what Saying) {
	if old, ok := s[who]; !ok || !what.At.Before(old.At) {
		s[who] = what
	}
}

// forget drops what was told before then of servers that are not known any more.
func (s Sayings) forget(before time.Time, known func(server string) bool) {
	for who, what := range s {
		if events.ValidToken(who) && what.At.Before(before) && !known(who) {
			delete(s, who)
		}
	}
}

// Trust takes the values of the bucket for told: all that are newer than what was heard, or
// only those of which nothing was.
func (s Sayings) Trust(region string, servers []events.Server, newer bool) {
	for i := range servers {
		v := &servers[i]
		_, heard := s[v.Server]
		if v.Region == region && (newer || !heard) {
			s.note(v.Server, Saying{v.State, v.Since})
		}
		if state := regionAsWritten(v); v.Region != region && state != "" {
			if _, heard := s[regionSaying(v.Region)]; newer || !heard {
				s.note(regionSaying(v.Region), Saying{events.State(state), v.Since})
			}
		}
	}
}

// succeed goes on where another registry has stopped: what it has not told is told now. Every
// value is to be written anew, whether it has changed or not: that leaves nothing to a write
// of the former leader that is still to come, for it expects a revision of before.
func (t *Table) succeed(e Elected, now time.Time) (effects []Effect) {
	for i := range e.Servers {
		v := &e.Servers[i]
		if v.Region == t.region {
			t.counted(v.Seq)
			if _, known := t.own[v.Server]; known {
				continue
			}
		}
		if !t.takeOver(v, now) {
			effects = append(effects, Skipped{SkipTooMany})
		}
	}
	if t.seq > 0 || !e.First {
		t.seq += seqLeap // an update may be under way that nobody has heard
	}
	for _, s := range t.order {
		t.due(s, true)
		told := e.Told[s.value.Server]
		if s.value.Reason == reasonStored && told.State != "" {
			s.value.State, s.value.Since = told.State, told.At // the leader before knew more
		}
		t.comply(s, now) // what that changes is told below
		if told.State != s.value.State && s.value.State != "" {
			effects = append(effects, StateChanged{&events.ServerState{
				Version: events.Version, Server: s.value.Server, Region: t.region, State: s.value.State, Previous: told.State,
				Reason: s.value.Reason, URL: s.value.URL, Boot: s.value.Boot, At: latest(s.value.Since, told.At),
			}})
		}
	}
	for _, name := range sortedKeys(t.others) {
		o := t.others[name]
		o.open = false // what a standby wanted to know nobody has found out
		told := string(e.Told[regionSaying(name)].State)
		if told == regionDown && o.unreachable {
			o.down, o.since = true, now // the leader before had that from more than is known here
		}
		switch is := o.state(); {
		case is == regionUp && told != "" && told != is:
			effects = append(effects, t.turned(name, o, "view updates are back", now)...)
		case is == regionUnreachable && told != is:
			effects = append(effects, t.turned(name, o, t.noUpdate(), now)...)
		case is == regionDown && told != is:
			effects = append(effects, t.turned(name, o, "it was down before", now)...)
		default:
			for _, s := range o.servers {
				t.dueKey(s.Key())
			}
		}
	}
	if t.guarded.on {
		effects = append(effects, t.protects(events.Protected, "protected since before this registry led", "", true, now))
	}
	if t.open.on {
		effects = append(effects, t.protects(events.FailOpen, "open since before this registry led", "", true, now))
	}
	for _, c := range t.complaints.open {
		c.told = time.Time{} // who led before may not have told it: the next of its kind is
	}
	t.fullDue, t.toldAt = true, time.Time{}
	return effects
}

// regionAsWritten returns the state of another region that a value in the bucket bears witness
// of, empty if none.
func regionAsWritten(v *events.Server) string {
	switch v.Reason {
	case ReasonRegionUnreachable:
		return regionUnreachable
	case ReasonRegionDown:
		return regionDown
	}
	return ""
}

// takeOver keeps another region's server as the bucket has it unless there is something newer.
// A value that was written while the region was out of reach says how it counted here, not
// how it was: the same that the region sends again replaces it.
func (o *otherRegion) takeOver(v *events.Server, most int) bool {
	if o.at.IsZero() {
		o.stored, o.storedAt = max(o.stored, v.Seq), latest(o.storedAt, v.SeenAt)
	} else if v.Seq > o.seq { // of before the region began anew, or it is told again
		behind := *v
		behind.Seq = o.seq
		v = &behind
	}
	state := regionAsWritten(v)
	if state == "" {
		return o.adopt(v, most) != refused
	}
	if o.heard.IsZero() && !o.unreachable {
		o.unreachable, o.since = true, v.Since
	}
	if o.heard.IsZero() && state == regionDown {
		o.down = true
	}
	was := *v
	was.State, was.Reason = events.StateSuspect, ReasonRegionUnreachable
	became := o.adopt(&was, most)
	if became == adopted {
		o.written[v.Server] = struct{}{}
	}
	return became != refused
}

// Follow lets what is due count as told, for a registry that does not lead: its own view goes
// on, the count of view updates stays the leader's.
func (t *Table) Follow(now time.Time) {
	seq := t.seq
	t.Tell(now)
	t.seq = seq
}
