package sessions_test

import (
	"errors"
	"fmt"
	"testing"
)

// A named schedule is one that was thought out for a rule, where others are drawn.
type namedSchedule struct {
	rule, name string
	steps      []step
	// want says what of its end is not as it has to be.
	want func(f *fleet) error
	// missing is what the rule is taken away by.
	missing fleetMutant
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
		missing: fleetMutant{noWitness: true},
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
		missing: fleetMutant{anyToken: true},
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
		missing: fleetMutant{noToken: true},
	},
}

// play plays the schedule in a fleet.
func (s namedSchedule) play(without fleetMutant) error {
	f := newFleet(without, false)
	defer f.close()
	for i, step := range s.steps {
		f.do(step)
		if err := f.ledger.check(); err != nil {
			return fmt.Errorf("step %d (%s): %w", i, step, err)
		}
	}
	if err := s.want(f); err != nil {
		return fmt.Errorf("after the last step: %w", err)
	}
	return f.quiet()
}

// TestNamedSchedules plays each schedule with its rule, which it does not break, and without it.
func TestNamedSchedules(t *testing.T) {
	for _, s := range namedSchedules {
		t.Run(s.rule+" "+s.name, func(t *testing.T) {
			if err := s.play(fleetMutant{}); err != nil {
				t.Errorf("with the rule: %v", err)
			}
			err := s.play(s.missing)
			if err == nil {
				t.Fatal("without the rule it breaks nothing")
			}
			t.Logf("%s: the schedule %q breaks %v", s.rule, s.name, err)
		})
	}
}
