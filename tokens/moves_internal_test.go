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

// TestMovesFade: what was added comes to be in the server's own report, and is added no longer.
func TestMovesFade(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	view := registry.NewView([]events.Server{
		{Server: "a", Region: "eu", State: events.StateUp, Capacity: 100},
		{Server: "b", Region: "eu", State: events.StateUp, Capacity: 1000},
	}, nil, new(atomic.Int64), now)
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
	later := now.Add(reported)
	if a := m.added(view, later); len(a) != 1 || math.Abs(a["a"]-0.1/math.E) > 1e-9 {
		t.Errorf("after %s %v", reported, a)
	}
	m.add("a", 1, later)
	if a := m.added(view, later); math.Abs(a["a"]-0.1/math.E-0.01) > 1e-9 {
		t.Errorf("and one more %v", a)
	}
	if a := m.added(view, now.Add(20*reported)); a != nil || len(m.servers) != 0 {
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
