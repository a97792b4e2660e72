package placement_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

func names(v *placement.View, regions []int) []string {
	list := []string{}
	for _, i := range regions {
		list = append(list, v.Regions[i].Name)
	}
	return list
}

func TestNewViewSumsUpTheUsable(t *testing.T) {
	v := placement.NewView([]placement.Server{
		{ID: "r2-a", Region: "r2", State: events.StateUp, Capacity: 10, Utilisation: 0.7},
		{ID: "r1-d", Region: "r1", State: events.StateDraining, Capacity: 100, Utilisation: 0.1},
		{ID: "r1-b", Region: "r1", State: events.StateUp, Capacity: 300, Utilisation: 0.2},
		{ID: "r1-a", Region: "r1", State: events.StateUp, Capacity: 100, Utilisation: 0.6},
		{ID: "r1-c", Region: "r1", State: events.StateSuspect, Capacity: 100, Utilisation: 0.9},
		{ID: "r1-e", Region: "r1", State: events.StateDown, Capacity: 100, Utilisation: 0.9},
		{ID: "r1-f", Region: "r1", State: events.StateUp, Capacity: 0, Utilisation: 0.9},
		{ID: "r1-g", Region: "r1", State: events.StateLeft, Capacity: 100},
		{ID: "", Region: "r3", State: events.StateUp, Capacity: 1},
		{ID: "x", Region: "", State: events.StateUp, Capacity: 1},
	})
	want := []placement.Region{
		{
			Name: "r1", Role: events.RoleActive, Weight: events.FullWeight, ID: []string{"r1-a", "r1-b", "r1-c", "r1-d", "r1-e", "r1-f", "r1-g"},
			State: []events.State{
				events.StateUp, events.StateUp, events.StateSuspect, events.StateDraining, events.StateDown,
				events.StateUp, events.StateLeft,
			},
			Capacity:    []float64{100, 300, 100, 100, 100, 0, 100},
			Utilisation: []float64{0.6, 0.2, 0.9, 0.1, 0.9, 0.9, 0},
			Usable:      2, Alive: 5, Mean: 0.3, Room: 400,
		},
		{
			Name: "r2", Role: events.RoleActive, Weight: events.FullWeight, ID: []string{"r2-a"}, State: []events.State{events.StateUp},
			Capacity: []float64{10}, Utilisation: []float64{0.7}, Usable: 1, Alive: 1, Mean: 0.7, Room: 10,
		},
	}
	if diff := cmp.Diff(want, v.Regions, cmpopts.IgnoreUnexported(placement.Region{}), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Errorf("regions (-want +got):\n%s", diff)
	}
	at, ok := v.Find("r1-d")
	if !ok || v.ServerID(at) != "r1-d" || v.RegionName(at) != "r1" || v.State(at) != events.StateDraining {
		t.Errorf("found r1-d at %v, %v", at, ok)
	}
	for _, id := range []string{"", "x", "r1-z"} {
		if at, ok := v.Find(id); ok {
			t.Errorf("found %q at %v", id, at)
		}
	}
	if i, ok := v.Region("r2"); !ok || i != 1 {
		t.Errorf("region r2 is %d, %v", i, ok)
	}
	if i, ok := v.Region("r3"); ok {
		t.Errorf("region r3, which has no servers, is %d", i)
	}
}

