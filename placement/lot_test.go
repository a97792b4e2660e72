package placement_test

import (
	"fmt"
	"testing"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// TestLotIsFrozen holds the lot to the draw, which is frozen.
func TestLotIsFrozen(t *testing.T) {
	for _, session := range []string{"", "s1", "01jd7q2m5ehx8c3v9k4t6w0ynr"} {
		for _, region := range []string{"", "eu-west-1", "us-east-1"} {
			if got, want := placement.Lot(session, region), placement.Draw(session+"\x00"+region, 0); got != want {
				t.Errorf("Lot(%q, %q) = %.17g, want %.17g", session, region, got, want)
			}
		}
	}
}

// TestAWeightOnlyGrowsWhatItTakes raises a region's weight step by step: its share of the
// logins near it follows, whoever came at a lower weight comes at a higher one, and whoever is
// there stays at every weight, where they are or inside the region.
func TestAWeightOnlyGrowsWhatItTakes(t *testing.T) {
	const sessions = 4000
	at := cities[7].at // eu-west-1
	came := map[string]bool{}
	for _, weight := range []int{0, 1, 10, 50, 90, 99, 100} {
		v := set("eu-west-1", "", weight)
		taken := 0
		for i := range sessions {
			r := placement.Request{Session: fmt.Sprint("s", i), Location: &at}
			d := placement.Decide(r, &v, placement.Policy{}, noon)
			if d.Region == "eu-west-1" {
				taken++
				came[r.Session] = true
			} else if came[r.Session] {
				t.Fatalf("weight %d: session %s, taken before, goes to %s", weight, r.Session, d.Region)
			}
			r.Server, r.Generation = "eu-west-1-a", 1
			if d := placement.Decide(r, &v, placement.Policy{}, noon); d.Region != "eu-west-1" {
				t.Fatalf("weight %d: session %s leaves for %s: %+v", weight, r.Session, d.Region, d)
			}
		}
		if share := 100 * taken / sessions; share < weight-2 || share > weight+2 {
			t.Errorf("weight %d: %d %% of the logins taken", weight, share)
		}
	}
}

// TestSettingsCostNoMemory: like every decision, those that ask for weights allocate nothing.
func TestSettingsCostNoMemory(t *testing.T) {
	var settings []placement.Setting
	for i, city := range cities {
		settings = append(settings, placement.Setting{Region: city.region, Role: []events.Role{"", events.RoleStandby}[i%2], Weight: 10 * i})
	}
	v := placement.NewView(fleet(3), settings...)
	at := cities[7].at
	for _, r := range []placement.Request{
		{Session: "01jd7q2m5ehx8c3v9k4t6w0ynr", Location: &at},
		{Session: "01jd7q2m5ehx8c3v9k4t6w0ynr", Location: &at, Server: "us-east-1-001"},
		{Session: "01jd7q2m5ehx8c3v9k4t6w0ynr", ClosestServer: "eu-west-1-001", Server: "us-east-1-001"},
	} {
		if n := testing.AllocsPerRun(100, func() { r.Generation++; placement.Decide(r, &v, placement.Policy{}, noon) }); n > 0 {
			t.Errorf("%v allocations for %+v", n, r)
		}
	}
}

// TestFallbacksHonourSettings: regions that take sessions stand in first.
func TestFallbacksHonourSettings(t *testing.T) {
	name := func(v *placement.View, list []int) (names []string) {
		for _, i := range list {
			names = append(names, v.Regions[i].Name)
		}
		return names
	}
	for _, test := range []struct {
		view placement.View
		want string
	}{
		{world(), "[us-east-1 ap-southeast-1] [eu-west-1 us-east-1 ap-southeast-1]"},
		{set("us-east-1", events.RoleStandby, 100), "[ap-southeast-1 us-east-1] [eu-west-1 ap-southeast-1 us-east-1]"},
		{set("us-east-1", "", 0), "[ap-southeast-1 us-east-1] [eu-west-1 ap-southeast-1 us-east-1]"},
		{set("us-east-1", "", 1), "[us-east-1 ap-southeast-1] [eu-west-1 us-east-1 ap-southeast-1]"},
	} {
		got := fmt.Sprint(name(&test.view, test.view.Fallbacks("eu-west-1")), name(&test.view, test.view.Closest(cities[7].at, 3)))
		if got != test.want {
			t.Errorf("fallbacks and closest %s, want %s", got, test.want)
		}
	}
}
