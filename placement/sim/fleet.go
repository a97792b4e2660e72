package sim

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// fleet is the servers of all regions, sorted by region and number.
type fleet struct {
	regions []string
	first   []int // the first server of each region, and the end
	servers []server
	delay   int // added to the way of reports, in steps
}

// server is a server as it is.
type server struct {
	id       string
	region   int
	capacity float64
	factor   float64 // how much of the capacity it bears
	noise    float64 // what its load is above or below that of its sessions, as a share
	sessions float64 // the load of its sessions
	dead     bool
	smooth   float64   // the load that it reports
	drain    time.Time // when a drain is to be over; zero: none
	since    time.Time
	back     time.Time
	phase    int // of its region's reports
	announce int // the step from which its state is known, beside the reports; -1: it is
}

// load returns a server's utilisation.
func (v *server) load() float64 { return v.sessions * max(0, 1+v.noise) / (v.capacity * v.factor) }

// report is what a token service is told of a server.
type report struct {
	at     int // the step at which it arrives
	server int
	load   float64
	state  events.State
	drain  time.Time
	since  time.Time
	back   time.Time
	heard  float64 // not a report, but so many sessions that somebody sent there
}

// desk is a token service: a view and what is on its way to it.
type desk struct {
	delay  int
	known  []placement.Server
	told   []float64 // the load that each server reported
	extra  []float64 // the sessions that went there and that its last report does not have
	fading []fading  // what its next report will not have of them
	view   placement.View
	queue  []report
	fresh  []placement.Server // what the view does not have yet
	prices placement.Prices
	priced bool // the view has the prices
}

// fading is what a server's smoothed load did not have at a step of the sessions that went there.
type fading struct {
	sessions float64
	at       int
}

// fade returns what it does not have of them at a later step.
func (s *simulation) fade(f fading, now int) float64 {
	if f.sessions == 0 || s.Smoothing <= 0 {
		return 0
	}
	return f.sessions * math.Exp(-float64(max(0, now-f.at))*step.Seconds()/s.Smoothing.Seconds())
}

// settle turns places into those of the fleet and returns each region's share of the clients.
func (s *simulation) settle(p *Places) ([]float64, error) {
	f := &s.fleet
	for _, r := range s.Regions {
		f.regions = append(f.regions, r.Name)
	}
	slices.Sort(f.regions)
	if ways := len(p.Names) * len(f.regions); ways > maxWays {
		return nil, fmt.Errorf("%d places and %d regions: want at most %d ways between them", len(p.Names), len(f.regions), maxWays)
	}
	natural := make([]float64, len(f.regions))
	for i := range p.Names {
		at := f.place(p, i)
		if math.IsInf(at.ms[at.closest], 1) {
			return nil, fmt.Errorf("place %s: no time to any of the regions", p.Names[i])
		}
		s.places = append(s.places, at)
		natural[at.closest] += at.weight
	}
	shares := s.shares(natural)
	if err := s.near(p, natural, shares); err != nil {
		return nil, err
	}
	total := 0.0
	for i := range s.places {
		if at := &s.places[i]; natural[at.closest] > 0 {
			total += at.weight / natural[at.closest] * shares[at.closest]
		}
		s.weight = append(s.weight, total)
	}
	if !(total > 0) {
		return nil, errors.New("places: no clients near any of the regions")
	}
	s.demand = make([]float64, len(s.places))
	return shares, nil
}

// place returns one of the places as the fleet sees it.
func (f *fleet) place(p *Places, i int) place {
	at := place{ms: make([]float64, len(f.regions)), weight: p.Weight[i]}
	for j, name := range f.regions {
		ms, ok := p.RTT[i][name]
		if !ok {
			ms = math.Inf(1)
		}
		at.ms[j] = ms
		if ms < at.ms[at.closest] {
			at.closest = j
		}
	}
	at.arrived = f.regions[at.closest]
	return at
}

