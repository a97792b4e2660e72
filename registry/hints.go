package registry

import "time"

// Disconnected says that the connection of a boot to NATS has ended, as NATS itself saw it.
type Disconnected struct{ Server, Boot string }

// Reported says that a client could not reach a server.
type Reported struct{ Server string }

func (Disconnected) event() {}
func (Reported) event()     {}

// returnWait is how long a boot whose connection has ended has to return, unless its port
// refuses connections: then the process is gone.
const returnWait = 300 * time.Millisecond

// againAfter is the pause from one failed probe of such a boot to the next.
const againAfter = returnWait / 4

// hint is a sign that a server may have died, ahead of silence: it is probed at once.
type hint struct {
	// gone is when the connection of the present boot ended, zero if it was heard since or
	// has answered a probe.
	gone time.Time
	// refused says that the last probe was.
	refused bool
	// again asks for a probe as soon as the one that is under way is done.
	again bool
}

// disconnected notes that NATS saw a boot's connection end. Of a cell it says little: others
// may answer behind the same URL, so that its members die by silence only.
func (t *Table) disconnected(e Disconnected, now time.Time) []Effect {
	s, ok := t.own[e.Server]
	switch {
	case !ok, !s.value.State.Alive():
		return nil
	case len(s.members) > 1:
		return s.ask(t.detection.ProbeEvery, now)
	case s.value.Boot != e.Boot:
		return []Effect{Skipped{SkipOldBoot}}
	}
	s.gone = now
	if s.probing && now.Sub(s.asked) < lostProbe {
		s.again = true // that one may have begun while it lived
		return nil
	}
	return s.ask(0, now)
}

// reported notes that a client could not reach a server. A thousand clients' reports are one
// probe: what they cannot reach may be their own network.
func (t *Table) reported(e Reported, now time.Time) []Effect {
	s, ok := t.own[e.Server]
	if !ok || !s.value.State.Alive() {
		return nil
	}
	return s.ask(t.detection.ProbeEvery, now)
}

// judgeGone judges a server whose connection has ended: down once its port refuses, or when it
// has not returned in returnWait, the last two probes failed and no other region reaches it. After a fault of this
// registry's own that waits, as every verdict does.
func (t *Table) judgeGone(s *server, interval time.Duration, now time.Time) []Effect {
	waited := now.Sub(s.gone)
	switch {
	case now.Sub(t.gap) < 2*interval:
		return nil
	case s.refused, waited >= returnWait && s.failed >= probesToDie && !s.vouched(now) && !s.expects(now):
		return t.die(s, reasonDisconnected, now)
	}
	effects := t.inquire(s, now)
	if s.failed > 0 {
		// A process that is being killed loses its connections before its port.
		effects = append(effects, s.ask(againAfter, now)...)
	}
	return effects
}
