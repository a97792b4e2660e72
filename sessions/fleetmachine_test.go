package sessions_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

var fleetSeeds = flag.Uint64("fleetseeds", 2000, "how many schedules of a fleet TestFleetSeeds plays")

// Steps of a fleet beside those of a world.
const (
	deliver action = "a copy arrives"
	flow    action = "all copies arrive"
	sever   action = "two regions are cut off from one another"
	heal    action = "two regions reach each other again"
	isolate action = "a region is cut off from all others"
	perish  action = "a region dies"
	rise    action = "a region returns"
	sweep   action = "a sweeper looks at the session"
	late    action = "a message between regions arrives again"
	shorten action = "a region's store loses its tail"
)

// fleetWeights says how often each action is drawn.
var fleetWeights = []struct {
	do    action
	times int
}{
	{calm, 12},
	{send, 10},
	{accept, 10},
	{double, 3},
	{lose, 1},
	{advance, 16},
	{finish, 12},
	{fail, 8},
	{receive, 8},
	{drop, 3},
	{giveUp, 4},
	{wait, 9},
	{kill, 3},
	{revive, 3},
	{prefer, 8},
	{claim, 2},
	{steal, 1},
	{present, 2},
	{logout, 1},
	{land, 2},
	{forget, 1},
	{release, 2},
	{deliver, 12},
	{flow, 5},
	{sever, 2},
	{heal, 4},
	{isolate, 1},
	{perish, 1},
	{rise, 3},
	{sweep, 8},
	{late, 3},
	{shorten, 1},
}

var fleetActions = func() []action {
	var list []action
	for _, w := range fleetWeights {
		list = append(list, slices.Repeat([]action{w.do}, w.times)...)
	}
	return list
}()

// fleetFaults are what a stop of a process may meet: a store's access or a call.
var fleetFaults = slices.Concat(writeFaults, callFaults)

// A fleetMutant is a fleet with one rule missing.
type fleetMutant struct {
	rule, name string
	// first is the seed from which schedules are tried: few break a rule that is rarely needed.
	first uint64
	rules []sessions.Rule
	// noCopies hides copies from the owners, noWitness asks no third region, anyToken and noToken take over
	// without a copy by any token and by none, oneWay lets copies flow from eu only, lastWins has the client
	// store whatever came last, noForgetting leaves what is remembered when a copy arrives. tails lets a store lose its tail.
	tails                                                                                       bool
	noDeadline, noFloor, noCopies, noWitness, anyToken, noToken, oneWay, lastWins, noForgetting bool
}

var fleetServers = []string{"ap-a", "ap-b", "eu-a", "eu-b", "us-a", "us-b"}

func regionAt(choice uint8) string { return regionNames[int(choice)%len(regionNames)] }

// do takes a step. One that is not possible now does nothing.
func (f *fleet) do(s step) {
	switch s.do {
	case calm, send, receive, drop, giveUp, claim, steal, present:
		f.client(s)
	case accept, double, lose, advance, finish, fail, logout, sweep, late:
		f.service(s)
	case deliver, flow, sever, heal, isolate, perish, rise:
		f.network(s)
	default:
		f.surroundings(s)
	}
}

func (f *fleet) client(s step) {
	i := int(s.a) % len(f.tabs)
	t := &f.tabs[i]
	switch s.do {
	case calm:
		if f.send(i, regionAt(s.b)) {
			e := f.wire[len(f.wire)-1]
			f.wire = f.wire[:len(f.wire)-1]
			if p := f.accept(e, f.regions[e.to].floor); p != nil {
				f.finish(p)
				f.receive(f.replies[len(f.replies)-1])
				f.replies = f.replies[:len(f.replies)-1]
			}
		}
	case send:
		f.send(i, regionAt(s.b))
	case receive, drop:
		if k, ok := pick(len(f.replies), s.a); ok {
			r := f.replies[k]
			f.replies = slices.Delete(f.replies, k, k+1)
			if s.do == receive {
				f.receive(r)
			}
		}
	case giveUp:
		t.waiting = 0
	case claim:
		t.critical = !t.critical
	case steal:
		f.loot = append(f.loot, f.newest)
	default: // present
		if k, ok := pick(len(f.loot), s.a); ok {
			f.requests++
			f.wire = append(f.wire, errand{request{id: f.requests, from: thief, token: f.loot[k], deadline: f.now.Add(patience)}, regionAt(s.b)})
		}
	}
}

