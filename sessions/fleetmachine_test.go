package sessions_test

import (
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

var fleetSeeds = flag.Uint64("fleetseeds", 800, "how many schedules of a fleet TestFleetSeeds plays")

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
		f.pass(floorLife)
		for _, s := range f.regions {
			s.floor = events.Epoch{}
		}
	}
	f.say("all is quiet")
	for range 6 {
		f.flow()
		f.pass(6 * time.Second)
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
	f.calm(0, regionAt(uint8(f.ops)))
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
	return f, perform(f, schedule)
}

// check implements stage.
func (f *fleet) check() error { return f.ledger.check() }

// drawFleet returns the schedule of a seed; two of three have no thief, every fourth no cut.
func drawFleet(seed uint64) []step {
	return fleetWeights.draw(rand.New(rand.NewPCG(seed, 1)), 140, func(s step) bool {
		return s.do == present && seed%3 != 0 || seed%4 == 0 && slices.Contains([]action{sever, isolate, perish}, s.do)
	})
}

// TestFleetSeeds plays long schedules of three regions, the same in each run; in one of eight a
// store may lose its tail.
func TestFleetSeeds(t *testing.T) {
	t.Parallel()
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
	rapid.Check(t, func(t *rapid.T) {
		schedule := fleetWeights.schedules().Draw(t, "schedule")
		all := fleetMutant{tails: rapid.Bool().Draw(t, "a store may lose its tail")}
		if _, err := runFleet(all, schedule, false); err != nil {
			f, _ := runFleet(all, schedule, true)
			t.Fatalf("%v\n%s", err, strings.Join(f.trace, "\n"))
		}
	})
}
