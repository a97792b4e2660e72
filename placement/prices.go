package placement

import (
	"maps"
	"math"
	"slices"
)

// Prices are what sessions pay for being in a region, in milliseconds by the region's name.
// A region that is not named, or not above its level, is free.
type Prices map[string]float64

// maxPrice keeps sums of prices and times finite.
const maxPrice = 1e6

// WithPrices returns the view with these prices in place of the ones it has. v stays as it is.
func (v *View) WithPrices(p Prices) View {
	next := *v
	next.Regions, next.priced = slices.Clone(v.Regions), false
	for i := range next.Regions {
		r := &next.Regions[i]
		r.Price = bounded(p[r.Name], 0, maxPrice)
		next.priced = next.priced || r.Price > 0
	}
	return next
}

// Prices returns the prices of the view, from which whoever solves the next ones starts: see
// Market.Last. nil: all is free.
func (v *View) Prices() Prices {
	if !v.priced {
		return nil
	}
	p := Prices{}
	for i := range v.Regions {
		if price := v.Regions[i].Price; price > 0 {
			p[v.Regions[i].Name] = price
		}
	}
	return p
}

// Origin is a place that sessions come from: how many there are, and the round-trip time in
// milliseconds to each region that can take them. Regions that it does not name take none.
type Origin struct {
	Sessions float64
	RTT      map[string]float64
}

// Market is what prices are found from: where the sessions come from, and how many each
// region can take, which is its capacity up to its level.
type Market struct {
	Origins  []Origin
	Capacity map[string]float64
	// Last are the prices of before, from which the search starts; nil: 0.
	Last Prices
}

// Solve returns the prices at which, when everybody goes where time and price are least, no
// region gets more than it can take, and all together lose as little time as that allows. A
// region that is not in demand is free. If there is no room for everybody, all regions are
// overrun alike.
//
// They are the dual of the assignment that minimises the sum of times under the capacities,
// found by subgradient steps: a region that is overrun becomes dearer, one with room cheaper,
// by ever smaller steps. Each session's jitter, which Decide adds, makes demand fall smoothly
// as a price rises.
func (m Market) Solve() Prices {
	s := m.lay()
	if s.total <= 0 {
		return Prices{}
	}
	best, least := make([]float64, len(s.names)), math.Inf(1)
	for step := range maxSteps {
		worst := s.demand()
		if worst < least {
			least = worst
			copy(best, s.price)
		}
		if worst < tolerance {
			break
		}
		s.step(firstStep / (1 + float64(step)/stepDecay))
	}
	p := Prices{}
	for i, name := range s.names {
		if best[i] > 0 {
			p[name] = best[i]
		}
	}
	return p
}

// How the search goes: at most maxSteps steps, of at most firstStep milliseconds a region, the
// step of number n divided by 1+n/stepDecay, until no region is off by more than tolerance of
// its capacity.
const (
	maxSteps  = 400
	firstStep = 40
	stepDecay = 12
	tolerance = 0.005
)

// search is a Market laid out by index.
type search struct {
	names           []string
	capacity, price []float64
	taken           []float64 // the sessions of each region at the prices
	total           float64
	// sessions are those of each place; a row of cost is the time from one to each region.
	sessions []float64
	cost     []float64
	// paid and near are for split.
	paid []float64
	near []int
}

// lay lays a market out. Numbers that are none count as 0, and a total beyond what there is
// room for is shared out by capacity.
func (m Market) lay() *search {
	s := &search{names: slices.Sorted(maps.Keys(m.Capacity))}
	room := 0.0
	for _, name := range s.names {
		c := bounded(m.Capacity[name], 0, maxCapacity)
		s.capacity = append(s.capacity, c)
		s.price = append(s.price, bounded(m.Last[name], 0, maxPrice))
		room += c
	}
	s.taken = make([]float64, len(s.names))
	for _, o := range m.Origins {
		if n := bounded(o.Sessions, 0, maxCapacity); n > 0 {
			s.row(o, n)
		}
	}
	if room < s.total && room > 0 {
		for i := range s.capacity {
			s.capacity[i] *= s.total / room
		}
	}
	return s
}

// row adds the row of a place, if any region can take its sessions.
func (s *search) row(o Origin, n float64) {
	reached := false
	for i, name := range s.names {
		ms, ok := o.RTT[name]
		reached = reached || ok && ms >= 0 && s.capacity[i] > 0
	}
	if !reached {
		return
	}
	s.total += n
	s.sessions = append(s.sessions, n)
	for i, name := range s.names {
		ms, ok := o.RTT[name]
		if !ok || !(ms >= 0) || s.capacity[i] <= 0 {
			s.cost = append(s.cost, math.Inf(1))
			continue
		}
		s.cost = append(s.cost, min(ms, maxPrice))
	}
}

// demand works out what each region gets at the prices, and returns by how much of its
// capacity the worst is off: above it, or, where it has a price, below.
func (s *search) demand() (worst float64) {
	clear(s.taken)
	n := len(s.names)
	for place, sessions := range s.sessions {
		s.split(s.cost[place*n:(place+1)*n], sessions)
	}
	for i, c := range s.capacity {
		if c <= 0 {
			continue
		}
		off := s.taken[i]/c - 1
		if off < 0 && s.price[i] > 0 {
			off = -off
		}
		worst = max(worst, off)
	}
	return worst
}

// split shares the sessions of a place out among the regions: those within the jitter of the
// cheapest each get their chance to be the cheapest, jitter included.
func (s *search) split(cost []float64, sessions float64) {
	least := math.Inf(1)
	s.paid, s.near = s.paid[:0], s.near[:0]
	for i, c := range cost {
		s.paid = append(s.paid, c+s.price[i])
		least = min(least, s.paid[i])
	}
	for i, c := range s.paid {
		if c < least+jitterMS {
			s.near = append(s.near, i)
		}
	}
	if len(s.near) == 1 {
		s.taken[s.near[0]] += sessions
		return
	}
	sum := 0.0
	for _, i := range s.near {
		sum += s.chance(i, least)
	}
	for _, i := range s.near {
		s.taken[i] += sessions * s.chance(i, least) / sum
	}
}

// chance returns how likely one of the regions near is the cheapest, where the least cost of all
// is given: the mean, over what jitter adds to its cost, of the chance that all others are
// dearer, by the midpoint rule.
func (s *search) chance(i int, least float64) float64 {
	const points = 16
	from := s.paid[i]
	width := (least + jitterMS - from) / points
	sum := 0.0
	for k := range points {
		at, p := from+(float64(k)+0.5)*width, 1.0
		for _, j := range s.near {
			if j != i {
				p *= min(1, (s.paid[j]+jitterMS-at)/jitterMS)
			}
		}
		sum += p
	}
	return sum * width / jitterMS
}

// step moves each price by what its region is off, at most by size.
func (s *search) step(size float64) {
	for i, c := range s.capacity {
		if c > 0 {
			off := max(-1, min(1, s.taken[i]/c-1))
			s.price[i] = max(0, min(maxPrice, s.price[i]+size*off))
		}
	}
}
