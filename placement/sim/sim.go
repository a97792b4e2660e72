// Package sim tells what placement policies do to a fleet: it runs a scenario in simulated
// time, in which every login and refresh is decided by placement.Decide on the view that a
// token service would have.
//
// A run is a function of the scenario, the places, the policy and the seed: the same ones give
// the same figures.
package sim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// step is how far time advances at once.
const step = 100 * time.Millisecond

// perSecond is how many steps a second has.
const perSecond = int(time.Second / step)

// Run is one run of a scenario.
type Run struct {
	Scenario Scenario
	Places   *Places
	// Policy names the placement policy.
	Policy string
	Seed   uint64
	// Progress is called each simulated minute with the share that is done; nil: not.
	Progress func(done float64)
}

// epoch is when simulated time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// simulation is a run in progress.
type simulation struct {
	*Scenario
	policy     placement.Policy
	prices     bool
	priceTimes placement.PriceTimes
	// hears says that the token services hear each other's decisions.
	hears  bool
	random *rand.Rand
	places []place
	weight []float64 // running sums of the places' weights
	fleet  fleet
	desks  []desk // the token services

	clients []client
	// due[t%len] is the first client whose refresh is at step t; clients are chained by next.
	due    []int32
	demand []float64 // sessions by place, with those that lost their server or have none yet
	now    int       // in steps
	crowds []crowd
	turns  []turnOf
	meter  meter
}

// place is where clients are.
type place struct {
	// ms are the times to the fleet's regions by index, +Inf where none is known; rtt is what
	// a client there has measured, to one server a region.
	ms      []float64
	rtt     []placement.RTT
	closest int    // the closest region
	arrived string // its name
	weight  float64
}

// client is somebody with a session.
type client struct {
	place      int32
	server     int32 // -1 before the login
	next       int32
	crowd      int32 // the burst that it came with, -1: none
	load       float64
	session    string
	sessions   uint32
	generation uint64
	movedAt    time.Time
	home       string // the region that load or a failure sent the session away from
}

// nobody ends a chain of clients.
const nobody = -1

// Do runs the scenario to its end.
func (r Run) Do(ctx context.Context) (Result, error) {
	s, err := r.prepare(ctx)
	if err != nil {
		return Result{}, err
	}
	end := steps(s.Duration)
	for s.now = 0; s.now < end; s.now++ {
		if r.Progress != nil && s.now%(60*perSecond) == 0 {
			r.Progress(float64(s.now) / float64(end))
		}
		s.happen(ctx)
		s.stir()
		s.report()
		s.solve()
		s.refreshes(ctx)
		if s.now%perSecond == 0 {
			s.sample()
		}
		if err := s.stopped(ctx); err != nil {
			return Result{}, err
		}
	}
	return s.meter.result(s, r), nil
}

// stopped returns an error once the context has ended. What goes through all clients looks at
// it for each, and leaves off: a step of a large fleet takes long.
func (s *simulation) stopped(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("simulate %s: %w", s.Name, context.Cause(ctx))
}

// prepare lays the fleet and the clients out.
func (r Run) prepare(ctx context.Context) (*simulation, error) {
	if err := r.Scenario.validate(); err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	s := &simulation{
		Scenario: &r.Scenario, policy: placement.Policy{Name: r.Policy, RefreshInterval: r.Scenario.Refresh},
		prices: r.Policy == placement.PolicySpreadPrices, random: rand.New(rand.NewPCG(r.Seed, 0x5eed)),
	}
	s.hears = strings.HasPrefix(r.Policy, placement.PolicySpread)
	if err := s.policy.Validate(); err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	if err := s.stopped(ctx); err != nil {
		return nil, err
	}
	shares, err := s.settle(r.Places)
	if err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	s.build(shares)
	s.schedule()
	s.due = make([]int32, s.farthest()+1)
	for i := range s.due {
		s.due[i] = nobody
	}
	for range s.Clients {
		if err := s.stopped(ctx); err != nil {
			return nil, err
		}
		s.arrive(s.random.IntN(steps(s.Refresh)), nobody, s.draw(""))
	}
	s.meter.prepare(s)
	return s, nil
}

// farthest returns an upper bound of the steps that anybody plans ahead: to the next refresh, or
// to the login of the last client of a burst.
func (s *simulation) farthest() int {
	most := steps(max(s.Refresh*6/5, retry)) + 1
	for i := range s.Events {
		most = max(most, 1+steps(s.Events[i].Over))
	}
	return most
}

// steps returns a duration in steps, at least 1.
func steps(d time.Duration) int { return max(1, int(d/step)) }

// time returns the time at the present step.
func (s *simulation) time() time.Time { return epoch.Add(time.Duration(s.now) * step) }

// draw returns a place at random by weight, of all or of those that a region is closest to.
func (s *simulation) draw(region string) int32 {
	if region != "" {
		return s.drawNear(region)
	}
	x := s.random.Float64() * s.weight[len(s.weight)-1]
	for i, sum := range s.weight {
		if x < sum {
			return int32(i)
		}
	}
	return int32(len(s.weight) - 1)
}

// drawNear draws of the places that a region is closest to; one of them has a weight.
func (s *simulation) drawNear(region string) (last int32) {
	sum := 0.0
	for i := range s.places {
		if at := &s.places[i]; at.arrived == region {
			sum += at.weight
		}
	}
	x := s.random.Float64() * sum
	for i := range s.places {
		if at := &s.places[i]; at.arrived == region && at.weight > 0 {
			last = int32(i)
			if x -= at.weight; x < 0 {
				break
			}
		}
	}
	return last
}