// near returns the first region that no place has a time to, or that is to have clients, by its
// share or in a burst, though no place that has any is closest to it.
func (s *simulation) near(p *Places, natural, shares []float64) error {
	for j, name := range s.fleet.regions {
		if !slices.ContainsFunc(s.places, func(at place) bool { return !math.IsInf(at.ms[j], 1) }) {
			return fmt.Errorf("region %s: no place has a round-trip time to it: want one of %s", name, strings.Join(p.regions(), ", "))
		}
		if natural[j] > 0 {
			continue
		}
		if shares[j] > 0 {
			return fmt.Errorf("region %s: a share of the clients, but no place that has any is closest to it", name)
		}
		if i := slices.IndexFunc(s.Events, func(e Event) bool { return e.In == name }); i >= 0 {
			return fmt.Errorf("event %d: in %s: no place that has clients is closest to that region", i+1, name)
		}
	}
	return nil
}

// shares returns the share of the clients of each region: as told, or else by nature.
func (s *simulation) shares(natural []float64) []float64 {
	shares, sum := make([]float64, len(natural)), 0.0
	for i, name := range s.fleet.regions {
		at := slices.IndexFunc(s.Regions, func(r Region) bool { return r.Name == name })
		shares[i] = s.Regions[at].Share
		sum += shares[i]
	}
	if sum == 0 {
		copy(shares, natural)
		for _, n := range natural {
			sum += n
		}
	}
	for i := range shares {
		shares[i] /= sum
	}
	return shares
}

// measured is how many regions a client measures at most.
const measured = 8

// build makes the servers, their capacities by the shares, and the token services.
func (s *simulation) build(shares []float64) {
	f := &s.fleet
	for i, name := range f.regions {
		at := slices.IndexFunc(s.Regions, func(r Region) bool { return r.Name == name })
		sizes, sum := make([]float64, s.Regions[at].Servers), 0.0
		for j := range sizes {
			sizes[j] = 1
			if len(s.Sizes) > 0 {
				sizes[j] = s.Sizes[j%len(s.Sizes)]
			}
			sum += sizes[j]
		}
		f.first = append(f.first, len(f.servers))
		phase := s.random.IntN(steps(s.Report)) // a region's loads are told together
		room := max(1, shares[i]*float64(s.Clients)/s.Utilisation)
		for j, size := range sizes {
			f.servers = append(f.servers, server{
				id: serverID(name, j), region: i, capacity: max(1, room*size/sum), factor: 1,
				phase: phase, announce: -1,
			})
		}
	}
	f.first = append(f.first, len(f.servers))
	for i := range s.places {
		s.places[i].measure(f)
	}
	known := make([]placement.Server, 0, len(f.servers))
	for j := range f.servers {
		v := &f.servers[j]
		known = append(known, placement.Server{ID: v.id, Region: f.regions[v.region], State: events.StateUp, Capacity: v.capacity})
	}
	view := placement.NewView(known)
	s.desks = make([]desk, s.TokenServices)
	for i := range s.desks {
		d := &s.desks[i]
		if s.ReportDelay > 0 {
			d.delay = s.random.IntN(int(s.ReportDelay/step) + 1)
		}
		d.known, d.view = slices.Clone(known), view
		d.told, d.extra, d.fading = make([]float64, len(f.servers)), make([]float64, len(f.servers)), make([]fading, len(f.servers))
	}
}

// measure fills in what the clients of a place have measured: the closest regions.
func (p *place) measure(f *fleet) {
	order := make([]int, len(f.regions))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.ms[a], p.ms[b]) })
	for _, i := range order[:min(measured, len(order))] {
		if !math.IsInf(p.ms[i], 1) {
			p.rtt = append(p.rtt, placement.RTT{ServerID: f.servers[f.first[i]].id, MS: p.ms[i]})
		}
	}
}

// noiseTime is the time in which noise is forgotten.
const noiseTime = time.Minute

