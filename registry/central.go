package registry

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// LoadSeen is a report of a server's load by a central telemetry system. It is not changed
// afterwards.
type LoadSeen struct{ Report *events.LoadReport }

func (LoadSeen) event() {}

// Bounds of a report's age when it arrives, by its own word; the latter is also how long it
// counts after that. What is outside was dated by a wrong clock, or waited somewhere.
const (
	reportAhead = 5 * time.Second
	reportLife  = 60 * time.Second
)

// Reasons of Skipped, for reports of load.
const (
	SkipEarly         = "report_from_the_future"
	SkipLate          = "report_too_old"
	SkipUnknownServer = "report_of_unknown_server"
)

// central is what a telemetry system says of a server's load, and what the server says itself.
type central struct {
	own events.Load
	// told holds the newest word on each of events.LoadFields.
	told []measure
}

// measure is one field of a report. No source: none was heard.
type measure struct {
	value  float64
	source string
	// at is the report's own time, arrived when it came.
	at, arrived time.Time
}

// arrived returns when the newest measure came.
func (c *central) arrived() (last time.Time) {
	for i := range c.told {
		last = latest(last, c.told[i].arrived)
	}
	return last
}

// loadReported folds a report. Of a server that has not been heard yet it is kept for a while.
func (t *Table) loadReported(r *events.LoadReport, now time.Time) []Effect {
	switch age := now.Sub(r.At); {
	case r.Region != t.region:
		return []Effect{Skipped{SkipForeign}}
	case age < -reportAhead:
		return t.bad(BadInput{
			Subject: r.Subject().String(), Reason: SkipEarly,
			Detail: fmt.Sprintf("the report of %s is dated %s ahead of this registry's clock", r.Source, (-age).Round(time.Second)),
		}, now)
	case age > reportLife:
		return t.bad(BadInput{
			Subject: r.Subject().String(), Reason: SkipLate,
			Detail: fmt.Sprintf("the report of %s is %s old when it arrives", r.Source, age.Round(time.Second)),
		}, now)
	}
	s, known := t.own[r.Server]
	c := t.early[r.Server]
	if known {
		c = s.central
	}
	switch {
	case c != nil:
	case known:
		c = &central{own: s.value.Load}
		s.central = c
	case len(t.early) >= t.detection.MaxServers:
		return []Effect{Skipped{SkipUnknownServer}}
	default:
		c = &central{}
		t.early[r.Server] = c
	}
	if !c.fold(r, now) {
		return []Effect{Skipped{SkipOlder}}
	}
	if known {
		before := s.value
		s.merge(now)
		t.weigh(s, &before)
	}
	return nil
}

// fold keeps what is new in a report, and reports whether anything was. Of each field the value
// of the latest report counts; one that comes twice counts as come at the earlier time.
func (c *central) fold(r *events.LoadReport, now time.Time) (fresh bool) {
	names := events.LoadFields()
	if c.told == nil {
		c.told = make([]measure, len(names))
	}
	for i, name := range names {
		if len(r.Fields) > 0 && !slices.Contains(r.Fields, name) {
			continue
		}
		m := measure{source: r.Source, at: r.At, arrived: now}
		m.value, _ = r.Load.Field(name)
		old := &c.told[i]
		switch order := m.compare(old); {
		case order > 0, order == 0 && now.Before(old.arrived):
			*old, fresh = m, true
		}
	}
	return fresh
}

// compare orders measures by their reports' times. Which of two systems counts that speak at
// the same moment is of no matter, but must not depend on who was heard first.
func (m *measure) compare(o *measure) int {
	return cmp.Or(m.at.Compare(o.at), cmp.Compare(m.source, o.source), cmp.Compare(m.value, o.value))
}

// describeLoad writes into the server's value what its members say, and what a telemetry
// system does.
func (t *Table) describeLoad(s *server, now time.Time) {
	if s.central != nil {
		s.value.Load = s.central.own
	}
	s.describe(&s.value, t.gap, now, t.detection.DownAfter)
	if s.central != nil {
		s.central.own = s.value.Load
		s.merge(now)
	}
}

// merge puts a server's own load and what a telemetry system says of it together: of each field
// the newest counts, by arrival. A server that says nothing of its load leaves it to the
// telemetry system, and so does one that does not know how many requests it can bear. A cell's
// reports are of all its members together.
func (s *server) merge(now time.Time) {
	c, v := s.central, &s.value
	silent := c.own.Sessions == 0 && c.own.InFlight == 0 && c.own.CPU == 0 && c.own.Utilisation == 0
	heard := s.lastHeard()
	v.Load, v.LoadSource = c.own, ""
	var newest measure
	var parts, whole bool
	for i, name := range events.LoadFields() {
		m := &c.told[i]
		own := !silent && !m.arrived.After(heard)
		if name == events.LoadMaxInFlight && c.own.MaxInFlight == 0 {
			own = false
		}
		if own || m.source == "" || now.Sub(m.arrived) >= reportLife {
			continue
		}
		v.Load.SetField(name, m.value)
		switch name {
		case events.LoadUtilisation:
			whole = true
		case events.LoadSessions, events.LoadInFlight, events.LoadCPU:
			parts = true
		}
		if m.compare(&newest) > 0 {
			newest = *m
		}
	}
	if parts && !whole {
		v.Load.Utilisation = v.Load.Utilised(v.Capacity)
	}
	v.LoadSource = newest.source
}

// expire lets the reports of a server lapse that have had no successor: its own load counts
// again.
func (t *Table) expire(s *server, now time.Time) {
	if s.central == nil || s.value.LoadSource == "" {
		return
	}
	for i := range s.central.told {
		if m := &s.central.told[i]; m.source != "" && now.Sub(m.arrived) >= reportLife {
			before := s.value
			s.merge(now)
			*m = measure{}
			t.weigh(s, &before)
		}
	}
}

// expireEarly forgets reports of servers that were never heard.
func (t *Table) expireEarly(now time.Time) (effects []Effect) {
	for id, c := range t.early {
		if now.Sub(c.arrived()) >= reportLife {
			delete(t.early, id)
			effects = append(effects, Skipped{SkipUnknownServer})
		}
	}
	return effects
}

// restoredLoad is the central load of a server as another registry, or an earlier one, has told it:
// without it a server that leaves its load to a telemetry system would look idle until the next
// report. nil: its load is its own.
func restoredLoad(v *events.Server, now time.Time) *central {
	if v.LoadSource == "" {
		return nil
	}
	c := &central{}
	c.fold(&events.LoadReport{Load: v.Load, Source: v.LoadSource}, now)
	return c
}