// arrive adds a client who logs in so many steps from now. Those of a burst are in demand from
// then on only: nobody knows of them before.
func (s *simulation) arrive(after int, crowd, place int32) {
	load := s.load()
	s.clients = append(s.clients, client{place: place, server: nobody, crowd: crowd, load: load, session: sessionID(len(s.clients), 0)})
	if crowd == nobody {
		s.demand[place] += load
	}
	s.plan(int32(len(s.clients)-1), after)
}

// load returns the load of a new session: 1 in the mean.
func (s *simulation) load() float64 {
	if s.HeavyShare == 0 {
		return 1
	}
	light := 1 / (1 + s.HeavyShare*(s.HeavyTimes-1))
	if s.random.Float64() < s.HeavyShare {
		return light * s.HeavyTimes
	}
	return light
}

func sessionID(client, session int) string { return fmt.Sprintf("s%d.%d", client, session) }

// plan has a client refresh or log in so many steps from now.
func (s *simulation) plan(c int32, after int) {
	at := (s.now + after) % len(s.due)
	s.clients[c].next = s.due[at]
	s.due[at] = c
}

// refreshes has all clients decided whose time has come. It leaves off when the context ends.
func (s *simulation) refreshes(ctx context.Context) {
	slot := s.now % len(s.due)
	c := s.due[slot]
	s.due[slot] = nobody
	for c != nobody && ctx.Err() == nil {
		next := s.clients[c].next
		switch s.refresh(c) {
		case again:
			wait := s.Refresh + time.Duration((s.random.Float64()-0.5)*0.2*float64(s.Refresh))
			s.plan(c, steps(wait))
		case soon:
			s.plan(c, steps(retry))
		case gone:
		}
		c = next
	}
}

// outcome is what a client does after a decision.
type outcome uint8

// The outcomes.
const (
	again outcome = iota // it comes again when its token ends
	soon                 // it has no server yet, and comes again after retry
	gone                 // it never comes again
)

// retry is how long a client waits that was sent to a dead server, or nowhere.
const retry = time.Second

// refresh decides for a client.
func (s *simulation) refresh(i int32) outcome {
	c := &s.clients[i]
	desk := &s.desks[s.random.IntN(len(s.desks))]
	critical := s.Critical > 0 && s.random.Float64() < s.Critical
	ends := s.Life > 0 && s.random.Float64() < float64(s.Refresh)/float64(s.Life)
	expected := c.crowd != nobody && c.generation == 0 && c.sessions == 0
	if c.crowd != nobody && s.crowds[c.crowd].over {
		s.leave(c)
		if !expected {
			s.demand[c.place] -= c.load
		}
		return gone
	}
	if expected {
		s.demand[c.place] += c.load
	}
	if ends && c.server != nobody {
		s.leave(c)
		s.demand[c.place] -= c.load
		c.load = s.load()
		s.demand[c.place] += c.load
		c.sessions++
		c.session, c.generation, c.movedAt = sessionID(int(i), int(c.sessions)), 0, time.Time{}
		c.home = ""
	}
	at := &s.places[c.place]
	r := placement.Request{
		Session: c.session, Generation: c.generation, Arrived: at.arrived, RTT: at.rtt, Critical: critical, MovedAt: c.movedAt,
		Home: c.home,
	}
	if c.server != nobody {
		own := &s.fleet.servers[c.server]
		r.Server, r.Dead = own.id, own.dead
	}
	v := s.look(desk)
	if s.policy.Name == placement.PolicyLiteral {
		r.ClosestServer = s.closest(v, at)
	}
	d := placement.Decide(r, v, s.policy, s.time())
	c.generation++
	return s.follow(c, d, v)
}

// closest returns the server that the client calls closest: the one with the lowest load of the
// closest region that has any, as the original design has it.
func (s *simulation) closest(v *placement.View, at *place) string {
	best, least := -1, math.Inf(1)
	for i := range v.Regions {
		if ms := at.ms[i]; v.Regions[i].Usable > 0 && ms < least {
			best, least = i, ms
		}
	}
	if best < 0 {
		return ""
	}
	region, low := &v.Regions[best], -1
	for i, u := range region.Utilisation {
		if region.State[i] == events.StateUp && region.Capacity[i] > 0 && (low < 0 || u < region.Utilisation[low]) {
			low = i
		}
	}
	return region.ID[low]
}

// follow does what was decided.
func (s *simulation) follow(c *client, d placement.Decision, v *placement.View) outcome {
	at, ok := v.Find(d.Server)
	if !ok {
		return soon
	}
	target := int32(s.fleet.first[at.Region] + at.Server)
	if s.fleet.servers[target].dead {
		return soon
	}
	s.meter.decided(s, c, d)
	if target == c.server {
		return again
	}
	if c.server != nobody && !s.fleet.servers[c.server].dead && d.Verdict == placement.VerdictMove {
		c.movedAt = s.time()
	}
	if c.server != nobody {
		from := s.fleet.servers[c.server].region
		c.home = placement.HomeAfter(c.home, s.fleet.regions[from], s.fleet.regions[at.Region], d.Reason)
	}
	s.hear(c.server, -1)
	s.hear(target, 1)
	s.leave(c)
	c.server = target
	s.fleet.servers[target].sessions += c.load
	return again
}

// leave takes a client's session off its server.
func (s *simulation) leave(c *client) {
	if c.server != nobody {
		s.fleet.servers[c.server].sessions -= c.load
		c.server = nobody
	}
}