func (f *fleet) send(i int, to string) bool {
	t := &f.tabs[i]
	if f.out || t.waiting != 0 && !f.now.After(t.until) {
		return false
	}
	f.requests++
	t.waiting, t.until = f.requests, f.now.Add(patience)
	e := errand{request{id: f.requests, from: i, token: f.newest, critical: f.tabs[0].critical || f.tabs[1].critical, deadline: t.until}, to}
	f.wire = append(f.wire, e)
	f.say("tab %d sends request %d with %s to %s, critical %t", i, e.id, e.token, to, e.critical)
	return true
}

// receive hands a reply to whoever still waits for it.
func (f *fleet) receive(r reply) {
	v := r.outcome.Judgement.Verdict
	granted := r.err == nil && (v == sessions.Rotate || v == sessions.Replay || v == sessions.Supersede)
	now := r.outcome.Record.Current()
	if r.request.from == thief {
		if granted {
			f.loot = append(f.loot, now)
		}
		return
	}
	t := &f.tabs[r.request.from]
	if t.waiting != r.request.id || f.now.After(t.until) {
		return
	}
	t.waiting = 0
	switch {
	case granted && (f.newest.Less(now) || f.without.lastWins): // V13: the greater one
		f.newest = now
		f.say("tab %d stores %s", r.request.from, f.newest)
	case r.err == nil && (v == sessions.Reused || v == sessions.Ended):
		f.out = true
		f.say("tab %d is logged out", r.request.from)
	}
}

func (f *fleet) service(s step) {
	switch s.do {
	case accept, double, lose:
		k, ok := pick(len(f.wire), s.a)
		if !ok {
			return
		}
		e := f.wire[k]
		if s.do != double {
			f.wire = slices.Delete(f.wire, k, k+1)
		}
		if s.do != lose {
			var floor events.Epoch
			if s.b%2 == 0 {
				floor = f.regions[e.to].floor
			}
			f.accept(e, floor)
		}
	case logout:
		if s.b%4 == 0 {
			f.logout(regionAt(s.a))
		}
	case sweep:
		f.sweep(regionAt(s.a))
	case late:
		if k, ok := pick(len(f.late), s.a); ok {
			again := f.late[k]
			f.late = slices.Delete(f.late, k, k+1)
			f.start(&process{title: "a late message"}, again)
		}
	default: // advance, finish, fail
		k, ok := pick(len(f.procs), s.a)
		switch {
		case !ok:
		case s.do == finish:
			f.finish(f.procs[k])
		case s.do == fail:
			f.run(k, fleetFaults[int(s.b)%len(fleetFaults)])
		default:
			f.run(k, sound)
		}
	}
}

// logout ends the session at its owner or, if that is out of reach, here.
func (f *fleet) logout(at string) {
	if f.gone[at] {
		return
	}
	s, t := f.regions[at], f.newest
	p := &process{title: "logout in " + at}
	p.done = func() { f.ledger.ended = f.ledger.ended || p.err == nil }
	f.start(p, func(ctx context.Context) {
		var owner string
		var over bool
		if owner, over, p.err = s.owner.Locate(ctx, key, t); p.err != nil || over {
			return
		}
		if owner != at {
			if p.err = f.call(ctx, at, owner, "logout", func(ctx context.Context) error {
				_, _, err := f.regions[owner].owner.Revoke(ctx, key, rebuilt(t))
				return err
			}); p.err == nil {
				return
			}
		}
		_, _, p.err = s.owner.Revoke(ctx, key, rebuilt(t))
	})
}

// sweep looks after the session in a region.
func (f *fleet) sweep(at string) *process {
	if f.gone[at] {
		return nil
	}
	s := f.regions[at]
	p := &process{title: "sweeper of " + at, background: true}
	f.start(p, func(ctx context.Context) {
		settled, err := s.owner.Sweep(ctx, key, fleetDecider{f, p, s})
		s.unsettled = s.unsettled && (!settled || err != nil)
		if rec := s.store.peek(key); rec != nil && rec.State == sessions.StateMoved {
			f.release(rec.Epoch, at)
		}
	})
	return p
}

func (f *fleet) network(s step) {
	a, b := regionAt(s.a), regionAt(s.b)
	switch s.do {
	case deliver:
		if a != b {
			f.copy(a, b)
		}
	case flow:
		f.flow()
	case sever:
		f.cut(a, b)
	case heal:
		if a != b {
			delete(f.cuts, pair(a, b))
		}
	case isolate:
		for _, x := range regionNames {
			f.cut(a, x)
		}
	case perish:
		f.perish(a)
	default: // rise
		delete(f.gone, a)
	}
}

