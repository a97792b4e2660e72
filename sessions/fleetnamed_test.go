package sessions_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// A named schedule is one that was thought out for a rule, where others are drawn.
type namedSchedule struct {
	rule, name string
	steps      []step
	// want says what of its end is not as it has to be.
	want func(f *fleet) error
	// open says that not all is settled in the end: us stays prepared until the owner has a higher epoch.
	open bool
	// missing is what the rule is taken away by; nil: by nothing that a test can.
	missing *fleetMutant
}

// The regions of a fleet, as steps name them.
const (
	inAP uint8 = iota
	inEU
	inUS
)

// someTime is the step in which as much time passes.
func someTime(nth uint8) step { return step{wait, nth, 0} }

// fiveSeconds and fiveMinutes are such times, by their place among pauses.
const (
	fiveSeconds uint8 = 2
	fiveMinutes uint8 = 7
)

var namedSchedules = []namedSchedule{
	{
		rule: "V15", name: "who hears the owner passes a refresh on",
		steps: []step{{flow, 0, 0}, {sever, inEU, inUS}, someTime(fiveSeconds), someTime(fiveSeconds), {calm, 0, inUS}},
		want: func(f *fleet) error {
			if want := at(1, 2); f.newest != want || len(f.ledger.takeovers) != 0 {
				return fmt.Errorf("the client has %s, want %s by way of ap", f.newest, want)
			}
			return nil
		},
		missing: &fleetMutant{noWitness: true},
	},
	{
		rule: "V16", name: "no copy has arrived, and the token is old",
		steps: []step{{isolate, inEU, 0}, someTime(fiveMinutes), {calm, 0, inUS}},
		want: func(f *fleet) error {
			if f.newest != at(1, 1) || f.out {
				return fmt.Errorf("the client has %s, logged out %t", f.newest, f.out)
			}
			return nil
		},
		missing: &fleetMutant{anyToken: true},
	},
	{
		rule: "V16", name: "no copy has arrived, and the token is young",
		steps: []step{{isolate, inEU, 0}, someTime(fiveSeconds), {calm, 0, inUS}},
		want: func(f *fleet) error {
			if len(f.ledger.takeovers) != 1 || !f.ledger.takeovers[0].blind {
				return errors.New("V16: a young token was not enough for a takeover")
			}
			return nil
		},
		missing: &fleetMutant{noToken: true},
	},
	{
		rule: "takeover", name: "a dead region was handing over, as the third knows",
		steps: append(slices.Clone(handsOver), step{flow, 0, 0}, step{perish, inEU, 0}, someTime(fiveSeconds), step{calm, 1, inAP}, step{flow, 0, 0}, step{calm, 1, inUS}),
		want:  func(f *fleet) error { return f.took("ap", stampAt(3, "ap", 3), sessions.StateMoved) },
	},
	{
		rule: "takeover", name: "a dead region was handing over, as the third does not know",
		steps: append(slices.Clone(handsOver), step{perish, inEU, 0}, someTime(fiveSeconds), step{calm, 1, inAP}, step{flow, 0, 0}, step{calm, 1, inUS}),
		want:  func(f *fleet) error { return f.took("ap", stampAt(2, "ap", 3), sessions.StatePrepared) },
		open:  true,
	},
}

// handsOver has eu hand the session over to us and stop right before the commit; nobody gets copies of
// that.
var handsOver = append([]step{{flow, 0, 0}, {prefer, 4, 0}, {send, 0, inEU}, {accept, 0, 0}}, append(slices.Repeat([]step{{advance, 0, 0}}, 6), step{prefer, 6, 0})...)

// took says what is wrong if not one region alone has taken the session over, and the client, who
// asked us in the end, has a token of that.
func (f *fleet) took(region string, token sessions.Stamp, us sessions.State) error {
	if n := len(f.ledger.takeovers); n != 1 || f.ledger.takeovers[0].at != region || f.newest != token || f.regions["us"].store.peek(key).State != us {
		return fmt.Errorf("%d takeovers, the client has %s, us is %s; want %s and %s", n, f.newest, f.regions["us"].store.peek(key).State, token, us)
	}
	return nil
}

func stampAt(number uint64, region string, gen uint64) sessions.Stamp {
	return sessions.Stamp{Epoch: events.Epoch{Number: number, Region: region}, Gen: gen}
}

// play plays the schedule in a fleet.
func (s namedSchedule) play(without fleetMutant) error {
	f := newFleet(without, false)
	defer f.close()
	return perform(ending{f, s}, s.steps)
}

// An ending is a fleet of which a schedule wants something in the end.
type ending struct {
	*fleet
	of namedSchedule
}

// quiet implements stage.
func (e ending) quiet() error {
	if err := e.of.want(e.fleet); err != nil || e.of.open {
		return err
	}
	return e.fleet.quiet()
}

// TestNamedSchedules plays each schedule with its rule, which it does not break, and without it.
func TestNamedSchedules(t *testing.T) {
	for _, s := range namedSchedules {
		t.Run(s.rule+" "+s.name, func(t *testing.T) {
			if err := s.play(fleetMutant{}); err != nil {
				t.Errorf("with the rule: %v", err)
			}
			if s.missing == nil {
				return
			}
			err := s.play(*s.missing)
			if err == nil {
				t.Fatal("without the rule it breaks nothing")
			}
			t.Logf("%s: the schedule %q breaks %v", s.rule, s.name, err)
		})
	}
}
