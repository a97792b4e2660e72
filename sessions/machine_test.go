package sessions_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// weights says how often each action is drawn.
var weights = odds{
	{calm, 10},
	{send, 12},
	{accept, 12},
	{double, 4},
	{lose, 2},
	{advance, 14},
	{finish, 12},
	{fail, 8},
	{receive, 9},
	{drop, 5},
	{giveUp, 6},
	{wait, 10},
	{setBack, 1},
	{kill, 4},
	{revive, 4},
	{prefer, 3},
	{claim, 3},
	{steal, 2},
	{present, 4},
	{logout, 1},
	{land, 3},
	{forget, 1},
	{release, 4},
	{forgo, 3},
}

// maxBack is how far the clock is set back in all: with the client's patience less than a
// window, for a deadline is a time of day.
const maxBack = 8 * time.Second

// floorLife is how long a server remembers a floor: an access token's life, and 60 s and the clocks'
// skew more.
const floorLife = 4 * time.Minute

// do takes a step. One that is not possible now does nothing.
func (w *world) do(s step) {
	switch s.do {
	case calm:
		if r, ok := w.send(int(s.a) % len(w.tabs)); ok {
			w.accept(r, int(s.b)%services, w.floor)
			w.finish(len(w.procs) - 1)
			w.receiveLast()
		}
	case send, receive, drop, giveUp, claim, steal, present:
		w.act(s, func(r request) { w.wire = append(w.wire, r) })
	case accept, double, lose, advance, finish, fail, logout:
		w.service(s)
	default:
		w.surroundings(s)
	}
}

// service takes the steps of the token services.
func (w *world) service(s step) {
	switch s.do {
	case accept, double, lose:
		k, ok := pick(len(w.wire), s.a)
		if !ok {
			return
		}
		r := w.wire[k]
		if s.do != double {
			w.wire = slices.Delete(w.wire, k, k+1)
		}
		if s.do != lose {
			var floor events.Epoch
			if s.b%2 == 0 {
				floor = w.floor
			}
			w.accept(r, int(s.b/2)%services, floor)
		}
	case logout:
		if s.b%4 == 0 {
			p := &process{logout: true, owner: int(s.a) % services}
			w.start(p, func(ctx context.Context) {
				_, _, p.err = w.owners[p.owner].Revoke(ctx, key, rebuilt(w.newest))
			})
		}
	default: // advance, finish, fail
		k, ok := pick(len(w.procs), s.a)
		switch {
		case !ok:
		case s.do == finish:
			w.finish(k)
		case s.do == fail:
			w.run(k, writeFaults[int(s.b)%len(writeFaults)])
		default:
			w.run(k, sound)
		}
	}
}

// finish goes on with a process, without faults, until it ends.
func (w *world) finish(k int) {
	p := w.procs[k]
	for k < len(w.procs) && w.procs[k] == p {
		w.run(k, sound)
	}
}

// surroundings takes the steps of time, servers, placement and the store.
func (w *world) surroundings(s step) {
	server := serverIDs[int(s.a)%len(serverIDs)]
	switch s.do {
	case wait:
		w.pass(pauses[int(s.a)%len(pauses)])
	case setBack:
		if by := time.Duration(1+s.a%4) * time.Second; w.ledger.back+by <= maxBack {
			w.now, w.ledger.back = w.now.Add(-by), w.ledger.back+by
			w.say("the clock is set back by %s", by)
		}
	case kill:
		w.down[server] = true
		w.say("server %s dies", server)
	case revive:
		w.down[server] = false
		w.say("server %s returns", server)
	case prefer:
		w.want = append(serverIDs, "")[int(s.a)%(len(serverIDs)+1)]
	case land, forget:
		w.store.settle(s.do == land)
	case release:
		if rec := w.store.peek(key); rec.Epoch.Compare(w.floor) > 0 {
			w.floor = rec.Epoch
			w.say("the floor is %v", w.floor)
		}
	default: // forgo
		if w.without.tails && !w.ledger.tail() {
			w.ledger.lose(w.store.loseTail(key, 1+int(s.a)%2))
			w.say("the store loses %d writes", len(w.ledger.lost))
		}
	}
}

