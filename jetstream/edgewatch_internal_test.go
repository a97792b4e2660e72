package jetstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// glance is one look at a strand: after the one before, what the origin and the own stream say, and what follows.
type glance struct {
	after  time.Duration
	origin originState
	source natsjs.StreamSourceInfo
	want   strandState
	kick   bool
}

// working and silent are what the own stream says of a source; seq is what it has stored.
func working(seq uint64) natsjs.StreamSourceInfo {
	return natsjs.StreamSourceInfo{Seq: seq, Active: 100 * time.Millisecond}
}

func silent(seq uint64) natsjs.StreamSourceInfo {
	return natsjs.StreamSourceInfo{Seq: seq, Active: time.Minute}
}

func at(last uint64) originState { return originState{last: last} }

func TestStrandSight(t *testing.T) {
	cut, half := originState{err: errors.New("no answer")}, lookEvery
	tests := map[string][]glance{
		"start with everything":            {{0, at(7), working(7), strandCaughtUp, false}},
		"start of a region without a word": {{0, at(0), working(0), strandCaughtUp, false}},
		"start with something missing": {
			{0, at(7), working(3), strandBehind, false},
			{half, at(9), working(6), strandBehind, false},
			{half, at(12), working(8), strandCaughtUp, false}, // what was written since then is not waited for
		},
		"start without the other region": {
			{0, cut, silent(3), strandUnknown, false},
			{2 * time.Second, cut, silent(3), strandUnknown, false},
			{time.Second, cut, silent(3), strandUnseen, false},
		},
		"start beside one that is being set up": {{0, originState{err: errNoSessions}, silent(0), strandUnseen, false}},
		"a short silence": {
			{0, at(7), working(7), strandCaughtUp, false},
			{2 * time.Second, cut, silent(7), strandCaughtUp, false},
			{half, at(9), working(7), strandCaughtUp, false},
		},
		"a cut": {
			{0, at(7), working(7), strandCaughtUp, false},
			{time.Second, cut, silent(7), strandCaughtUp, false},
			{2 * time.Second, cut, silent(7), strandUnseen, false},
			{time.Minute, at(50), silent(7), strandBehind, false},
			{half, at(51), silent(7), strandBehind, true},
			{half, at(52), working(50), strandCaughtUp, false},
		},
		"this process was away": {
			{0, at(7), working(7), strandCaughtUp, false},
			{10 * time.Second, at(50), working(7), strandBehind, false},
			{half, at(51), working(51), strandCaughtUp, false},
		},
		"the last message is of another jurisdiction, and nobody writes beats": {
			{0, at(7), working(5), strandBehind, false},
			{2 * time.Second, at(7), working(5), strandBehind, false},
			{time.Second, at(7), working(5), strandCaughtUp, false},
		},
		"a source that does not work is not steady": {
			{0, at(7), working(5), strandBehind, false},
			{2 * time.Second, at(7), silent(5), strandBehind, false},
			{2 * time.Second, at(7), working(5), strandBehind, false},
			{2 * time.Second, at(7), working(6), strandBehind, false},
			{2 * time.Second, at(7), natsjs.StreamSourceInfo{Seq: 6, Lag: 1}, strandBehind, false},
		},
	}
	for name, glances := range tests {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
			is := &strandSight{answered: now, pause: firstKick}
			for i, g := range glances {
				now = now.Add(g.after)
				is.see(g.origin, &g.source, now)
				if kick := is.quiet(g.origin, &g.source, now); is.state != g.want || kick != g.kick {
					t.Fatalf("look %d: state %d, set up again %t, want %d, %t", i, is.state, kick, g.want, g.kick)
				}
			}
		})
	}
}

// TestSilentSourcesAreSetUpAgain: soon, then ever more seldom, and soon again once it has worked.
func TestSilentSourcesAreSetUpAgain(t *testing.T) {
	begin := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	is := &strandSight{answered: begin, pause: firstKick}
	var kicks []time.Duration
	look := func(from, to time.Duration, source natsjs.StreamSourceInfo) {
		for after := from; after < to; after += lookEvery {
			if is.quiet(at(1), &source, begin.Add(after)) {
				kicks = append(kicks, after)
			}
		}
	}
	look(0, 3*time.Minute, silent(0))
	look(3*time.Minute, 3*time.Minute+time.Second, working(0))
	look(4*time.Minute, 4*time.Minute+2*time.Second, silent(0))
	want := "[500ms 4.5s 12.5s 28.5s 1m0.5s 2m0.5s 4m0.5s]"
	if got := fmt.Sprint(kicks); got != want {
		t.Errorf("set up again at %s, want %s", got, want)
	}
}
