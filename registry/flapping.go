package registry

import (
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// Bounds of coming and going within flapWindow: one more, and the server is held down, the
// first time for holdFirst, then ever twice as long.
const (
	flapWindow = 10 * time.Minute
	maxReturns = 2
	maxBoots   = 10
	holdFirst  = time.Minute
	holdLast   = 10 * time.Minute
)

// flaps is how often a server came and went lately.
type flaps struct {
	// boot is the boot that was heard last, returns when it came back from down.
	boot    string
	returns []time.Time
	// boots are when new boots were first heard. In a cell nobody counts them: a member that
	// crashes time and again costs its share of the capacity only.
	boots []time.Time
	// holds counts those before, ended is when the last one ends.
	holds int
	ended time.Time
}

// hold decides, when a server gives a sign of life, whether it is held down all the same: one
// that dies and returns time and again would have its sessions moved each time.
func (t *Table) hold(s *server, now time.Time) (effects []Effect, held bool) {
	v, f := &s.value, &s.flaps
	if f.boot != v.Boot {
		f.boot, f.returns = v.Boot, nil
		if len(s.members) == 1 {
			f.boots = lately(f.boots, maxBoots, now)
		}
	}
	if now.Before(v.HeldUntil) {
		return t.become(s, events.StateDown, reasonFlapping, now), true
	}
	if v.State == events.StateDown && v.HeldUntil.IsZero() {
		f.returns = lately(f.returns, maxReturns, now)
	}
	if len(f.returns) <= maxReturns && len(f.boots) <= maxBoots {
		v.HeldUntil = time.Time{}
		return nil, false
	}
	if now.Sub(f.ended) >= flapWindow {
		f.holds = 0
	}
	v.HeldUntil = now.Add(min(holdFirst<<min(f.holds, 8), holdLast)).UTC()
	f.holds++
	f.ended, f.returns, f.boots = v.HeldUntil, nil, nil
	return t.put(s, events.StateDown, reasonFlapping, now), true
}

// lately appends now to the times within flapWindow, of which at most one more than most are
// kept.
func lately(times []time.Time, most int, now time.Time) []time.Time {
	times = slices.DeleteFunc(times, func(at time.Time) bool { return now.Sub(at) >= flapWindow })
	return append(times[max(0, len(times)-most):], now)
}
