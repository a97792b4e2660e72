package registry_test

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the fake hour; 0: another each time")

// Bounds within which a true death is told, from the death or from the end of what hid it.
const (
	toldAlone     = 4700 * time.Millisecond // three heartbeats, a second, a tick, a heartbeat's jitter
	toldProtected = 30 * time.Second        // few die at a time then, and what ended must stay away a while
)

// hour is a fake hour of a region, and what is true of it.
type hour struct {
	*world
	// hidden is when the last cut, pause or protection ended: verdicts wait for it.
	hidden  time.Time
	guarded bool
	// waiting holds the dead that were not told yet.
	waiting map[string]bool
	told    int
	worst   time.Duration
	// drained is what operators want, as of a revision.
	drained  map[string]float64
	revision uint64
}

// TestAFakeHour lives through an hour of 300 servers: some die, some are stopped, some flap or
// are deployed; the registry is cut off, paused and restarted; a third of the region is cut off
// from the bus; operators drain some. Nobody who can be reached is ever down, and each who died
// is told so in time.
func TestAFakeHour(t *testing.T) {
	t.Parallel()
	h := &hour{world: newWorld(t, 300, 200*time.Millisecond, seed(t)), waiting: map[string]bool{}, drained: map[string]float64{}}
	h.pass(time.Hour)
	h.conclude(50, viewAt(h.table, h.now).Servers)
}

// TestTheCalmNeedNoLook lives through ten minutes of the same beside a table that looks at all of
// every server at each tick: what the two come to is the same, and what they know in the end.
func TestTheCalmNeedNoLook(t *testing.T) {
	t.Parallel()
	h := &hour{world: newWorld(t, 60, 100*time.Millisecond, seed(t)), waiting: map[string]bool{}, drained: map[string]float64{}}
	h.careful = registry.NewTable("eu-west-1", registry.Detection{})
	h.restart(h.wish())
	h.pass(10 * time.Minute)
	h.conclude(3, viewAt(h.table, h.now).Servers)
	if diff := cmp.Diff(h.careful.Servers(), h.table.Servers()); diff != "" {
		t.Errorf("in the end (-careful +calm):\n%s", diff)
	}
}

// seed returns the one that was given, or another.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("seed %d: repeat with -seed", s)
	return s
}

// conclude checks that at least so many deaths were told, and that who lives is up in the end.
func (h *hour) conclude(least int, servers []*events.Server) {
	h.t.Helper()
	if h.told < least {
		h.t.Errorf("%d deaths were told, want at least %d", h.told, least)
	}
	for _, s := range servers {
		if truth := h.byID[s.Server]; !truth.dead && s.State != events.StateUp && s.Reason != "flapping" {
			h.t.Errorf("%s is %s (%s) in the end, and lives", s.Server, s.State, s.Reason)
		}
	}
	h.t.Logf("%d deaths told, the slowest after %v", h.told, h.worst)
}

// pass lets a time full of mischief pass, and two minutes more for what is due then.
func (h *hour) pass(d time.Duration) {
	h.seen = h.saw
	end := h.now.Add(d)
	for next := h.now; h.now.Before(end); h.step() {
		h.overdue()
		if !h.now.Before(next) {
			h.mischief()
			next = h.now.Add(time.Duration(2+h.rng.IntN(6)) * time.Second)
		}
	}
	clear(h.drained)
	h.reduce(h.wish())
	h.run(2 * time.Minute)
	h.overdue()
}

// away reports whether nobody could tell the server from a dead one at a time: it was, or it
// was stopped a moment before. A verdict may be told later than it was reached.
func (h *hour) away(s *simulated, at time.Time) bool {
	return s.dead || at.Before(s.born) || at.Before(s.stopped.Add(time.Second))
}