func (f *fleet) cut(a, b string) {
	if _, already := f.cuts[pair(a, b)]; a == b || already {
		return
	}
	f.cuts[pair(a, b)] = f.elapsed
	f.ledger.cut = true
	f.say("%s and %s are cut off", a, b)
}

// perish kills all of a region's processes; its store endures.
func (f *fleet) perish(region string) {
	if f.gone[region] {
		return
	}
	f.gone[region], f.ledger.cut = true, true
	f.regions[region].cache.Suspend()
	f.regions[region].cache.Resume()
	f.say("%s dies", region)
	for _, p := range slices.Clone(f.procs) {
		if strings.Contains(p.title, region) {
			p.stop()
			f.procs = slices.DeleteFunc(f.procs, func(q *process) bool { return q == p })
		}
	}
}

// flow lets copies arrive until none is on its way.
func (f *fleet) flow() {
	for again := true; again; {
		again = false
		for _, a := range regionNames {
			for _, b := range regionNames {
				again = a != b && f.copy(a, b) || again
			}
		}
	}
}

func (f *fleet) surroundings(s step) {
	server := fleetServers[int(s.a)%len(fleetServers)]
	switch s.do {
	case wait:
		by := pauses[int(s.a)%len(pauses)]
		f.now, f.elapsed = f.now.Add(by), f.elapsed+by
	case kill:
		f.down[server] = true
		f.say("server %s dies", server)
	case revive:
		f.down[server] = false
	case prefer:
		f.want = append(fleetServers, "")[int(s.a)%(len(fleetServers)+1)]
	case shorten:
		if site := f.regions[regionAt(s.a)]; f.without.tails && !f.ledger.tail() && len(site.store.entries[key]) > 1 {
			f.ledger.lose(site.name, site.store.loseTail(key, 1+int(s.b)%2))
			f.say("%s loses %d writes", site.name, len(f.ledger.lost))
		}
	case land, forget:
		f.regions[regionAt(s.b)].store.settle(s.do == land)
	default: // release
		for _, site := range f.regions {
			if rec := site.store.peek(key); rec != nil && rec.Epoch.Compare(site.floor) > 0 {
				site.floor = rec.Epoch
			}
		}
	}
}

// quiet ends a schedule: everything is well and has been for a while. Then there is one owner,
// or the session is ended everywhere (13, 14), and the client's highest token is good (15).
func (f *fleet) quiet() error {
	f.close()
	f.wire, f.replies, f.late = nil, nil, nil
	clear(f.cuts)
	clear(f.gone)
	clear(f.down)
	f.tabs = [2]tab{}
	f.want = ""
	if f.ledger.tail() { // a store may stand below the floor until that has been forgotten
		f.now, f.elapsed = f.now.Add(floorLife), f.elapsed+floorLife
		for _, s := range f.regions {
			s.floor = events.Epoch{}
		}
	}
	f.say("all is quiet")
	for range 6 {
		f.flow()
		f.now, f.elapsed = f.now.Add(6*time.Second), f.elapsed+6*time.Second
		for _, region := range regionNames {
			f.regions[region].store.late = nil
			if p := f.sweep(region); p != nil {
				f.finish(p)
			}
		}
	}
	f.flow()
	if err := f.ledger.check(); err != nil {
		return err
	}
	over, err := f.agreed()
	if err != nil || f.out {
		return err
	}
	f.client(step{do: calm, b: uint8(f.ops)})
	if err := f.ledger.check(); err != nil {
		return err
	}
	switch last := f.ledger.answers[len(f.ledger.answers)-1].outcome; {
	case over && last.Judgement.Verdict != sessions.Ended:
		return broken("14", "the session was revoked, the answer is %s", last.Judgement.Verdict)
	case over || f.ledger.stolen || f.ledger.revoked:
		return nil
	}
	if n := len(f.ledger.answers); n == 0 || f.newest != f.ledger.answers[n-1].outcome.Record.Current() || !f.ledger.answers[n-1].outcome.Judgement.Redeems() && f.ledger.answers[n-1].outcome.Judgement.Verdict != sessions.Replay {
		return broken("15", "the newest token %s is not good", f.newest)
	}
	return nil
}

