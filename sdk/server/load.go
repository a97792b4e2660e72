package server

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
)

// How load is measured.
const (
	// smoothing is the time constant of the utilisation: how fast it follows what is measured.
	smoothing = 5 * time.Second
	// windowLife is how long durations are gathered before the window is changed: p99 is of
	// the last one to two of these.
	windowLife = 10 * time.Second
)

// Utilisation is the load as one fraction of what a server can bear: the greatest of
// sessions/capacity, in_flight/max_in_flight (where that is known) and cpu/0.8. It is what an
// Agent reports, smoothed, unless Config.Load sets another.
func Utilisation(l events.Load, capacity int) float64 { return l.Utilised(capacity) }

// meter measures the requests that the lock lets through. begin, done and last may be called
// at any time; sample is the heartbeat's alone.
type meter struct {
	inFlight atomic.Int64
	windows  [2]window
	current  atomic.Uint32
	sampled  atomic.Pointer[events.Load]

	cpu        cpuMeter
	smooth     float64
	sampledAt  time.Time
	windowFrom time.Time
}

func newMeter() *meter {
	m := &meter{cpu: newCPUMeter()}
	m.sampled.Store(&events.Load{})
	return m
}

func (m *meter) begin() { m.inFlight.Add(1) }

// done ends a request that began at start.
func (m *meter) done(start time.Time) {
	m.inFlight.Add(-1)
	m.windows[m.current.Load()].add(time.Since(start))
}

// last returns the last sample.
func (m *meter) last() events.Load { return *m.sampled.Load() }

// sample measures the load at now.
func (m *meter) sample(sessions, capacity, maxInFlight int, now time.Time) {
	l := events.Load{
		Sessions: sessions, InFlight: int(max(m.inFlight.Load(), 0)), MaxInFlight: maxInFlight,
		CPU: m.cpu.share(now), P99: m.p99(now),
	}
	u := Utilisation(l, capacity)
	if !m.sampledAt.IsZero() {
		u = m.smooth + (u-m.smooth)*(1-math.Exp(-float64(now.Sub(m.sampledAt))/float64(smoothing)))
	}
	m.smooth, m.sampledAt = u, now
	l.Utilisation = u
	m.sampled.Store(&l)
}

// p99 returns the 99th percentile over the last windows in milliseconds, 0 without requests,
// and changes windows when it is time.
func (m *meter) p99(now time.Time) float64 {
	if m.windowFrom.IsZero() {
		m.windowFrom = now
	}
	p := p99Of(&m.windows[0], &m.windows[1])
	if now.Sub(m.windowFrom) >= windowLife {
		next := 1 - m.current.Load()
		m.windows[next].clear()
		m.current.Store(next)
		m.windowFrom = now
	}
	return p
}

// window counts durations by their size: eight steps to each doubling, so that what is read
// from it is at most an eighth too high.
type window struct {
	counts [256]atomic.Uint32
}

// step returns the step that a number of microseconds falls into.
func step(us uint64) int {
	if us < 8 {
		return int(us)
	}
	n := bits.Len64(us) // at least 4
	return min((n-3)*8+int(us>>(n-4))&7, 255)
}

// top returns the largest number of microseconds of a step.
func top(step int) uint64 {
	if step < 8 {
		return uint64(step)
	}
	shift := step/8 - 1
	return uint64(8+step%8+1)<<shift - 1
}

func (w *window) add(d time.Duration) { w.counts[step(uint64(max(d.Microseconds(), 0)))].Add(1) }

func (w *window) clear() {
	for i := range w.counts {
		w.counts[i].Store(0)
	}
}

// p99Of returns the duration in milliseconds that 99 of 100 stay within, 0 if there are none.
func p99Of(windows ...*window) float64 {
	var sums [256]uint64
	var total uint64
	for _, w := range windows {
		for i := range w.counts {
			n := uint64(w.counts[i].Load())
			sums[i] += n
			total += n
		}
	}
	if total == 0 {
		return 0
	}
	want := uint64(math.Ceil(0.99 * float64(total)))
	var seen uint64
	for i, n := range sums {
		if seen += n; seen >= want {
			return float64(top(i)) / 1000
		}
	}
	return float64(top(len(sums)-1)) / 1000
}
