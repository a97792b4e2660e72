package sessions_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// regionNames are the regions of a fleet, each a fallback of the others.
var regionNames = []string{"ap", "eu", "us"}

// hops is how often a refresh is passed on at most.
const hops = 2

var (
	errUnreachable = errors.New("the region does not answer")
	errHops        = errors.New("passed on too often")
)

// A fleet is several regions with one session: a client of two tabs, a thief, the regions'
// stores, the copies between them, what is cut, and the messages on their way. Like a world
// it runs one step at a time, every step chosen from outside.
type fleet struct {
	browser
	without fleetMutant
	regions map[string]*site
	ops     int
	// copied counts the copies that have arrived anywhere.
	copied int
	// running is the process that is going on, nil between two steps.
	running *process

	wire  []errand
	procs []*process
	// late are messages between regions that will arrive once more.
	late []func(ctx context.Context)
	// cuts says since when two regions do not reach each other.
	cuts map[[2]string]time.Duration
	// down says which servers are dead, gone which regions.
	down, gone map[string]bool
	want       string

	ledger *fleetLedger
}

// A site is one region of a fleet.
type site struct {
	name   string
	store  *memory
	owner  *sessions.Owner
	cache  *sessions.Cache
	copies map[string]*copied
	floor  events.Epoch
	// unsettled says that the session is to be swept here.
	unsettled bool
}

// copied is what a region has of another's record.
type copied struct {
	rec sessions.Record
	rev sessions.Revision
	// at counts the copies that had arrived anywhere when this one had.
	at int
}

// An errand is a request on its way to a region.
type errand struct {
	request
	to string
}

func newFleet(without fleetMutant, told bool) *fleet {
	f := &fleet{
		browser: browser{scene: scene{now: noon, told: told}, lastWins: without.lastWins}, without: without, regions: map[string]*site{}, cuts: map[[2]string]time.Duration{},
		down: map[string]bool{}, gone: map[string]bool{}, ledger: newFleetLedger(),
	}
	for _, name := range regionNames {
		s := &site{name: name, store: newMemory(), cache: sessions.NewCache(100), copies: map[string]*copied{}}
		s.owner = f.newOwner(s)
		s.store.wrote = func(prev *sessions.Record, rec sessions.Record) { f.wrote(s, prev, rec) }
		s.store.now = func() time.Time { return f.now }
		f.regions[name] = s
	}
	home := f.regions["eu"]
	first := sessions.Start(sessions.Record{
		Session: key.Session, Jurisdiction: key.Jurisdiction, StartedAt: noon, ExpiresAt: noon.Add(30 * 24 * time.Hour),
	}, home.name, sessions.Answer{Server: "eu-a", Region: "eu", Reason: "login"}, "login", f.now)
	first.Hash = "login"
	if err := home.owner.Create(context.Background(), first); err != nil {
		panic(err) // nothing goes wrong yet
	}
	f.newest = first.Current()
	for _, s := range f.regions {
		s.store.fault = f.pause
		s.store.end = func(ctx context.Context) { processOf(ctx).cancel() }
	}
	return f
}

func (f *fleet) newOwner(s *site) *sessions.Owner {
	o, err := sessions.NewOwner(sessions.Config{
		Region: s.name, Store: s.store, Cache: s.cache, Now: func() time.Time { return f.now }, NewOp: func() string {
			f.ops++
			return s.name + strconv.Itoa(f.ops)
		},
		Copies: arrivals{f, s}, Peers: peers{f, s},
		Wait: func(ctx context.Context, _ time.Duration) error {
			processOf(ctx).pause("waits")
			return ctx.Err()
		},
		Unsettled: func(sessions.Key) { s.unsettled = true },
		Yielded:   func(y sessions.Yield) { f.yielded(s, y) },
		Unheard: func(y sessions.Yield) {
			if f.reach(s.name, y.Before.Answer.Region) {
				f.release(y.After.Epoch, y.Before.Answer.Region)
			}
		},
	})
	if err != nil {
		panic(err) // every field is given
	}
	o.Take(f.without.rules...)
	return o
}