// agreed checks that the regions agree on who owns the session, and reports whether it is over. Only
// a revocation that no region's record holds any more is no revocation. (A region that never had a
// record may still have a copy of it, by which it goes on refusing the session.) And an offer that
// its owner has lost stays prepared, and forwards, until the owner comes to an epoch above it.
func (f *fleet) agreed() (ended bool, err error) {
	states, active, over := "", 0, 0
	holders := 0
	for _, name := range regionNames {
		rec := f.regions[name].store.peek(key)
		if rec == nil {
			continue
		}
		holders++
		states += fmt.Sprintf(" %s: %s %s;", name, rec.State, rec.Current())
		switch rec.State {
		case sessions.StateActive:
			active++
		case sessions.StateRevoked:
			over++
		case sessions.StateMoved:
		case sessions.StatePrepared:
			if f.ledger.lostOffer(rec.Op) {
				continue
			}
			return false, broken("13", "not settled:%s", states)
		case sessions.StateMoving:
			return false, broken("13", "not settled:%s", states)
		}
	}
	revoked := f.ledger.revoked || f.ledger.ended
	switch {
	case over > 0 && over < holders, over == 0 && revoked && !f.ledger.lostRevoke():
		return false, broken("14", "revoked here and not there:%s", states)
	case over == 0 && active != 1:
		return false, broken("13", "%d owners:%s", active, states)
	}
	return over > 0, nil
}

func runFleet(without fleetMutant, schedule []step, told bool) (*fleet, error) {
	f := newFleet(without, told)
	defer f.close()
	for i, s := range schedule {
		f.do(s)
		if err := f.ledger.check(); err != nil {
			return f, fmt.Errorf("step %d (%s): %w", i, s, err)
		}
	}
	if err := f.quiet(); err != nil {
		return f, fmt.Errorf("when all is quiet: %w", err)
	}
	return f, nil
}

// drawFleet returns the schedule of a seed; two of three have no thief, every fourth no cut.
func drawFleet(seed uint64) []step {
	r := rand.New(rand.NewPCG(seed, 1))
	schedule := make([]step, 0, 140)
	for range cap(schedule) {
		s := step{fleetActions[r.IntN(len(fleetActions))], uint8(r.UintN(256)), uint8(r.UintN(256))}
		if s.do == present && seed%3 != 0 || seed%4 == 0 && slices.Contains([]action{sever, isolate, perish}, s.do) {
			continue
		}
		schedule = append(schedule, s)
	}
	return schedule
}

// TestFleetSeeds plays long schedules of three regions, the same in each run; in one of eight a
// store may lose its tail.
func TestFleetSeeds(t *testing.T) {
	seeds := *fleetSeeds
	verdicts, reasons, states := map[sessions.Verdict]int{}, map[string]int{}, map[string]int{}
	conflicts := 0
	for seed := range seeds {
		all := fleetMutant{tails: seed%8 == 7}
		f, err := runFleet(all, drawFleet(seed), false)
		if err != nil {
			f, _ = runFleet(all, drawFleet(seed), true)
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(f.trace, "\n"))
		}
		for _, a := range f.ledger.answers {
			verdicts[a.outcome.Judgement.Verdict]++
			reasons[a.outcome.Record.Answer.Reason]++
		}
		for _, w := range f.ledger.writes {
			if w.prev != nil {
				states[string(w.prev.State)+">"+string(w.rec.State)]++
			}
		}
		for _, y := range f.ledger.yields {
			if y.Conflict {
				conflicts++
			}
		}
	}
	t.Logf("seeds 0 to %d: %v, %v, %v, %d conflicts", seeds-1, verdicts, reasons, states, conflicts)
}

// TestFleetSchedules plays schedules of three regions that rapid draws, and shortens one that
// breaks an invariant.
func TestFleetSchedules(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(fleetActions).Draw(t, "do"), rapid.Byte().Draw(t, "a"), rapid.Byte().Draw(t, "b")}
	}), 1, 150)
	rapid.Check(t, func(t *rapid.T) {
		schedule := steps.Draw(t, "schedule")
		all := fleetMutant{tails: rapid.Bool().Draw(t, "a store may lose its tail")}
		if _, err := runFleet(all, schedule, false); err != nil {
			f, _ := runFleet(all, schedule, true)
			t.Fatalf("%v\n%s", err, strings.Join(f.trace, "\n"))
		}
	})
}
