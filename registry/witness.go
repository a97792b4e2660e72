package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// WitnessDue asks other regions to probe a server of the own region that does not answer from
// here; a Witnessed of each is awaited.
type WitnessDue struct {
	Server, Boot string
	// Regions are those to ask.
	Regions []string
}

// Witnessed is what one region says after a WitnessDue.
type Witnessed struct {
	Server, Boot string
	// Good says that the server answers there, Failed that it does not. Neither: the region
	// has said nothing in time.
	Good, Failed bool
}

func (WitnessDue) effect() {}
func (Witnessed) event()   {}

const (
	// witnessEvery is the least time from one question about a server to the next.
	witnessEvery = 2 * time.Second
	// witnessHolds is how long a good answer speaks for a server, from when it was asked for.
	witnessHolds = 5 * time.Second
	// witnessWait is how long a verdict on a server whose connection ended waits for an answer.
	// After a silence none waits: it has had the time since the first failed probe.
	witnessWait = 500 * time.Millisecond
	// witnesses is how many regions are asked at a time.
	witnesses = 2
)

// testimony is what other regions say of a server that is silent and fails its probes here. If
// it answers them, the fault is on the way to it: it stays suspect.
type testimony struct {
	// inquired is when others were last asked, reached when the question was asked that was
	// last answered well. Zero: in the present silence, not. awaited is how many regions have
	// not answered yet.
	inquired, reached time.Time
	awaited           int
}

// vouched reports whether the server answers elsewhere. A port that refuses connections here
// is refused by the server's own machine: that needs no witness.
func (e *evidence) vouched(now time.Time) bool {
	return !e.refused && !e.reached.IsZero() && now.Sub(e.reached) < witnessHolds
}

// expects reports whether an answer may still come in time for a verdict at now.
func (e *evidence) expects(now time.Time) bool {
	return e.awaited > 0 && now.Sub(e.inquired) < witnessWait
}

// inquire asks other regions about a server that lives as far as is known, once a probe from
// here has failed. It goes beside the count: a verdict does not wait for the answer.
func (t *Table) inquire(s *server, now time.Time) []Effect {
	if s.failed == 0 || s.refused || !s.value.State.Alive() || now.Sub(s.inquired) < witnessEvery {
		return nil
	}
	regions := t.askable(s.value.Server, now)
	if len(regions) == 0 {
		return nil
	}
	s.inquired, s.awaited = now, len(regions)
	return []Effect{WitnessDue{Server: s.value.Server, Boot: s.value.Boot, Regions: regions}}
}

// askable returns up to witnesses regions that were heard just now, others for other servers
// and at other times, so that none is asked about everybody.
func (t *Table) askable(id string, now time.Time) []string {
	var fresh []string
	for _, name := range sortedKeys(t.others) {
		if o := t.others[name]; !o.unreachable && !o.heard.IsZero() && now.Sub(o.heard) < lapse {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) <= witnesses {
		return fresh
	}
	first := (fnv1a(id)%uint64(len(fresh)) + uint64(now.UnixNano()/int64(witnessEvery))) % uint64(len(fresh))
	var list []string
	for i := range uint64(witnesses) {
		list = append(list, fresh[(first+i)%uint64(len(fresh))])
	}
	return list
}

// witnessed notes what another region has found. An answer of an earlier boot, or of a silence
// that has ended, says nothing. Of several regions one that reaches the server is enough.
func (t *Table) witnessed(e Witnessed, now time.Time) []Effect {
	s, ok := t.own[e.Server]
	if !ok || e.Boot != s.value.Boot || s.inquired.IsZero() || now.Sub(s.inquired) >= witnessHolds {
		return nil
	}
	s.awaited = max(0, s.awaited-1)
	switch {
	case e.Good:
		s.reached = s.inquired
		if s.failed > 0 && s.value.State == events.StateSuspect && s.value.Reason != reasonElsewhere {
			return t.put(s, events.StateSuspect, reasonElsewhere, now)
		}
	case e.Failed && s.reached.Before(s.inquired):
		s.reached = time.Time{}
	}
	return nil
}
