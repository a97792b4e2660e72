package sessions_test

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

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
var fleetWeights = odds{
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

// fleetFaults are what a stop of a process may meet: a store's access or a call.
var fleetFaults = slices.Concat(writeFaults, callFaults)

var fleetServers = []string{"ap-a", "ap-b", "eu-a", "eu-b", "us-a", "us-b"}

func regionAt(choice uint8) string { return regionNames[int(choice)%len(regionNames)] }

// do takes a step. One that is not possible now does nothing.
func (f *fleet) do(s step) {
	switch s.do {
	case calm:
		f.calm(int(s.a)%len(f.tabs), regionAt(s.b))
	case send, receive, drop, giveUp, claim, steal, present:
		f.act(s, func(r request) {
			f.wire = append(f.wire, errand{r, regionAt(s.b)})
			f.say("request %d goes to %s", r.id, regionAt(s.b))
		})
	case accept, double, lose, advance, finish, fail, logout, sweep, late:
		f.service(s)
	case deliver, flow, sever, heal, isolate, perish, rise:
		f.network(s)
	default:
		f.surroundings(s)
	}
}

// calm has a tab refresh at a region while nothing goes wrong.
func (f *fleet) calm(tab int, at string) {
	r, ok := f.send(tab)
	if !ok {
		return
	}
	if p := f.accept(errand{r, at}, f.regions[at].floor); p != nil {
		f.finish(p)
		f.receiveLast()
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
	f.regions[region].store.contact = time.Time{} // a service that has just begun has had none
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
		f.pass(pauses[int(s.a)%len(pauses)])
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
