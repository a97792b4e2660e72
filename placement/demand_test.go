package placement_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

var (
	nearDublin   = events.Location{Lat: 53.3, Lon: -6.3}
	nearVirginia = events.Location{Lat: 38.9, Lon: -77.4}
)

// twoRegions is a view of two regions with a server each.
func twoRegions(dublin, virginia float64) placement.View {
	return placement.NewView([]placement.Server{
		{ID: "eu-a", Region: "eu", State: events.StateUp, Capacity: 1000, Utilisation: dublin, Location: nearDublin},
		{ID: "us-a", Region: "us", State: events.StateUp, Capacity: 3000, Utilisation: virginia, Location: nearVirginia},
	})
}

// TestOrigin: what a client measured goes before its word, that before its place, that before where
// its request arrived.
func TestOrigin(t *testing.T) {
	v := twoRegions(0.5, 0.5)
	for name, c := range map[string]struct {
		r    placement.Request
		want string
	}{
		"nothing is known":      {placement.Request{Arrived: "atlantis", ClosestServer: "atlantis-a"}, ""},
		"arrived":               {placement.Request{Arrived: "eu"}, "eu"},
		"place":                 {placement.Request{Arrived: "eu", Location: &nearVirginia}, "us"},
		"place on no globe":     {placement.Request{Arrived: "eu", Location: &events.Location{Lat: math.NaN()}}, "eu"},
		"word":                  {placement.Request{Arrived: "us", Location: &nearVirginia, ClosestServer: "eu-a"}, "eu"},
		"measured":              {placement.Request{ClosestServer: "eu-a", RTT: []placement.RTT{{"eu-a", 90}, {"us-a", 20}}}, "us"},
		"measured to strangers": {placement.Request{ClosestServer: "eu-a", RTT: []placement.RTT{{"x", 1}, {"us-a", -1}}}, "eu"},
	} {
		if got := v.Origin(&c.r); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestMarketOfAFullRegion: eu is asked for more than it can take, in the measure of the load; its
// price is such that those who are nearer to us go there, and none is paid while there is room.
func TestMarketOfAFullRegion(t *testing.T) {
	v := twoRegions(1.2, 0.2)
	d := placement.Demand{"eu": 500, "us": 250} // of 1 800 in the measure of the servers' load
	m := v.Market(d, func(from, to string) (float64, bool) { return 70, from == "eu" && to == "us" })
	want := placement.Market{
		Origins: []placement.Origin{
			{Sessions: 1200, RTT: map[string]float64{"eu": 15.77, "us": 85.77}},
			{Sessions: 600, RTT: map[string]float64{"us": 15.77, "eu": m.Origins[1].RTT["eu"]}},
		},
		Capacity: map[string]float64{"eu": 850, "us": 2550},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Fatalf("market (-want +got):\n%s", diff)
	}
	if estimate := m.Origins[1].RTT["eu"]; estimate < 90 || estimate > 120 {
		t.Errorf("%v ms from us to eu, which nobody has measured", estimate)
	}
	if p := m.Solve(); p["eu"] < 64 || p["eu"] > 76 || p["us"] != 0 {
		t.Errorf("prices %v, want some 70 ms in eu", p)
	}
	calm := twoRegions(0.6, 0.2)
	if p := calm.Market(d, nil).Solve(); len(p) != 0 {
		t.Errorf("prices %v where there is room", p)
	}
}

// TestMarketBearsTheLoad: whatever the demand says, the sessions of a market are as many as the
// servers' load, and nobody is sent to a region that takes none.
func TestMarketBearsTheLoad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := draw(t)
		v := placement.NewView(s.servers, s.settings...)
		d := placement.Demand{"unknown": 5}
		for i := range v.Regions {
			d[v.Regions[i].Name] = choice(t, "demand", 0.0, 10, 1e6, math.NaN(), math.Inf(1), -4)
		}
		m := v.Market(d, nil)
		load, sessions := 0.0, 0.0
		for i := range v.Regions {
			load += v.Regions[i].Mean * v.Regions[i].Room
		}
		for _, o := range m.Origins {
			sessions += o.Sessions
		}
		if math.Abs(load-sessions) > 1e-6*(1+load) {
			t.Fatalf("%v sessions for a load of %v", sessions, load)
		}
		for i := range v.Regions {
			r := &v.Regions[i]
			if c, ok := m.Capacity[r.Name]; ok && (r.Usable == 0 || r.Role == events.RoleStandby || r.Weight == 0 || c > 2*r.Room*(1+r.Mean+100)) {
				t.Fatalf("%s takes %v", r.Name, c)
			}
		}
		for name, p := range m.Solve() {
			if !(p > 0) || math.IsInf(p, 0) {
				t.Fatalf("price of %s: %v", name, p)
			}
		}
	})
}

func TestReserve(t *testing.T) {
	v := twoRegions(0.5, 0.4) // 500 and 1 200
	if share, largest := v.Reserve(); largest != "us" || share != 1.7 {
		t.Errorf("%v without %s", share, largest)
	}
	one := placement.NewView([]placement.Server{{ID: "a", Region: "eu", State: events.StateUp, Capacity: 10, Utilisation: 0.1}})
	if share, _ := one.Reserve(); !math.IsInf(share, 1) {
		t.Errorf("one region alone: %v", share)
	}
	var none placement.View
	if share, largest := none.Reserve(); share != 0 || largest != "" {
		t.Errorf("none: %v without %q", share, largest)
	}
}
