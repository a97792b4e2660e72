package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// downReason is why a session leaves a dead server.
const downReason = "server_down"

// services is how many token services share the store.
const services = 3

var (
	key       = sessions.Key{Jurisdiction: "global", Session: "s"}
	serverIDs = []string{"a", "b", "c"}

	errNoServer    = errors.New("no healthy server")
	errUnconfirmed = errors.New("server unconfirmed")
)

// A mutant is the region with one rule missing; the zero mutant misses none.
type mutant struct {
	rule, name string
	// first is the seed from which schedules are tried: few break a rule that is rarely needed.
	first uint64
	judge func(rec *sessions.Record, t sessions.Stamp, region string, now time.Time) sessions.Judgement
	fold  func(own *sessions.Record, region string, copies []sessions.Copy, op func() string) sessions.Folding
	// noDeadline and noFloor keep both from the owner; noClaims swallows a write that only
	// records a claim; stay answers with the old server where a move is due.
	noDeadline, noFloor, noClaims, stay bool
	// tails says that the rule shows only where the store loses writes.
	tails bool
}

// A world is one region with one session: token services on one store, regional servers, a
// client of two tabs that share their storage, a thief, and the messages between them. It
// runs one step at a time, and every step is chosen from outside, so that a schedule is data
// and runs again the same.
type world struct {
	browser
	without mutant

	store  *memory
	owners []*sessions.Owner
	ops    int
	down   map[string]bool
	want   string       // the server that placement would have the session on
	floor  events.Epoch // of the released locks that the servers have heard of

	wire  []request
	procs []*process
	// ended says that a logout was acknowledged.
	ended bool

	notes  map[string]note // by the write's op
	ledger *ledger
}

// A note is what a service knew when it asked for a write.
type note struct {
	judged, made time.Duration
	judgedAt     time.Time
	seen         int // writes before the read
}

// A process is one request inside one token service. It stops before each access to the
// world and goes on when it is told to, with the fault that it is told.
type process struct {
	request request
	logout  bool
	owner   int
	next    func() (string, bool)
	stop    func()
	yield   func(string) bool
	point   string
	fault   fault
	crashed bool
	cancel  context.CancelFunc
	// inside is the process that this one is a call of; dying says that it ends at its next stop.
	inside *process
	dying  bool
	// title names it in the trace, done is called when it has ended, unless it crashed.
	title string
	done  func()
	// background says that no client waits for it.
	background bool

	note
	late    bool // began after an acknowledged logout
	floor   events.Epoch
	dead    bool
	outcome sessions.Outcome
	err     error
}

type processKey struct{}

func newWorld(without mutant, told bool) *world {
	w := &world{browser: browser{scene: scene{now: noon, told: told}}, without: without, store: newMemory(), down: map[string]bool{}, notes: map[string]note{}, ledger: newLedger()}
	w.store.wrote = w.wrote
	w.store.now = func() time.Time { return w.now }
	for range services {
		w.owners = append(w.owners, newOwner(w.store, func() time.Time { return w.now }, func() string {
			w.ops++
			return strconv.Itoa(w.ops)
		}))
		if without.judge != nil {
			w.owners[len(w.owners)-1].Take(sessions.Judging(without.judge))
		}
		if without.fold != nil {
			w.owners[len(w.owners)-1].Take(sessions.FoldingBy(without.fold))
		}
	}
	first := sessions.Start(sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction, ExpiresAt: noon.Add(30 * 24 * time.Hour)}, region,
		sessions.Answer{Server: "a", Reason: "login"}, "login", w.now)
	first.Hash = "login"
	if err := w.owners[0].Create(context.Background(), first); err != nil {
		panic(err) // nothing goes wrong yet
	}
	w.newest = first.Current()
	w.store.fault = w.pause
	w.store.end = func(ctx context.Context) { processOf(ctx).cancel() }
	return w
}

func newOwner(store sessions.Store, now func() time.Time, op func() string) *sessions.Owner {
	o, err := sessions.NewOwner(sessions.Config{Region: region, Store: store, Cache: sessions.NewCache(100), Now: now, NewOp: op})
	if err != nil {
		panic(err) // every field is given
	}
	return o
}

func processOf(ctx context.Context) *process {
	p, _ := ctx.Value(processKey{}).(*process)
	return p
}

// close ends what still waits.
func (w *world) close() {
	for _, p := range w.procs {
		p.stop()
	}
}

// start begins a process, which stops before its first access.
func (w *world) start(p *process, run func(ctx context.Context)) {
	p.late = w.ended
	startProcess(p, run)
	w.procs = append(w.procs, p)
}

// startProcess lets a process go on to its first stop.
func startProcess(p *process, run func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), processKey{}, p))
	p.cancel = cancel
	next, stop := iter.Pull(iter.Seq[string](func(yield func(string) bool) {
		p.yield = yield
		run(ctx)
	}))
	p.next = next
	p.stop = func() { stop(); cancel() }
	p.point, _ = next()
}

// setFault says what goes wrong at the stop of a process, or of the call in which it is.
func (p *process) setFault(f fault) { p.fault = f }

// pause is the store's and the decider's question what goes wrong here.
func (w *world) pause(ctx context.Context, rec *sessions.Record) fault {
	p := processOf(ctx)
	point := "reads"
	if rec != nil {
		point = "writes"
	}
	f := p.pause(point)
	if f == crashedBefore || f == crashedBetween {
		p.crashed = true
	}
	if rec == nil {
		p.judged, p.judgedAt, p.seen = w.elapsed, w.now, len(w.ledger.writes)
		if f != sound && f != crashedBefore && f != crashedBetween {
			f = notWritten
		}
		return f
	}
	w.notes[rec.Op] = p.note
	if held := w.store.peek(key); w.without.noClaims && f == sound && held != nil && held.Hash == rec.Hash && rec.State == held.State {
		return swallowed
	}
	return f
}

