package registry

import (
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// cell is the processes behind one server's URL, sorted by name: for most servers one,
// without a name.
type cell struct{ members []*member }

// member is one process of a cell. Several boots may have claimed its name: the one that
// counts, and one other that was heard of too, nil if there is none.
type member struct {
	name          string
	counts, rival *life
	// disputed is when operators were last told that both live.
	disputed time.Time
}

// life is what one boot of a member has said.
type life struct {
	boot string
	// last is a copy of the heartbeat with the highest number.
	last *events.Heartbeat
	// live is the highest number that arrived live, seen when it did; born is when the first
	// live one arrived. Zero: none yet.
	live       uint64
	seen, born time.Time
}

// news is what a heartbeat is to its member.
type news int

const (
	stale    news = iota // known already
	outdated             // of a boot that does not count
	facts                // what it says is new
	alive                // and its sender lives
)

// member returns the member of that name, or where it belongs.
func (c *cell) member(name string) (m *member, at int) {
	at, ok := slices.BinarySearchFunc(c.members, name, func(m *member, name string) int { return strings.Compare(m.name, name) })
	if !ok {
		return nil, at
	}
	return c.members[at], at
}

// fold takes in a heartbeat and returns the life it belongs to.
func (m *member) fold(h *events.Heartbeat, stored bool, now time.Time) (*life, news) {
	l := m.life(h.Boot)
	kind := l.fold(h, stored, now)
	if kind == stale {
		return l, stale
	}
	if l != m.counts && l != m.rival {
		m.rival = l // a third: the one before is of no more use
	}
	if m.counts == nil {
		m.counts, m.rival = l, nil
	}
	if m.rival != nil && prevails(m.rival, m.counts) {
		m.counts, m.rival = m.rival, m.counts
	}
	if l != m.counts {
		return l, outdated
	}
	return l, kind
}

func (m *member) life(boot string) *life {
	for _, l := range []*life{m.counts, m.rival} {
		if l != nil && l.boot == boot {
			return l
		}
	}
	return &life{boot: boot}
}

// fold keeps what is new in a heartbeat of this boot. That which comes twice counts as come
// at the earlier time, so that the order in which copies are folded does not show.
func (l *life) fold(h *events.Heartbeat, stored bool, now time.Time) news {
	kind := stale
	if l.last == nil {
		l.last, kind = new(events.Heartbeat), facts
	}
	if kind == facts || h.Seq > l.last.Seq {
		*l.last, kind = *h, facts
	}
	if stored {
		return kind
	}
	if l.born.IsZero() || now.Before(l.born) {
		l.born = now
	}
	switch {
	case h.Seq > l.live:
		l.live, l.seen, kind = h.Seq, now, alive
	case h.Seq == l.live && now.Before(l.seen):
		l.seen, kind = now, max(kind, facts)
	}
	return kind
}

// prevails reports whether a counts and b does not. The later boot counts, by the order of
// ULIDs, unless it fell silent while the earlier one went on: the clock that dated it was
// wrong then, and it is the one that has gone.
func prevails(a, b *life) bool {
	if a.boot < b.boot {
		return a.seen.Sub(b.seen) > missedBy(2, b.interval())
	}
	return b.seen.Sub(a.seen) <= missedBy(2, a.interval())
}

func (l *life) interval() time.Duration { return intervalOf(l.last.IntervalMS) }

// claimed reports whether two processes live under the member's name, now that its rival was
// heard: the one that counts has been heard since the rival was, and long enough before now
// that this is no late word of a process that it replaced.
func (m *member) claimed(now time.Time) bool {
	c, r := m.counts, m.rival
	return !c.born.IsZero() && !r.born.IsZero() && c.seen.After(r.born) &&
		now.Sub(c.seen) < missedBy(2, c.interval()) && now.Sub(c.born) >= 2*c.interval()
}

// heard reports whether a member lives as far as its heartbeats tell; since is when this
// registry began to count its silence, at the earliest.
func (m *member) heard(since, now time.Time, grace time.Duration) bool {
	l := m.counts
	if l.last.State == events.StateLeft {
		return false
	}
	return now.Sub(latest(l.seen, since)) < missedBy(3, l.interval())+grace
}

// lastHeard returns when a member that has not left was last heard, zero for never.
func (c *cell) lastHeard() time.Time {
	var last time.Time
	for _, m := range c.members {
		if m.counts.last.State != events.StateLeft {
			last = latest(last, m.counts.seen)
		}
	}
	return last
}

// announced is the state that the members' last words amount to: up while any that lives
// says so, left once all have. Empty: none lives, and they did not all say goodbye.
func (c *cell) announced(since, now time.Time, grace time.Duration) events.State {
	state := events.StateLeft
	for _, m := range c.members {
		said := m.counts.last.State
		switch {
		case said == events.StateLeft:
		case !m.heard(since, now, grace):
			if state == events.StateLeft {
				state = ""
			}
		case said == events.StateUp:
			return events.StateUp
		default:
			state = said
		}
	}
	return state
}

// describe writes into v what the members say of the server: the first that lives speaks for
// all, capacity and load are the sums over those that live.
func (c *cell) describe(v *events.Server, since, now time.Time, grace time.Duration) {
	speaker := c.members[0].counts
	living := c.members[:0:0]
	for _, m := range c.members {
		if len(c.members) == 1 || m.heard(since, now, grace) {
			living = append(living, m)
		}
	}
	if len(living) > 0 {
		speaker = living[0].counts
		v.Capacity, v.Load = sum(living)
	}
	h := speaker.last
	v.URL, v.HealthURL, v.AuthURL = h.URL, h.HealthURL, h.AuthURL
	v.Boot, v.IntervalMS, v.Location, v.Replication = h.Boot, h.IntervalMS, h.Location, h.Replication
	var seen time.Time
	for _, m := range c.members {
		seen = latest(seen, m.counts.seen)
	}
	switch {
	case !seen.IsZero():
		v.SeenAt = seen.UTC()
	case v.SeenAt.IsZero():
		v.SeenAt = now.UTC() // all that was seen is what a stream had kept
	}
}

// memberKeep is how long a silent member of a cell that lives is remembered.
const memberKeep = 10 * time.Minute

// prune forgets members that were silent for long, but not the last one.
func (c *cell) prune(since, now time.Time) {
	for i := 0; i < len(c.members) && len(c.members) > 1; {
		if now.Sub(latest(c.members[i].counts.seen, since)) < memberKeep {
			i++
			continue
		}
		c.members = slices.Delete(c.members, i, i+1)
	}
}

// sum adds up capacity and load. Fractions are weighted by capacity; of the response times
// the slowest stands for all.
func sum(members []*member) (capacity int, load events.Load) {
	if len(members) == 1 {
		h := members[0].counts.last
		return h.Capacity, h.Load
	}
	var utilised, busy float64
	for _, m := range members {
		h := m.counts.last
		capacity += h.Capacity
		load.Sessions += h.Load.Sessions
		load.InFlight += h.Load.InFlight
		load.MaxInFlight += h.Load.MaxInFlight
		load.P99 = max(load.P99, h.Load.P99)
		utilised += h.Load.Utilisation * float64(h.Capacity)
		busy += h.Load.CPU * float64(h.Capacity)
	}
	load.Utilisation, load.CPU = utilised/float64(capacity), busy/float64(capacity)
	return capacity, load
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
