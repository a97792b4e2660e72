package sim

import (
	"math"
	"slices"
	"time"

	"github.com/berthhq/berth/placement"
)

// Result is what a run has shown.
type Result struct {
	Policy  string  `json:"policy"`
	Seed    uint64  `json:"seed"`
	Figures Figures `json:"figures"`
	// Decisions is how many logins and refreshes were decided, Reasons how many of each.
	Decisions int                      `json:"decisions"`
	Reasons   map[placement.Reason]int `json:"reasons"`
	// Busiest is the utilisation of the busiest server of each region, evenly over the run.
	Busiest map[string][]float64 `json:"-"`
}

// meter collects a run's figures.
type meter struct {
	from, to  int // the steady time, in steps
	ratios    []float64
	seconds   int
	over      int
	moves     int
	decisions int
	reasons   map[placement.Reason]int
	windows   []*window
	plotEvery int // in steps
	busiest   map[string][]float64
}

// window is the time in which an event of a kind is on.
type window struct {
	kind           kind
	from, to       int
	seconds, over  int
	moves          int
	peak           float64
	added, people  float64
	deadline, left int       // of a drain: its end, and who was still there then
	departures     []float64 // from draining servers, as shares of the deadline
}

func (m *meter) prepare(s *simulation) {
	m.from, m.to = steps(s.Warmup), steps(s.Duration)
	m.reasons, m.busiest = map[placement.Reason]int{}, map[string][]float64{}
	seconds := math.Ceil(s.Duration.Seconds() / plotPoints)
	m.plotEvery = perSecond * int(max(plotEvery.Seconds(), seconds))
	for i := range s.Events {
		e := &s.Events[i]
		m.to = min(m.to, steps(e.At))
		if !slices.ContainsFunc(m.windows, func(w *window) bool { return w.kind == e.kind() }) {
			m.windows = append(m.windows, &window{
				kind: e.kind(), from: steps(e.At), to: min(steps(e.At+e.For), steps(s.Duration)), deadline: steps(e.At + e.Deadline),
			})
		}
	}
}

// on calls do with each window that the present step is in.
func (m *meter) on(now int, do func(*window)) {
	for _, w := range m.windows {
		if now >= w.from && now < w.to {
			do(w)
		}
	}
}

// decided counts a decision.
func (m *meter) decided(s *simulation, c *client, d placement.Decision) {
	m.decisions++
	m.reasons[d.Reason]++
	if d.Verdict != placement.VerdictMove || c.server == nobody {
		return
	}
	if s.now >= m.from && s.now < m.to {
		m.moves++
	}
	own := &s.fleet.servers[c.server]
	m.on(s.now, func(w *window) {
		w.moves++
		if w.kind == kindDrain && !own.drain.IsZero() && s.now <= w.deadline {
			w.departures = append(w.departures, float64(s.now-w.from)/float64(w.deadline-w.from))
		}
	})
}

// plotEvery is the time between two points of a plot; it is more where they would be more than
// plotPoints.
const (
	plotEvery  = 5 * time.Second
	plotPoints = 2000
)

// sample looks at all servers, each second.
func (s *simulation) sample() {
	m, f := &s.meter, &s.fleet
	peak := 0.0
	steady := s.now >= m.from && s.now < m.to
	for i, name := range f.regions {
		busiest, load, room := 0.0, 0.0, 0.0
		for j := f.first[i]; j < f.first[i+1]; j++ {
			v := &f.servers[j]
			if v.dead {
				continue
			}
			busiest = max(busiest, v.load())
			load += v.load() * v.capacity
			room += v.capacity
		}
		peak = max(peak, busiest)
		if steady && load > 0 {
			m.ratios = append(m.ratios, busiest*room/load)
		}
		if s.now%m.plotEvery == 0 {
			m.busiest[name] = append(m.busiest[name], busiest)
		}
	}
	if steady {
		m.seconds++
		if peak > 1 {
			m.over++
		}
	}
	m.on(s.now, func(w *window) { s.watch(w, peak) })
}

// watch adds the present second to a window.
func (s *simulation) watch(w *window, peak float64) {
	w.seconds++
	w.peak = max(w.peak, peak)
	if peak > 1 {
		w.over++
	}
	if s.now%steps(distanceEvery) == 0 {
		s.distances(w)
	}
	if w.kind == kindDrain && s.now <= w.deadline {
		w.left = 0
		for i := range s.clients {
			if at := s.clients[i].server; at != nobody && !s.fleet.servers[at].drain.IsZero() {
				w.left++
			}
		}
	}
}

// distanceEvery is how often all clients are asked how far they are.
const distanceEvery = 10 * time.Second

// distances adds how much farther than need be the sessions are.
func (s *simulation) distances(w *window) {
	f := &s.fleet
	least := s.nearest()
	for i := range s.clients {
		c := &s.clients[i]
		if c.server == nobody || f.servers[c.server].dead {
			continue
		}
		if ms := s.places[c.place].ms[f.servers[c.server].region]; !math.IsInf(ms, 1) {
			w.added += ms - least[c.place]
			w.people++
		}
	}
}

// nearest returns the time from each place to the closest region with a living server.
func (s *simulation) nearest() []float64 {
	f := &s.fleet
	alive := make([]bool, len(f.regions))
	for i := range f.servers {
		alive[f.servers[i].region] = alive[f.servers[i].region] || !f.servers[i].dead
	}
	least := make([]float64, len(s.places))
	for i := range s.places {
		least[i] = math.Inf(1)
		for j, ms := range s.places[i].ms {
			if alive[j] {
				least[i] = min(least[i], ms)
			}
		}
	}
	return least
}

// result sums up.
func (m *meter) result(s *simulation, r Run) Result {
	figures := Figures{}
	slices.Sort(m.ratios)
	if n := len(m.ratios); n > 0 {
		figures[FigureImbalance] = m.ratios[n*99/100]
	}
	hour := float64(s.Clients) * step.Hours() // of a client, in a step
	if m.seconds > 0 {
		figures[FigureOver] = float64(m.over) / float64(m.seconds)
		figures[FigureMoves] = float64(m.moves) / (hour * float64(m.to-m.from))
	}
	for _, w := range m.windows {
		if w.seconds == 0 {
			continue
		}
		figures[w.kind.over()] = float64(w.over) / float64(w.seconds)
		figures[w.kind.peak()] = w.peak
		figures[w.kind.moves()] = float64(w.moves) / (hour * float64(w.to-w.from))
		if w.people > 0 {
			figures[w.kind.added()] = w.added / w.people
		}
		if w.kind == kindDrain {
			figures[FigureDrainLeft], figures[FigureDrainUneven] = float64(w.left), uneven(w.departures)
		}
	}
	return Result{Policy: r.Policy, Seed: r.Seed, Figures: figures, Decisions: m.decisions, Reasons: m.reasons, Busiest: m.busiest}
}

// uneven returns the Kolmogorov–Smirnov distance of values from the uniform distribution over
// [0, 1], which come in rising order.
func uneven(values []float64) (most float64) {
	n := float64(len(values))
	for i, x := range values {
		most = max(most, math.Abs(x-float64(i)/n), math.Abs(float64(i+1)/n-x))
	}
	return most
}