// close ends what still waits.
func (f *fleet) close() {
	for _, p := range f.procs {
		p.stop()
	}
	f.procs = nil
}

// arrivals are the copies that have come to a region.
type arrivals struct {
	f *fleet
	s *site
}

func (a arrivals) Copies(ctx context.Context, _ sessions.Key) ([]sessions.Copy, error) {
	if p := processOf(ctx); p != nil {
		p.seen = a.f.copied
	}
	var list []sessions.Copy
	for _, name := range regionNames {
		if c := a.s.copies[name]; c != nil && !a.f.without.noCopies && (!a.f.without.oneWay || name == "eu") {
			list = append(list, sessions.Copy{Region: name, Record: c.rec})
		}
	}
	return list, nil
}

// copy brings a region's last record to another, if they reach each other.
func (f *fleet) copy(from, to string) bool {
	if !f.reach(from, to) {
		return false
	}
	list := f.regions[from].store.entries[key]
	if len(list) == 0 {
		return false
	}
	last, had := list[len(list)-1], f.regions[to].copies[from]
	if had != nil && had.rev >= last.rev {
		return false
	}
	f.copied++
	f.regions[to].copies[from] = &copied{last.rec, last.rev, f.copied}
	if !f.without.noForgetting {
		f.regions[to].cache.Forget(key)
	}
	f.regions[to].unsettled = true
	f.say("%s has a copy of %s: %s %s", to, from, last.rec.State, last.rec.Current())
	return true
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// reach reports whether two regions reach each other.
func (f *fleet) reach(a, b string) bool {
	_, cut := f.cuts[pair(a, b)]
	return !cut && !f.gone[a] && !f.gone[b]
}

// silent reports whether a region takes another for dead: no word of it for 5 s, and no region
// that it reaches hears it (V15).
func (f *fleet) silent(at, of string) bool {
	if f.reach(at, of) || !f.without.noWitness && f.witnessed(at, of) {
		return false
	}
	since, cut := f.cuts[pair(at, of)]
	return !cut || f.elapsed-since >= 5*time.Second
}

// witnessed reports whether a region that one reaches hears another.
func (f *fleet) witnessed(at, of string) bool {
	return slices.ContainsFunc(regionNames, func(x string) bool { return x != at && x != of && f.reach(at, x) && f.reach(x, of) })
}

// peers asks other regions over a network on which messages are lost, doubled and late.
type peers struct {
	f    *fleet
	from *site
}

func (p peers) Ask(ctx context.Context, region string, q sessions.Question) (reply sessions.Reply, err error) {
	call := func(ctx context.Context) error {
		var err error
		reply, err = p.f.regions[region].owner.Answer(ctx, q, func(sessions.Record) string {
			return p.f.admit(region)
		})
		return err
	}
	return reply, p.f.call(ctx, p.from.name, region, string(q.Kind), call)
}

// admit refuses sessions where no server lives.
func (f *fleet) admit(region string) string {
	if f.server(region, "") == "" {
		return "no_server"
	}
	return ""
}

// callFaults are what a call between regions may meet besides those of a store.
const (
	lostRequest fault = "the request is lost"
	lostAnswer  fault = "the answer is lost"
	doubled     fault = "the request arrives again later"
	calleeDies  fault = "the other service dies meanwhile"
)

var callFaults = []fault{lostRequest, lostAnswer, doubled, calleeDies}

// call lets another region do something, as part of the same process.
func (f *fleet) call(ctx context.Context, from, to, what string, do func(ctx context.Context) error) error {
	p := processOf(ctx)
	fault := p.pause(from + " calls " + to + ": " + what)
	if p.crashed {
		return errCrashed
	}
	if fault == lostRequest || !f.reach(from, to) {
		return errUnreachable
	}
	inner := &process{request: p.request, yield: p.yield, inside: p, floor: p.floor}
	innerCtx, cancel := context.WithCancel(context.WithValue(ctx, processKey{}, inner))
	defer cancel()
	inner.cancel = cancel
	if fault == calleeDies {
		inner.dying = true
	}
	inner.judged = p.judged
	err := do(innerCtx)
	p.judged = inner.judged // the last who read has judged
	if fault == doubled {
		f.late = append(f.late, func(ctx context.Context) { _ = do(ctx) })
	}
	switch {
	case inner.crashed, fault == lostAnswer, !f.reach(from, to):
		return errUnreachable
	case inner.dead:
		p.dead = true
	}
	return err
}

// start begins a process.
func (f *fleet) start(p *process, run func(ctx context.Context)) {
	startProcess(p, run)
	f.procs = append(f.procs, p)
}

// pause is the stores' question what goes wrong here.
func (f *fleet) pause(ctx context.Context, rec *sessions.Record) fault {
	p := processOf(ctx)
	point := "reads"
	if rec != nil {
		point = "writes " + string(rec.State) + " " + rec.Current().String()
	}
	fault := p.pause(point)
	if slices.Contains(callFaults, fault) {
		fault = sound
	}
	if fault == crashedBefore || fault == crashedBetween {
		p.crashed = true
	}
	if rec == nil && fault != sound && !p.crashed {
		return notWritten
	}
	if rec == nil {
		p.judged = f.elapsed
	} else if rec.State == sessions.StateActive {
		f.unfolded(rec, p)
	}
	return fault
}

// unfolded notes that a region goes on with a session against a copy which had arrived there before
// the token was judged (V14).
func (f *fleet) unfolded(rec *sessions.Record, p *process) {
	for from, c := range f.regions[rec.Epoch.Region].copies {
		outranks := (c.rec.State == sessions.StateActive || c.rec.State == sessions.StateMoved) && c.rec.Epoch.Compare(rec.Epoch) > 0
		if (outranks || c.rec.State == sessions.StateRevoked) && c.at <= p.seen {
			f.ledger.unfolded = broken("V14", "%s is written, and the copy of %s was %s at %s", rec.Current(), from, c.rec.State, c.rec.Current())
		}
	}
}

// run goes on with a process to its next stop, with a fault there.
func (f *fleet) run(i int, ft fault) {
	p := f.procs[i]
	p.setFault(ft)
	f.say("%s: %s %s", p.title, p.point, ft)
	f.running = p
	point, more := p.next()
	f.running = nil
	if more {
		p.point = point
		return
	}
	f.procs = slices.Delete(f.procs, i, i+1)
	p.cancel()
	if !p.crashed && p.done != nil {
		p.done()
	}
}

// finish goes on with a process, without faults, until it ends.
func (f *fleet) finish(p *process) {
	for i := slices.Index(f.procs, p); i >= 0; i = slices.Index(f.procs, p) {
		f.run(i, sound)
	}
}

// server returns a living server of a region other than one, empty if there is none.
func (f *fleet) server(region, not string) string {
	for _, id := range []string{region + "-a", region + "-b"} {
		if id != not && !f.down[id] && !f.gone[region] {
			return id
		}
	}
	return ""
}

// wrote notes a write that a store has done.
func (f *fleet) wrote(s *site, prev *sessions.Record, rec sessions.Record) {
	w := fleetWrite{region: s.name, prev: prev, rec: rec, background: f.running != nil && f.running.background}
	if prev != nil && prev.State == sessions.StateMoving {
		w.theirs = f.regions[prev.Intent.Next.Epoch.Region].store.peek(key)
	}
	f.ledger.writes = append(f.ledger.writes, w)
	f.say("         %s: %s %s, parent %s, grace %s, dead %s, at %s, op %s", s.name, rec.State, rec.Current(), rec.Parent, rec.Grace, rec.Dead, rec.Server, rec.Op)
}

func (f *fleet) yielded(s *site, y sessions.Yield) {
	f.say("%s yields %s to %s, conflict %t", s.name, y.Before.Current(), y.After.Current(), y.Conflict)
	f.ledger.yields = append(f.ledger.yields, y)
	f.release(y.After.Epoch, y.Before.Answer.Region)
}

// release lets the servers of a region hear of a floor.
func (f *fleet) release(e events.Epoch, region string) {
	if s := f.regions[region]; s != nil && e.Compare(s.floor) > 0 {
		s.floor = e
	}
}