// saw checks each verdict against the truth.
func (h *hour) saw(e registry.Effect) {
	switch e := e.(type) {
	case registry.RegionChanged:
		switch {
		case e.State.State == events.Protected && strings.Contains(e.State.Reason, "only failed probes count"):
			h.guarded = true
		case strings.HasPrefix(e.State.Reason, events.Protected+" ended"):
			h.guarded, h.hidden = false, h.now
		}
	case registry.StateChanged:
		s := h.byID[e.State.Server]
		if e.State.State != events.StateDown || e.State.Reason == "flapping" {
			return
		}
		if !h.away(s, e.State.At) {
			h.t.Errorf("%v: %s is down (%s), and lives", h.now.Sub(start), s.id, e.State.Reason)
		}
		h.told++
		if h.waiting[s.id] && s.since.After(h.hidden) && !h.guarded {
			h.worst = max(h.worst, h.now.Sub(s.since))
		}
		delete(h.waiting, s.id)
	}
}

// overdue checks that nobody has been dead for longer than the bound without a word.
func (h *hour) overdue() {
	for id, waits := range h.waiting {
		s := h.byID[id]
		if !waits || !s.dead {
			delete(h.waiting, id) // or it was started anew first
			continue
		}
		since, bound := s.since, toldAlone
		if h.guarded || !h.hidden.Before(s.since.Add(-time.Minute)) {
			since, bound = latest(since, h.hidden), toldProtected
		}
		if late := h.now.Sub(since); late > bound {
			h.t.Errorf("%v: %s died %v ago, and is %s", h.now.Sub(start), id, h.now.Sub(s.since), h.state(id))
			delete(h.waiting, id)
		}
	}
}

// wish is what operators want now.
func (h *hour) wish() registry.Event {
	h.revision++
	return wish(h.revision, h.drained)
}

// mischief lets something happen.
func (h *hour) mischief() {
	s := h.servers[h.rng.IntN(len(h.servers))]
	if h.rng.IntN(10) == 0 { // an operator changes his mind
		if _, again := h.drained[s.id]; again || len(h.drained) > len(h.servers)/4 {
			clear(h.drained)
		} else {
			h.drained[s.id] = h.now.Sub(start).Seconds() + 600
		}
		h.reduce(h.wish())
	}
	if s.dead {
		h.boots(s)
		return
	}
	switch n := h.rng.IntN(100); {
	case n < 35: // a crash, with or without NATS' word of it
		h.kill(s)
		h.waiting[s.id] = h.state(s.id).Alive() // or it was told already
		if h.rng.IntN(2) == 0 {
			h.reduce(registry.Disconnected{Server: s.id, Boot: boot(s.boot)})
		}
	case n < 55: // a pause of the process
		s.stopped = h.now.Add(time.Duration(500+h.rng.IntN(9500)) * time.Millisecond)
	case n < 65: // cut off from the bus, but serving
		s.mute = h.now.Add(time.Duration(1+h.rng.IntN(60)) * time.Second)
		h.reduce(registry.Disconnected{Server: s.id, Boot: boot(s.boot)})
	case n < 75: // a deploy
		h.beat(s, saying(events.StateLeft))
		h.boots(s)
	case n < 82:
		h.reduce(registry.Reported{Server: s.id})
	case n < 88: // the registry's connection is away
		h.fault(func() {
			h.connect(false)
			h.run(time.Duration(100+h.rng.IntN(900)) * time.Millisecond)
			h.connect(true)
		})
	case n < 92 && h.live == nil: // the registry stands still
		h.fault(func() {
			h.now = h.now.Add(time.Duration(2+h.rng.IntN(10)) * time.Second)
			h.results = nil
		})
	case n >= 92 && n < 96: // the registry is started anew
		h.fault(func() {
			h.guarded = false
			h.restart(h.wish())
		})
	default: // a part of the region is cut off from the bus
		until := h.now.Add(time.Duration(5+h.rng.IntN(40)) * time.Second)
		share := 0.1 + h.rng.Float64()*0.9
		for _, s := range h.servers {
			if h.rng.Float64() < share {
				s.mute = until
			}
		}
	}
}

// fault lets something happen to the registry itself: its verdicts wait.
func (h *hour) fault(happens func()) {
	happens()
	h.hidden = h.now
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
