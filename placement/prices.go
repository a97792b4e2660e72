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
// its capacity. samples of the jitter stand for the sessions of a place.
const (
	maxSteps  = 400
	firstStep = 40
	stepDecay = 12
	tolerance = 0.005
	samples   = 16
)

// search is a Market laid out by index.
type search struct {
	names           []string
	capacity, price []float64
	taken           []float64 // the sessions of each region at the prices
	total           float64
	// weight is the sessions that a row of cost stands for; a row is the time and jitter to
	// each region, without price.
	weight []float64
	cost   []float64
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
	for place, o := range m.Origins {
		if n := bounded(o.Sessions, 0, maxCapacity); n > 0 {
			s.rows(place, o, n)
		}
	}
	if room < s.total && room > 0 {
		for i := range s.capacity {
			s.capacity[i] *= s.total / room
		}
	}
	return s
}

// rows adds the rows of a place, if any region can take its sessions.
func (s *search) rows(place int, o Origin, n float64) {
	reached := false
	for i, name := range s.names {
		ms, ok := o.RTT[name]
		reached = reached || ok && ms >= 0 && s.capacity[i] > 0
	}
	if !reached {
		return
	}
	s.total += n
	for k := range samples {
		s.weight = append(s.weight, n/samples)
		for i, name := range s.names {
			ms, ok := o.RTT[name]
			if !ok || !(ms >= 0) || s.capacity[i] <= 0 {
				s.cost = append(s.cost, math.Inf(1))
				continue
			}
			s.cost = append(s.cost, min(ms, maxPrice)+jitter(uint64(place*samples+k), hash(name)))
		}
	}
}

// demand works out what each region gets at the prices, and returns by how much of its
// capacity the worst is off: above it, or, where it has a price, below.
func (s *search) demand() (worst float64) {
	clear(s.taken)
	n := len(s.names)
	for row, weight := range s.weight {
		costs := s.cost[row*n : (row+1)*n]
		best, least := 0, math.Inf(1)
		for i, c := range costs {
			if c += s.price[i]; c < least {
				best, least = i, c
			}
		}
		s.taken[best] += weight
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

// step moves each price by what its region is off, at most by size.
func (s *search) step(size float64) {
	for i, c := range s.capacity {
		if c > 0 {
			off := max(-1, min(1, s.taken[i]/c-1))
			s.price[i] = max(0, min(maxPrice, s.price[i]+size*off))
		}
	}
}
