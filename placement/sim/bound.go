package sim

import (
	"context"
	"fmt"
	"math"

	"github.com/berthhq/berth/placement"
)

// PolicyBound is the name of what no policy can do better than: see Bound.
const PolicyBound = "bound"

// Bound returns the figures that a fleet would have whose load could be split like a fluid and
// moved at no cost: every server of every region as busy as the whole fleet. What it adds in
// time is the least by which no region is above 100 %, by the dual of the assignment problem.
func (r Run) Bound(ctx context.Context) (Result, error) {
	s, err := r.prepare(ctx)
	if err != nil {
		return Result{}, err
	}
	out := Result{Policy: PolicyBound, Seed: r.Seed, Figures: Figures{FigureImbalance: 1, FigureOver: over(s.mean()), FigureMoves: 0}}
	for _, w := range s.meter.windows {
		e := s.first(w.kind)
		peak, added := 0.0, 0.0
		switch w.kind {
		case kindBurst:
			peak = s.mean() * (1 + e.Burst)
		case kindLoss:
			s.each(e.Lose, func(v *server) { v.dead = true })
			peak = s.mean()
			added = s.least()
			s.each(e.Lose, func(v *server) { v.dead = false })
		case kindSlow:
			s.each(e.Slow, func(v *server) { v.factor = e.Factor })
			peak = s.mean()
			s.each(e.Slow, func(v *server) { v.factor = 1 })
		case kindDrain:
			s.each(e.Drain, func(v *server) { v.dead = true })
			peak = s.mean()
			s.each(e.Drain, func(v *server) { v.dead = false })
			out.Figures[FigureDrainLeft], out.Figures[FigureDrainUneven] = 0, 0
		default:
			peak = s.mean()
		}
		out.Figures[w.kind.over()], out.Figures[w.kind.peak()] = over(peak), peak
		if w.kind == kindLoss {
			out.Figures[w.kind.added()] = added
		}
	}
	return out, nil
}

// over is the share of the time above 100 % of what is always at a utilisation.
func over(utilisation float64) float64 {
	if utilisation > 1 {
		return 1
	}
	return 0
}

// first returns the first event of a kind.
func (s *simulation) first(k kind) *Event {
	for i := range s.Events {
		if s.Events[i].kind() == k {
			return &s.Events[i]
		}
	}
	panic(fmt.Sprintf("no event of kind %s", k)) // windows are made from events
}

// total returns the load of all sessions, mean the utilisation if the living servers bear it.
func (s *simulation) total() (sum float64) {
	for _, n := range s.demand {
		sum += n
	}
	return sum
}

func (s *simulation) mean() float64 {
	room := 0.0
	for i := range s.fleet.servers {
		if v := &s.fleet.servers[i]; !v.dead {
			room += v.capacity * v.factor
		}
	}
	if room <= 0 {
		return 0 // nobody lives who could be busy
	}
	return s.total() / room
}

// least returns the least mean of the time above that to the closest living region, with no
// region above 100 %, over the sessions that have a time to any. Any prices give a lower bound;
// those of Market.Solve one that is close.
func (s *simulation) least() float64 {
	m := s.market()
	for i := range s.fleet.servers {
		v := &s.fleet.servers[i]
		if name := s.fleet.regions[v.region]; !v.dead {
			m.Capacity[name] += v.capacity * v.factor
		}
	}
	prices, closest := m.Solve(), s.nearest()
	sum, people := 0.0, 0.0
	for i, n := range s.demand {
		least := math.Inf(1)
		for j, ms := range s.places[i].ms {
			if name := s.fleet.regions[j]; m.Capacity[name] > 0 {
				least = min(least, ms+prices[name])
			}
		}
		if n > 0 && !math.IsInf(closest[i], 1) {
			sum += n * (least - closest[i])
			people += n
		}
	}
	for name, price := range prices {
		sum -= price * m.Capacity[name]
	}
	if people <= 0 {
		return 0
	}
	return max(0, sum) / people
}

// market returns the demand of now, without what the regions can take.
func (s *simulation) market() placement.Market {
	m := placement.Market{Capacity: map[string]float64{}}
	for i, n := range s.demand {
		if n <= 0 {
			continue
		}
		o := placement.Origin{Sessions: n, RTT: map[string]float64{}}
		for j, name := range s.fleet.regions {
			if ms := s.places[i].ms[j]; !math.IsInf(ms, 1) {
				o.RTT[name] = ms
			}
		}
		m.Origins = append(m.Origins, o)
	}
	return m
}
