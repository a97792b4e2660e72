package sim_test

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/sim"
)

// TestShippedScenariosAreSound: each can be read, is called as its file, and its regions are
// within reach of the cities.
func TestShippedScenariosAreSound(t *testing.T) {
	p, err := sim.Cities()
	if err != nil {
		t.Fatal(err)
	}
	names := sim.Names()
	if len(names) != 7 {
		t.Errorf("scenarios %v", names)
	}
	for _, name := range names {
		s, err := sim.Shipped(name)
		if err != nil || s.Name != name || s.About == "" {
			t.Errorf("%s: %+v, %v", name, s, err)
			continue
		}
		if _, err := (sim.Run{Scenario: s, Places: p}).Bound(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFaultsOfAScenarioAreNamed: with the line, where it is one of the file.
func TestFaultsOfAScenarioAreNamed(t *testing.T) {
	const sound = "name: x\nregions:\n  - {name: us-east-1, servers: 2}\n"
	if _, err := sim.Parse([]byte(sound)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ text, want string }{
		{sound + "clinets: 5\n", "line 4"},
		{sound + "clients: many\n", "line 4"},
		{sound + "clients: 0\n", "clients 0: want 1 to 1000000"},
		{sound + "refresh: 1ms\n", "refresh 1ms"},
		{sound + "sizes: [1, -1]\n", "sizes"},
		{"name: x\n", "regions: want at least one"},
		{sound + "events:\n  - {at: 5m, for: 1m}\n", "event 1: want one of burst, lose, slow, drain, delay"},
		{sound + "events:\n  - {at: 5m, for: 200h, lose: us-east-1}\n", "event 1: for 200h0m0s: want more than 0, at most 168h0m0s"},
		{sound + "events:\n  - {at: 5m, for: 1m, burst: 0.1, over: 2m}\n", "event 1: over 2m0s: want 0s to 1m0s"},
		{sound + "events:\n  - {at: 5m, for: 1m, drain: us-east-1, deadline: 10ms}\n", "event 1: deadline 10ms: want 1s or more"},
		{sound + "events:\n  - {at: 5m, for: 2m, drain: us-east-1, deadline: 2m}\n", "deadline 2m0s: want 1s or more, and one before the drain ends, after 2m0s"},
		{sound + "events:\n  - {at: 50m, for: 20m, drain: us-east-1, deadline: 12m}\n", "deadline 12m0s: want 1s or more, and one before the drain ends, after 10m0s"},
		{sound + "events:\n  - {at: 5m, for: 1m, drain: us-east-1}\n", "event 1: deadline 0s"},
		{sound + "events:\n  - {at: 5m, for: 1m, burst: 6}\n  - {at: 9m, for: 1m, burst: 6}\n", "event 2: bursts of 12 with those before: want at most 10 together"},
		{sound + "events:\n  - {at: 5m, for: 1m, lose: eu-west-1}\n", "event 1: lose eu-west-1: no such region"},
		{sound + "events:\n  - {at: 5m, for: 1m, slow: us-east-1-002, factor: 0.5}\n", "event 1: slow us-east-1-002: no such server"},
		{sound + "expect: {spread: {speed: 3}}\n", "expect spread: no figure is called speed: want one of imbalance, steady_over, moves, burst_over,"},
		{sound + "expect: {spraed: {moves: 3}}\n", "expect spraed: no policy is called so: want one of bound, literal, lowest-load, p2c, spread, spread+levels, spread+prices"},
		{sound + "expect: {spread: {moves: .inf}}\n", "expect spread: moves +Inf: want 0 or more"},
	} {
		_, err := sim.Parse([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q, of:\n%s", err, test.want, test.text)
		}
	}
}

// FuzzParse: no file makes it panic, and what is read can be laid out, with places near each of
// its regions, and run. Large fleets are not, only to save time.
func FuzzParse(f *testing.F) {
	for _, name := range sim.Names() {
		text, err := os.ReadFile("scenarios/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("name: x\nregions:\n  - {name: us-east-1, servers: 2}\n"))
	f.Add([]byte("regions: [{name: a, servers: 1, share: 1e-300}, {name: b, servers: 3, share: 9e8}]\nevents: [{at: 1m, for: 99h, burst: .5, over: 98h, in: a}]"))
	f.Add([]byte("regions: [{name: a, servers: 9}]\nevents: [{for: 2s, drain: a-008, deadline: 1s}, {at: 1m, for: 1m, lose: a}, {at: 1m, for: 1m, slow: a-000, factor: 0.001}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := sim.Parse(data)
		if err != nil {
			return
		}
		servers, p := 0, &sim.Places{}
		for i, r := range s.Regions {
			servers += r.Servers
			times := map[string]float64{r.Name: 1, s.Regions[0].Name: float64(2 * min(i, 1))}
			p.Names, p.Weight, p.RTT = append(p.Names, r.Name), append(p.Weight, 1), append(p.RTT, times)
		}
		if servers > 500 || s.TokenServices > 10 {
			return
		}
		s.Clients = min(s.Clients, 50)
		run := sim.Run{Scenario: s, Places: p, Policy: placement.Policies()[len(data)%6]}
		report, err := run.Bound(t.Context())
		checkFinite(t, report, err)
		if servers <= 20 && s.TokenServices <= 3 && s.Duration <= time.Hour && s.Duration/s.Refresh <= 60 {
			report, err = run.Do(t.Context())
			checkFinite(t, report, err)
		}
	})
}

// checkFinite fails if a run did, or if a figure is none.
func checkFinite(t *testing.T, r sim.Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range r.Figures {
		if !(x >= 0) || math.IsInf(x, 0) {
			t.Errorf("%s: %s is %v", r.Policy, name, x)
		}
	}
}

// TestReadRTT reads matrices, and names the line of what is none.
func TestReadRTT(t *testing.T) {
	p, err := sim.ReadRTT(strings.NewReader("from,weight,a,b\nhere,3,1.5,\nthere,,7,9\n"))
	if err != nil || p.RTT[0]["a"] != 1.5 || len(p.RTT[0]) != 1 || p.Weight[0] != 3 || p.Weight[1] != 1 {
		t.Errorf("places %+v, %v", p, err)
	}
	for text, want := range map[string]string{
		"":                    "EOF",
		"from,a\n":            "want a line for each place",
		"from,a\nhere,fast\n": "line 2: here to a",
		"from,a\nhere,-1\n":   "line 2: here to a",
		"from,a\nhere,1,2\n":  "line 2",
	} {
		if _, err := sim.ReadRTT(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q, of %q", err, want, text)
		}
	}
}

// TestCitiesAreNearTheirRegions: the way that times are put together keeps who is close to whom.
func TestCitiesAreNearTheirRegions(t *testing.T) {
	p, err := sim.Cities()
	if err != nil {
		t.Fatal(err)
	}
	closest := map[string]string{}
	for i, name := range p.Names {
		best := ""
		for region, ms := range p.RTT[i] {
			if best == "" || ms < p.RTT[i][best] {
				best = region
			}
		}
		closest[name] = best
	}
	for city, region := range map[string]string{
		"New York": "us-east-1", "Tokyo": "ap-northeast-1", "London": "eu-west-2", "Frankfurt": "eu-central-1",
		"Mumbai": "ap-south-1", "Sydney": "ap-southeast-2", "Sao Paulo": "sa-east-1", "Singapore": "ap-southeast-1",
	} {
		if closest[city] != region {
			t.Errorf("%s is closest to %s, want %s", city, closest[city], region)
		}
	}
}