// pause stops the process at a point until it is told how to go on.
func (p *process) pause(point string) fault {
	if p.crashed {
		return crashedBefore
	}
	outer := p
	for outer.inside != nil {
		outer = outer.inside
	}
	outer.fault = sound
	if !p.yield(point) || p.dying {
		p.crashed = true
		return crashedBefore
	}
	return outer.fault
}

// wrote notes a write that the store has done.
func (w *world) wrote(prev *sessions.Record, rec sessions.Record) {
	n := w.notes[rec.Op]
	w.ledger.writes = append(w.ledger.writes, write{prev: prev, rec: rec, judged: n.judged, made: n.made, judgedAt: n.judgedAt})
	w.say("         written: %s %s, parent %s, grace %s, dead %s, at %s", rec.State, rec.Current(), rec.Parent, rec.Grace, rec.Dead, rec.Server)
}

// run goes on with a process to its next stop, with a fault there.
func (w *world) run(i int, f fault) {
	p := w.procs[i]
	p.fault = f
	if w.told {
		w.say("service %d, %s: %s %s", p.owner, p.name(), p.point, f)
	}
	point, more := p.next()
	if more {
		p.point = point
		return
	}
	w.procs = slices.Delete(w.procs, i, i+1)
	p.cancel()
	if !p.crashed {
		w.finished(p)
	}
}

func (p *process) name() string {
	switch {
	case p.logout:
		return "logout"
	case p.request.from == thief:
		return fmt.Sprintf("thief's request %d with %s", p.request.id, p.request.token)
	default:
		return fmt.Sprintf("request %d with %s", p.request.id, p.request.token)
	}
}

// finished notes what a process came to and sends its reply.
func (w *world) finished(p *process) {
	if p.logout {
		w.say("logout: %v", p.err)
		w.ended = w.ended || p.err == nil
		return
	}
	if w.told {
		w.say("%s: %s, %s, %v", p.name(), p.outcome.Judgement.Verdict, p.outcome.Record.Current(), p.err)
	}
	if p.err == nil {
		w.ledger.answers = append(w.ledger.answers, answer{
			honest: p.request.from != thief, token: p.request.token, critical: p.request.critical, floor: p.floor,
			outcome: p.outcome, current: w.store.peek(key), dead: p.dead, judged: p.judged, left: w.elapsed, seen: p.seen, late: p.late,
			now: w.now, contact: w.store.contact,
		})
	}
	w.replies = append(w.replies, reply{p.request, p.outcome, p.err})
}

// accept begins a request at a service, passed on by a server that knows the floor or not.
func (w *world) accept(r request, owner int, floor events.Epoch) {
	p := &process{request: r, owner: owner, floor: floor}
	ask := sessions.Request{Key: key, Token: r.token, Critical: r.critical, Deadline: r.deadline, Floor: floor, Rebuilt: func() sessions.Record { return rebuilt(r.token) }}
	if w.without.noDeadline {
		ask.Deadline = time.Time{}
	}
	if w.without.noFloor {
		ask.Floor = events.Epoch{}
	}
	if r.from == thief && !r.deadline.Before(w.now) {
		w.ledger.stolen = true
	}
	ask.Held = w.owners[owner].Known(key, r.token)
	w.start(p, func(ctx context.Context) {
		p.outcome, p.err = w.owners[owner].Refresh(ctx, ask, decider{w, p})
	})
}

// rebuilt is what a token's claims say of its session.
func rebuilt(t sessions.Stamp) sessions.Record {
	return sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction, Epoch: t.Epoch, Gen: t.Gen, ExpiresAt: noon.Add(30 * 24 * time.Hour)}
}

// decider is the rest of a token service, for one request.
type decider struct {
	w *world
	p *process
}

var _ sessions.Decider = decider{}

// Dead implements sessions.Decider by the true state of the server.
func (d decider) Dead(_ context.Context, rec sessions.Record) (bool, error) {
	if d.p.pause("probes") != sound {
		return false, errUnconfirmed
	}
	d.p.dead = d.w.down[rec.Server]
	return d.p.dead, nil
}

// Answer implements sessions.Decider: away from a dead server, to the wanted one if nothing
// critical is in progress.
func (d decider) Answer(_ context.Context, rec sessions.Record, j sessions.Judgement) (sessions.Answer, error) {
	due := j.Lost || d.p.dead || j.Verdict == sessions.Supersede && j.Fresh
	a := sessions.Answer{Decision: "stay", Reason: "already_best", Server: rec.Server, IssuedAt: d.w.now}
	switch {
	case due && d.w.without.stay:
	case due:
		a.Decision, a.Reason, a.Server = "move", downReason, ""
		for _, s := range serverIDs {
			if s != rec.Server && !d.w.down[s] {
				a.Server = s
			}
		}
		if a.Server == "" {
			return sessions.Answer{}, errNoServer
		}
	case d.w.want != "" && d.w.want != rec.Server && !d.w.down[d.w.want] && rec.CriticalSince.IsZero():
		a.Decision, a.Reason, a.Server = "move", "rebalance", d.w.want
	}
	return a, nil
}

// Stay implements sessions.Stayer.
func (d decider) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

// Sign implements sessions.Decider: the hash tells two tokens of one place apart.
func (d decider) Sign(rec *sessions.Record) error {
	d.p.made = d.w.elapsed
	rec.Hash = sessions.HashToken(rec.Current().String() + " " + rec.Op)
	return nil
}