// stir changes the noise of all servers, and what they make of their load, each second.
func (s *simulation) stir() {
	if s.now%perSecond != 0 {
		return
	}
	keep := math.Exp(-time.Second.Seconds() / noiseTime.Seconds())
	fresh := s.Noise * math.Sqrt(1-keep*keep)
	old := 0.0
	if s.Smoothing > 0 {
		old = math.Exp(-time.Second.Seconds() / s.Smoothing.Seconds())
	}
	for i := range s.fleet.servers {
		v := &s.fleet.servers[i]
		if s.Noise > 0 {
			v.noise = keep*v.noise + fresh*s.random.NormFloat64()
		}
		v.smooth = old*v.smooth + (1-old)*v.load()
	}
}

// report sends the reports that are due at this step.
func (s *simulation) report() {
	every := steps(s.Report)
	for i := range s.fleet.servers {
		v := &s.fleet.servers[i]
		told := v.announce == s.now
		if !told && (v.dead || s.now%every != v.phase) {
			continue
		}
		r := report{server: i, load: v.smooth, state: events.StateUp, drain: v.drain, since: v.since, back: v.back}
		switch {
		case v.dead:
			r.state = events.StateDown
		case !v.drain.IsZero():
			r.state = events.StateDraining
		}
		for j := range s.desks {
			d := &s.desks[j]
			r.at = s.now + d.delay
			if !told {
				r.at += s.fleet.delay
			}
			d.queue = append(d.queue, r)
		}
	}
}

// hear tells the token services that a session went to a server, or with -1 left it. They hear
// it as fast as reports. Only the policies that spread make use of it: the others go by what
// servers report.
func (s *simulation) hear(server int32, sessions float64) {
	if !s.hears || server == nobody {
		return
	}
	for i := range s.desks {
		d := &s.desks[i]
		d.queue = append(d.queue, report{at: s.now + d.delay + s.fleet.delay, server: int(server), heard: sessions})
	}
}

// look returns a token service's view of now.
func (s *simulation) look(d *desk) *placement.View {
	kept := d.queue[:0]
	for _, r := range d.queue {
		if r.at > s.now {
			kept = append(kept, r)
			continue
		}
		k := &d.known[r.server]
		if k.State == events.StateDown && r.heard == 0 && r.state != events.StateDown && s.fleet.servers[r.server].dead {
			continue // sent before it died
		}
		left := s.fade(d.fading[r.server], r.at)
		if r.heard != 0 {
			d.extra[r.server] += r.heard
			d.fading[r.server] = fading{left + r.heard, r.at}
		} else {
			d.told[r.server], d.extra[r.server] = r.load, left
			k.State, k.DrainUntil, k.DrainingSince, k.RejoinedAt = r.state, r.drain, r.since, r.back
		}
		k.Utilisation = max(0, d.told[r.server]+d.extra[r.server]/k.Capacity)
		d.fresh = append(d.fresh, *k)
	}
	d.queue = kept
	if len(d.fresh) > 0 {
		d.view, _ = d.view.With(d.fresh...) // all of them are known
		d.fresh = d.fresh[:0]
	}
	if !d.priced {
		d.view, d.priced = d.view.WithPrices(d.prices), true
	}
	return &d.view
}

// solve finds prices anew, where that is due, and tells them to the token services: as if each
// found them from the same view updates.
func (s *simulation) solve() {
	if !s.prices {
		return
	}
	v := s.look(&s.desks[0])
	if !s.priceTimes.Due(v, s.time()) {
		return
	}
	room := 0.0
	for i := range v.Regions {
		room += v.Regions[i].Room
	}
	m := s.market()
	m.Last = v.Prices()
	_, level := placement.Levels(s.total() / max(1, room))
	for i := range v.Regions {
		if v.Regions[i].Usable > 0 {
			m.Capacity[v.Regions[i].Name] = level * v.Regions[i].Room
		}
	}
	prices := m.Solve()
	for i := range s.desks {
		s.desks[i].prices, s.desks[i].priced = prices, false
	}
}
