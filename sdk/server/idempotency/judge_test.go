package idempotency_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sdk/server/idempotency"
)

// TestJudge: a request runs again only if it is known to have had no effect, it is answered only as it was, and what is
// unknown once stays so.
func TestJudge(t *testing.T) {
	began := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		word := func(label string, words ...string) string { return rapid.SampledFrom(words).Draw(t, label) }
		owner := func(label string) idempotency.Owner {
			return idempotency.Owner{
				Region: word(label, "eu", "us"), Server: word(label, "a", "b"), Member: word(label, "", "1"), Boot: word(label, "1", "2"),
			}
		}
		states := []idempotency.State{idempotency.StateBegun, idempotency.StateDone, idempotency.StateLost, idempotency.StateVoid, "of a later version", ""}
		e := idempotency.Entry{
			State: rapid.SampledFrom(states).Draw(t, "state"), Owner: owner("owner"), Fingerprint: word("entry's", "f", "g"),
			Deadline: began.Add(time.Minute),
		}
		if rapid.Bool().Draw(t, "reply") {
			e.Reply = &idempotency.Reply{Status: 200}
		}
		r := idempotency.Retry{Fingerprint: word("retry's", "f", "g"), Self: owner("self"), Gone: rapid.Bool().Draw(t, "gone")}
		now := began.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)

		v := idempotency.Judge(&e, r, now)
		same := e.Fingerprint == r.Fingerprint
		if (v == idempotency.Run) != (e.State == idempotency.StateVoid) {
			t.Errorf("%s: %s", e.State, v)
		}
		if (v == idempotency.Replay) != (same && e.State == idempotency.StateDone && e.Reply != nil) {
			t.Errorf("%s, the same %t, a reply %t: %s", e.State, same, e.Reply != nil, v)
		}
		if v == idempotency.InFlight && (!same || e.State != idempotency.StateBegun || e.Owner.Region != r.Self.Region || r.Gone || !now.Before(e.Deadline)) {
			t.Errorf("%+v, %+v at %s: %s", e, r, now, v)
		}
		later := idempotency.Judge(&e, r, now.Add(time.Hour))
		if later != v && (v != idempotency.InFlight || later != idempotency.Unknown) {
			t.Errorf("%s, and later %s", v, later)
		}
	})
}

func TestGoneByView(t *testing.T) {
	t.Parallel()
	list := []events.Server{}
	for _, s := range []struct {
		id    string
		state events.State
	}{{"down", events.StateDown}, {"drains", events.StateDraining}, {"left", events.StateLeft}, {"lives", events.StateUp}, {"suspect", events.StateSuspect}} {
		list = append(list, events.Server{Server: s.id, Region: "eu", Boot: "02", State: s.state})
	}
	view := registry.NewView(list, nil, nil, time.Now())
	gone := idempotency.GoneByView(func() *registry.View { return view })
	tests := map[idempotency.Owner]bool{
		{Region: "eu", Server: "down", Boot: "02"}:                false,
		{Region: "eu", Server: "left", Boot: "02"}:                false,
		{Region: "eu", Server: "lives", Boot: "02"}:               true,
		{Region: "eu", Server: "suspect", Boot: "02"}:             true,
		{Region: "eu", Server: "drains", Boot: "02"}:              true,
		{Region: "eu", Server: "lives", Boot: "01"}:               false, // it was started anew
		{Region: "eu", Server: "lives", Boot: "03"}:               true,  // the view does not have it yet
		{Region: "eu", Server: "lives", Boot: "01", Member: "m1"}: true,  // its boot may be another member's
		{Region: "us", Server: "down", Boot: "02"}:                true,
		{Region: "eu", Server: "unheard", Boot: "02"}:             true,
	}
	for o, lives := range tests {
		if gone(o) == lives {
			t.Errorf("%+v: gone %t", o, !lives)
		}
	}
	if idempotency.GoneByView(func() *registry.View { return nil })(idempotency.Owner{}) {
		t.Error("without a view")
	}
}
