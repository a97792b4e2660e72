package sessions_test

import (
	"testing"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// TestForks has one region yield to another, and tells a fork from a session that has only been
// taken over to and fro.
func TestForks(t *testing.T) {
	stamp := func(number uint64, region string, gen uint64) sessions.Stamp {
		return sessions.Stamp{Epoch: events.Epoch{Number: number, Region: region}, Gen: gen}
	}
	record := func(at, abandoned sessions.Stamp, taken ...sessions.Stamp) sessions.Record {
		return sessions.Record{
			Version: sessions.RecordVersion, Session: "s", Jurisdiction: "global", State: sessions.StateActive,
			Epoch: at.Epoch, Gen: at.Gen, Taken: taken, Abandoned: abandoned,
		}
	}
	var none sessions.Stamp
	for name, c := range map[string]struct {
		own, winner sessions.Record
		fork        bool
	}{
		"taken after the last token": {record(stamp(1, "b", 5), none), record(stamp(2, "a", 6), none, stamp(1, "b", 5)), false},
		"gone on after that":         {record(stamp(1, "b", 7), none), record(stamp(2, "a", 6), none, stamp(1, "b", 5)), true},
		"both took it from a third":  {record(stamp(2, "b", 6), none, stamp(1, "c", 5)), record(stamp(2, "c2", 6), none, stamp(1, "c", 5)), true},
		// a, cut off, moved the session inside itself while b took it from there.
		"the winner never knew that it was taken": {record(stamp(2, "b", 10), none, stamp(1, "a", 6)), record(stamp(3, "a", 19), none), true},
		// b lost it to a, took it back, and a took it again; then c went on by a's token, knowing b's line by its copy.
		"to and fro": {
			record(stamp(4, "b", 22), none, stamp(2, "b", 13), stamp(3, "a", 20)),
			record(stamp(6, "c", 24), stamp(4, "b", 22), stamp(2, "b", 13), stamp(5, "a", 23)), false,
		},
		"the winner was handed it while it was taken": {record(stamp(2, "b", 9), none, stamp(1, "a", 8)), record(stamp(2, "c", 9), none), true},
		"nobody ever took it":                         {record(stamp(1, "b", 5), none), record(stamp(2, "a", 7), none), false},
		"a taker that others took it from": {
			record(stamp(4, "b", 20), none, stamp(2, "a", 9), stamp(3, "c", 18)),
			record(stamp(6, "a", 29), stamp(4, "b", 20), stamp(2, "a", 9), stamp(5, "c", 22)), false,
		},
		"to and fro, and then beside each other": {
			record(stamp(4, "b", 22), none, stamp(2, "b", 13), stamp(3, "a", 20)),
			record(stamp(4, "c", 21), none, stamp(2, "b", 13), stamp(3, "a", 20)), true,
		},
	} {
		f := sessions.Fold(&c.own, "b", []sessions.Copy{{Region: c.winner.Epoch.Region, Record: c.winner}}, func() string { return "op" })
		if f.Yielded == nil || f.Conflict != c.fork {
			t.Errorf("%s: yields %t, conflict %t, want %t", name, f.Yielded != nil, f.Conflict, c.fork)
		}
	}
}