// TestNewViewIsIndifferentToOrder shuffles servers, some of them with one id, and expects
// the same view to the last bit.
func TestNewViewIsIndifferentToOrder(t *testing.T) {
	servers := fleet(5)
	servers = append(servers, []placement.Server{
		{ID: servers[3].ID, Region: servers[3].Region, State: events.StateDown},
		{ID: servers[3].ID, Region: servers[3].Region, State: events.StateUp, Capacity: 3, Utilisation: 0.9},
		{ID: servers[3].ID, Region: "us-west-2", State: events.StateUp, Capacity: 7},
		{ID: "only-once", Region: "zz-north-1", State: events.StateUp, Capacity: 7, DrainingSince: noon},
		{ID: "only-once", Region: "zz-north-1", State: events.StateUp, Capacity: 7, DrainingSince: noon.Add(time.Second)},
	}...)
	want := placement.NewView(servers)
	if _, ok := want.Region("zz-north-1"); !ok || len(want.Regions) != len(cities)+1 {
		t.Fatalf("%d regions", len(want.Regions))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		shuffled := slices.Clone(servers)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		before := slices.Clone(shuffled)
		got := placement.NewView(shuffled)
		if diff := cmp.Diff(want, got, cmp.Exporter(placement.Everything)); diff != "" {
			t.Fatalf("view differs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(before, shuffled); diff != "" {
			t.Fatalf("NewView changed its input:\n%s", diff)
		}
	}
}

// TestNewViewBoundsItsNumbers: whatever a server says of itself, the sums stay numbers and a
// server can be picked.
func TestNewViewBoundsItsNumbers(t *testing.T) {
	wild := []float64{math.NaN(), math.Inf(1), math.Inf(-1), -3, math.MaxFloat64, 5e-324, 0}
	for _, capacity := range wild {
		for _, u := range wild {
			v := placement.NewView([]placement.Server{
				{ID: "r-a", Region: "r", State: events.StateUp, Capacity: capacity, Utilisation: u, Location: events.Location{Lat: capacity, Lon: u}},
				{ID: "r-b", Region: "r", State: events.StateUp, Capacity: 10, Utilisation: 0.5},
			})
			if mean := v.Regions[0].Mean; !(mean >= 0) || math.IsInf(mean, 0) {
				t.Errorf("capacity %v, utilisation %v: mean %v", capacity, u, mean)
			}
			for _, x := range []float64{0, 0.5, 0.999999} {
				if at, ok := v.Pick(0, x); !ok || (at.Server == 0 && !(capacity > 0)) {
					t.Errorf("capacity %v, utilisation %v: picked %v, %v", capacity, u, at, ok)
				}
			}
		}
	}
}

func TestClosestAndFallbacks(t *testing.T) {
	servers := fleet(1)
	for i := range servers {
		if servers[i].Region == "eu-west-2" {
			servers[i].State = events.StateSuspect // no new sessions there
		}
	}
	servers = append(servers, placement.Server{ID: "aa-a", Region: "aa", State: events.StateUp, Capacity: 1}) // nobody knows where
	v := placement.NewView(servers)

	dublin := events.Location{Lat: 53.3, Lon: -6.3}
	if diff := cmp.Diff([]string{"eu-west-1", "eu-central-1", "eu-north-1"}, names(&v, v.Closest(dublin, 3))); diff != "" {
		t.Errorf("closest to Dublin (-want +got):\n%s", diff)
	}
	all := v.Closest(dublin, 100)
	if got := names(&v, all); len(got) != 12 || got[len(got)-1] != "aa" || slices.Contains(got, "eu-west-2") {
		t.Errorf("closest to Dublin: %v", got)
	}
	for _, n := range []int{0, -1} {
		if got := v.Closest(dublin, n); len(got) != 0 {
			t.Errorf("%d closest: %v", n, got)
		}
	}
	if got := names(&v, v.Closest(events.Location{Lat: 99}, 2)); !slices.Equal(got, []string{"aa", "ap-northeast-1"}) {
		t.Errorf("closest to nowhere: %v", got)
	}
	if got := names(&v, v.Fallbacks("ap-southeast-1"))[:3]; !slices.Equal(got, []string{"ap-south-1", "ap-northeast-1", "ap-southeast-2"}) {
		t.Errorf("fallbacks of Singapore: %v", got)
	}
	// A region stands in for others though it takes no sessions itself.
	if got := names(&v, v.Fallbacks("eu-west-2"))[:2]; !slices.Equal(got, []string{"eu-west-1", "eu-central-1"}) {
		t.Errorf("fallbacks of London: %v", got)
	}
	if got := v.Fallbacks("nowhere"); len(got) != 12 {
		t.Errorf("fallbacks of an unknown region: %v", got)
	}

	var none placement.View
	if len(none.Closest(dublin, 3)) != 0 || len(none.Fallbacks("eu-west-1")) != 0 {
		t.Error("the zero View has regions")
	}
}

// TestPickFollowsNeed: new sessions go where there is room below the mean + 5 points, in
// proportion to capacity; where nobody has any, to the lowest.
func TestPickFollowsNeed(t *testing.T) {
	v := placement.NewView([]placement.Server{
		{ID: "r-a", Region: "r", State: events.StateUp, Capacity: 300, Utilisation: 0.5},
		{ID: "r-b", Region: "r", State: events.StateUp, Capacity: 100, Utilisation: 0.5},
		{ID: "r-c", Region: "r", State: events.StateDraining, Capacity: 900, Utilisation: 0},
		{ID: "s-a", Region: "s", State: events.StateDown, Capacity: 100},
	})
	const n = 40_000
	count := make([]int, 3)
	for i := range n {
		at, ok := v.Pick(0, placement.Draw("s", uint64(i)))
		if !ok {
			t.Fatal("nothing picked")
		}
		count[at.Server]++
	}
	if math.Abs(float64(count[0])-0.75*n) > 0.01*n || count[2] != 0 {
		t.Errorf("picked %v of %d, want three in four and one in four", count, n)
	}
	if at, ok := v.Pick(1, 0.5); ok {
		t.Errorf("picked %v of a region that is down", at)
	}
}
