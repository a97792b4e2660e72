package tokens

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
)

// TestMovesFade: what was added comes to be in the server's own reports, and is added no longer;
// between two of them all of it is.
func TestMovesFade(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	const interval = 10 * time.Second
	seen := func(at time.Time) *registry.View {
		a := events.Server{Server: "a", Region: "eu", State: events.StateUp, Capacity: 100, IntervalMS: int(interval / time.Millisecond), SeenAt: at}
		b := a
		b.Server, b.Capacity = "b", 1000
		return registry.NewView([]events.Server{a, b}, nil, new(atomic.Int64), now)
	}
	view := seen(now.Add(-time.Second))
	m := newMoves()
	for range 10 {
		m.add("a", 1, now)
		m.add("b", -1, now)
		m.add("gone", 1, now)
		m.add("", 1, now)
	}
	if diff := cmp.Diff(placement.Added{"a": 0.1, "b": -0.01}, m.added(view, now)); diff != "" {
		t.Errorf("at once (-want +got):\n%s", diff)
	}
	later := now.Add(smoothing)
	if diff := cmp.Diff(placement.Added{"a": 0.1, "b": -0.01}, m.added(view, later)); diff != "" {
		t.Errorf("without a report (-want +got):\n%s", diff)
	}
	m.add("a", 1, later)
	view = seen(later)
	want := 0.1/math.E + 0.01
	if a := m.added(view, later); len(a) != 1 || math.Abs(a["a"]-want) > 1e-9 {
		t.Errorf("after a report, and with one more, %v", a)
	}
	if a := m.added(view, later.Add(interval)); math.Abs(a["a"]-want) > 1e-9 {
		t.Errorf("before the next one %v", a)
	}
	silent := interval + viewEvery
	if a := m.added(view, later.Add(silent)); math.Abs(a["a"]-want*math.Exp(-float64(silent)/float64(smoothing))) > 1e-9 {
		t.Errorf("when a report would have come %v", a)
	}
	if a := m.added(view, later.Add(20*smoothing)); a != nil || len(m.servers) != 0 {
		t.Errorf("in the end %v, %d remembered", a, len(m.servers))
	}
	for i := range maxMoves + 10 {
		m.add(fmt.Sprint(i), 1, now)
	}
	if len(m.servers) != maxMoves {
		t.Errorf("%d remembered, at most %d", len(m.servers), maxMoves)
	}
}

// TestOutlookIsMadeOnce for each view and each state of what is known besides, and is the view itself while
// nothing is.
func TestOutlookIsMadeOnce(t *testing.T) {
	base := registry.NewView([]events.Server{
		{Server: "a", Region: "eu", State: events.StateUp, Capacity: 100, Load: events.Load{Utilisation: 0.5}},
	}, nil, new(atomic.Int64), time.Time{})
	o := new(outlook)
	if o.view(nil) != nil || o.view(base) != base {
		t.Error("nothing is known, and the view is another")
	}
	o.add(nil)
	if o.view(base) != base {
		t.Error("nothing was added, and the view is another")
	}
	o.price(placement.Prices{"eu": 12}, nil)
	o.add(placement.Added{"a": 0.25})
	v := o.view(base)
	if v != o.view(base) {
		t.Error("made twice")
	}
	if v.Prices()["eu"] != 12 || v.Added()["a"] != 0.25 || v.Regions[0].Utilisation[0] != 0.75 || base.Regions[0].Utilisation[0] != 0.5 {
		t.Errorf("prices %v, added %v, utilisation %v", v.Prices(), v.Added(), v.Regions[0].Utilisation)
	}
	o.add(nil)
	if next := o.view(base); next == v || next.Added() != nil || next.Prices()["eu"] != 12 || next.Regions[0].Utilisation[0] != 0.5 {
		t.Errorf("added %v, prices %v", next.Added(), next.Prices())
	}
}
