package sessions_test

import (
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

// TestLease goes through one cut of one region, and says when what becomes possible.
func TestLease(t *testing.T) {
	for _, test := range []struct {
		name    string
		regions int
		cut     func(w *leaseWorld)
		// There, in the region that owns the session, and here, in another one.
		there []string
		other string
		here  []string
	}{
		{
			name: "of a pair, one takes over", regions: 2, cut: func(w *leaseWorld) { w.isolate("a", true) },
			there: []string{"answered", "lease_lost", "lease_uncopied"},
			other: "b", here: []string{"lease_owner", "taken over", "answered"},
		},
		{
			name: "a link that goes one way", regions: 2, cut: func(w *leaseWorld) { w.cut("a", "b", true) },
			there: []string{"answered", "lease_lost", "lease_owner"},
			other: "b", here: []string{"lease_owner", "taken over", "answered"},
		},
		{
			name: "of three, the one that the session falls to takes over", regions: 3, cut: func(w *leaseWorld) { w.isolate("a", true) },
			there: []string{"answered", "lease_lost", "lease_owner"},
			other: "c", here: []string{"lease_owner", "taken over", "answered"},
		},
		{
			name: "of three, a majority goes on", regions: 3, cut: func(w *leaseWorld) { w.cut("a", "b", true); w.cut("b", "a", true) },
			there: []string{"answered"}, other: "b", here: []string{"lease_owner"},
		},
		{
			name: "of four, nobody has half of them", regions: 4,
			cut: func(w *leaseWorld) {
				for _, near := range []string{"a", "b"} {
					for _, far := range []string{"c", "d"} {
						w.cut(near, far, true)
						w.cut(far, near, true)
					}
				}
			},
			there: []string{"answered", "lease_lost"}, other: "c", here: []string{"lease_owner", "lease_lost"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newLeaseWorld(leaseMutant{}, make([]time.Duration, test.regions)...)
			w.pass(60, "a")
			test.cut(w)
			seen := map[string][]string{}
			note := func(region, got string) {
				if l := seen[region]; len(l) == 0 || l[len(l)-1] != got {
					seen[region] = append(l, got)
				}
			}
			for range 600 {
				w.second()
				note("a", w.refresh("a", w.newest(), 0))
				note(test.other, w.refresh(test.other, w.newest(), 0))
			}
			if w.fault != "" {
				t.Error(w.fault)
			}
			if !slices.Equal(seen["a"], test.there) || !slices.Equal(seen[test.other], test.here) {
				t.Errorf("a is %v, %s is %v", seen["a"], test.other, seen[test.other])
			}
		})
	}
}

// TestLeaseTimes: after a cut the owner answers on for the lease's life, then nobody does until what it
// gave out is no longer accepted, and after the heal it learns first what has been taken over.
func TestLeaseTimes(t *testing.T) {
	w := newLeaseWorld(leaseMutant{}, 0, 0)
	w.pass(60, "a")
	w.isolate("a", true)
	became, at := w.pass(120, "a")
	if !slices.Equal(became, []string{"answered", "lease_lost"}) || at[1]-60*time.Second > sessions.LeaseLife {
		t.Errorf("the owner: %v at %v", became, at)
	}
	became, at = w.pass(120, "b")
	want := 60*time.Second + sessions.LeaseLife + leaseAccepted + sessions.LeaseSkew
	if !slices.Equal(became, []string{"lease_owner", "taken over", "answered"}) || at[1] < want-time.Second || at[1] > want+2*time.Second {
		t.Errorf("the other one: %v at %v, want %v", became, at, want)
	}
	w.isolate("a", false)
	if became, _ = w.pass(60, "a"); !slices.Contains(became, "answered") || w.regions["a"].record.State != sessions.StateMoved {
		t.Errorf("after the heal: %v, %s", became, w.regions["a"].record.State)
	}
	if w.fault != "" {
		t.Error(w.fault)
	}
}