// quiet ends a schedule: all is well again, nothing is on its way, and the client presents
// the highest token that it has stored. It is accepted (15), unless a thief was there or the
// session was ended, in which case it is refused for good (14).
func (w *world) quiet() error {
	w.close()
	w.procs, w.wire, w.store.late, w.replies = nil, nil, nil, nil
	clear(w.down)
	w.tabs = [2]tab{}
	if w.out {
		return nil
	}
	if w.ledger.tail() { // the store may stand below the floor until that has been forgotten
		w.pass(floorLife)
		w.floor = events.Epoch{}
	}
	w.say("all is quiet")
	w.do(step{do: calm})
	if err := CheckInvariants(w.ledger); err != nil {
		return err
	}
	last := w.ledger.answers[len(w.ledger.answers)-1].outcome
	rec := w.store.peek(key)
	switch {
	case w.ledger.revoked && !w.ledger.lostRevoke() && (last.Judgement.Redeems() || rec.State != sessions.StateRevoked):
		return broken("14", "the session was revoked, the answer is %s, the record %s", last.Judgement.Verdict, rec.State)
	case !w.ledger.revoked && !w.ledger.stolen && (rec.State != sessions.StateActive || w.newest != last.Record.Current()):
		return broken("15", "the newest token %s was answered with %s", w.newest, last.Judgement.Verdict)
	}
	return nil
}

// play runs a schedule and returns the first invariant that it breaks.
func play(without mutant, schedule []step) error {
	_, err := run(without, schedule, false)
	return err
}

// tell runs a schedule again and returns what happened.
func tell(without mutant, schedule []step) string {
	w, _ := run(without, schedule, true)
	return strings.Join(w.trace, "\n")
}

func run(without mutant, schedule []step, told bool) (*world, error) {
	w := newWorld(without, told)
	defer w.close()
	return w, perform(w, schedule)
}

// check implements stage.
func (w *world) check() error { return CheckInvariants(w.ledger) }

// TestSchedules plays schedules of one region that rapid draws, and shortens one that breaks
// an invariant. Its seed is printed with it.
func TestSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		schedule := weights.schedules().Draw(t, "schedule")
		if rapid.Bool().Draw(t, "no thief") {
			schedule = slices.DeleteFunc(schedule, func(s step) bool { return s.do == present })
		}
		all := mutant{tails: rapid.Bool().Draw(t, "the store may lose its tail")}
		if err := play(all, schedule); err != nil {
			t.Fatalf("%v\n%s", err, tell(all, schedule))
		}
	})
}

// draw returns the schedule of a seed; every second has no thief.
func draw(seed uint64) []step {
	return weights.draw(rand.New(rand.NewPCG(seed, 0)), 120, func(s step) bool { return s.do == present && seed%2 == 0 })
}

// TestSeeds plays long schedules, the same in each run, and makes sure that they come to
// every verdict. In one of eight the store may lose its tail.
func TestSeeds(t *testing.T) {
	t.Parallel()
	const seeds = 500
	verdicts := map[sessions.Verdict]int{}
	for seed := range uint64(seeds) {
		all := mutant{tails: seed%8 == 7}
		w, err := run(all, draw(seed), false)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, tell(all, draw(seed)))
		}
		for _, a := range w.ledger.answers {
			verdicts[a.outcome.Judgement.Verdict]++
		}
	}
	t.Logf("seeds 0 to %d: %v", seeds-1, verdicts)
	for _, v := range []sessions.Verdict{sessions.Rotate, sessions.Replay, sessions.Supersede, sessions.Superseded, sessions.Reused, sessions.Ended} {
		if verdicts[v] == 0 {
			t.Errorf("no schedule came to %s", v)
		}
	}
}
