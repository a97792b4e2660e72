package sessions_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
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

// TestHeirIsWhereItMayBe: of those regions alone that a session may be in one goes on with it, and all agree which.
func TestHeirIsWhereItMayBe(t *testing.T) {
	regions := []string{"a", "b", "c", "d"}
	leases := map[string]*sessions.Lease{}
	for _, own := range regions {
		leases[own] = sessions.NewLease(own, slices.DeleteFunc(slices.Clone(regions), func(r string) bool { return r == own }), time.Minute)
	}
	began := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	now := began
	for ; now.Sub(began) < 10*time.Minute; now = now.Add(time.Second) {
		lost := max(0, now.Sub(began)-5*time.Minute).Milliseconds() // for so long nobody has heard d
		for _, from := range regions {
			u := events.ViewHead{Region: from, At: now, Sees: map[string]int64{}}
			for _, other := range regions {
				if u.Sees[other] = 0; other == "d" {
					u.Sees[other] = lost
				}
			}
			for _, to := range regions {
				if lost == 0 || (from == "d") == (to == "d") {
					leases[to].Hear(u, now)
				}
			}
		}
		for _, lease := range leases {
			_ = lease.Answers(now, true) // it has to be asked once a second
		}
	}
	heirs := map[string]int{}
	for i := range 64 {
		session := fmt.Sprintf("session-%d", i)
		for _, among := range [][]string{nil, {"b", "c", "d"}, {"b"}} {
			var first string
			for _, own := range regions[:3] {
				fault, heir := leases[own].TakesOver("d", session, now, true, among...)
				if first == "" {
					first = heir
				}
				if (fault == sessions.LeaseHeld) != (heir == own) || heir != first || heir == "" || among != nil && !slices.Contains(among, heir) {
					t.Fatalf("%s says %q, %q of %s among %v; another says %q", own, fault, heir, session, among, first)
				}
			}
			heirs[fmt.Sprint(among, first)]++
		}
	}
	if len(heirs) != 3+2+1 {
		t.Errorf("drawn: %v", heirs)
	}
}
