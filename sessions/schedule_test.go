package sessions_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// An action is one kind of step.
type action string

const (
	calm    action = "a tab refreshes and nothing goes wrong"
	send    action = "a tab sends"
	accept  action = "a service accepts a request"
	double  action = "a service accepts a request that arrives again later"
	lose    action = "a request is lost"
	advance action = "a service goes on"
	finish  action = "a service goes on to the end"
	fail    action = "a service goes on and something goes wrong"
	receive action = "a reply arrives"
	drop    action = "a reply is lost"
	giveUp  action = "a tab stops waiting"
	wait    action = "time passes"
	setBack action = "the clock is set back"
	kill    action = "a server dies"
	revive  action = "a server returns"
	prefer  action = "placement prefers a server"
	claim   action = "a tab begins or ends a critical task"
	steal   action = "the thief copies the storage"
	present action = "the thief presents a token"
	logout  action = "the user logs out"
	land    action = "a late write lands"
	forget  action = "a late write is lost"
	release action = "the servers hear of released locks"
	forgo   action = "the store loses its tail"
)

// A step is an action and which of the possible ones is meant.
type step struct {
	do   action
	a, b uint8
}

func (s step) String() string { return fmt.Sprintf("%s %d %d", s.do, s.a, s.b) }

// pauses are how long time passes at once.
var pauses = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 9 * time.Second, 19 * time.Second, 28 * time.Second, 31 * time.Second, 5 * time.Minute,
}

// pick returns one of n by a choice, false if there is none.
func pick(n int, choice uint8) (int, bool) {
	if n == 0 {
		return 0, false
	}
	return int(choice) % n, true
}

// odds says how often each action is drawn.
type odds []struct {
	do    action
	times int
}

// list lists each action as often as it is to be drawn.
func (o odds) list() (list []action) {
	for _, w := range o {
		list = append(list, slices.Repeat([]action{w.do}, w.times)...)
	}
	return list
}

// draw returns a schedule of n steps, less those that are left out.
func (o odds) draw(r *rand.Rand, n int, out func(s step) bool) []step {
	list, schedule := o.list(), make([]step, 0, n)
	for range n {
		if s := (step{list[r.IntN(len(list))], uint8(r.UintN(256)), uint8(r.UintN(256))}); !out(s) {
			schedule = append(schedule, s)
		}
	}
	return schedule
}

// schedules has rapid draw a schedule, and shorten it.
func (o odds) schedules() *rapid.Generator[[]step] {
	list := o.list()
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(list).Draw(t, "do"), rapid.Byte().Draw(t, "a"), rapid.Byte().Draw(t, "b")}
	}), 1, 150)
}

// A stage is where schedules are played: a region or a fleet of them.
type stage interface {
	// do takes a step; one that is not possible now does nothing.
	do(s step)
	// check returns the first invariant that what happened since the last call breaks.
	check() error
	// quiet ends a schedule: all is well for a while, and what has to be so then is.
	quiet() error
}

// perform plays a schedule and returns the first invariant that it breaks, and where.
func perform(on stage, schedule []step) error {
	for i, s := range schedule {
		on.do(s)
		if err := on.check(); err != nil {
			return fmt.Errorf("step %d (%s): %w", i, s, err)
		}
	}
	if err := on.quiet(); err != nil {
		return fmt.Errorf("when all is quiet: %w", err)
	}
	return nil
}
