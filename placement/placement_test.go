package placement_test

import (
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// servers is three regions of two servers each, equally loaded but for eu-west-1-b.
func servers(change ...func(*placement.Server)) []placement.Server {
	var list []placement.Server
	for _, city := range cities {
		if !slices.Contains([]string{"us-east-1", "eu-west-1", "ap-southeast-1"}, city.region) {
			continue
		}
		for _, letter := range []string{"a", "b"} {
			s := placement.Server{
				ID: city.region + "-" + letter, Region: city.region, State: events.StateUp,
				Capacity: 1000, Utilisation: 0.5, Location: city.at,
			}
			for _, c := range change {
				c(&s)
			}
			list = append(list, s)
		}
	}
	return list
}

// world returns the view of servers().
func world(change ...func(*placement.Server)) placement.View {
	return placement.NewView(servers(change...))
}

// set returns the view of servers() with a setting of one region.
func set(region string, role events.Role, weight int, change ...func(*placement.Server)) placement.View {
	return placement.NewView(servers(change...), placement.Setting{Region: region, Role: role, Weight: weight})
}

// drained returns a change of a server that drains for so long still.
func drained(id string, left time.Duration) func(*placement.Server) {
	return func(s *placement.Server) {
		if s.ID == id {
			s.State, s.DrainingSince, s.DrainUntil = events.StateDraining, noon.Add(-time.Minute), noon.Add(left)
		}
	}
}

// state returns a change of the servers with the ids.
func state(to events.State, ids ...string) func(*placement.Server) {
	return func(s *placement.Server) {
		if slices.Contains(ids, s.ID) {
			s.State = to
		}
	}
}

func rtt(pairs ...any) []placement.RTT {
	var list []placement.RTT
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, placement.RTT{ServerID: pairs[i].(string), MS: pairs[i+1].(float64)})
	}
	return list
}

// TestDecide has a case for each rule and for what borders on it. The scripts in
// testdata/decide tell longer stories.
func TestDecide(t *testing.T) {
	const (
		here, beside = "eu-west-1-a", "eu-west-1-b"
		stay, move   = placement.VerdictStay, placement.VerdictMove
	)
	london := &events.Location{Lat: 51.5, Lon: -0.1}
	sydney := &events.Location{Lat: -33.9, Lon: 151.2}
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	tests := []struct {
		name    string
		view    placement.View
		request placement.Request
		policy  placement.Policy
		verdict placement.Verdict
		reason  placement.Reason
		// region is that of the decision's server, "" for none.
		region string
	}{
		{"login by location", world(), placement.Request{Location: sydney}, placement.Policy{}, move, placement.ReasonLogin, "ap-southeast-1"},
		{"login by measured times", world(), placement.Request{Location: sydney, RTT: rtt("us-east-1-b", 3.0)}, placement.Policy{}, move, placement.ReasonLogin, "us-east-1"},
		{"login by its own word", world(), placement.Request{Location: sydney, ClosestServer: "eu-west-1-b"}, placement.Policy{}, move, placement.ReasonLogin, "eu-west-1"},
		{"login by arrival", world(), placement.Request{Arrived: "us-east-1"}, placement.Policy{}, move, placement.ReasonLogin, "us-east-1"},
		{"login by arrival where nothing is usable", world(state(events.StateSuspect, "us-east-1-a", "us-east-1-b")), placement.Request{Arrived: "us-east-1"}, placement.Policy{}, move, placement.ReasonLogin, "eu-west-1"},
		{"login from nowhere: by name", world(), placement.Request{Location: &events.Location{Lat: 200}}, placement.Policy{}, move, placement.ReasonLogin, "ap-southeast-1"},
		{"login inside the allowed regions", world(), placement.Request{Location: sydney, Allowed: []string{"nowhere", "us-east-1"}}, placement.Policy{}, move, placement.ReasonLogin, "us-east-1"},
		{"login with none allowed", world(), placement.Request{Allowed: []string{}}, placement.Policy{}, stay, placement.ReasonNoCandidate, ""},
		{"login to nothing", placement.View{}, placement.Request{}, placement.Policy{}, stay, placement.ReasonNoCandidate, ""},
		{"login within the bound", world(), placement.Request{Location: london}, placement.Policy{MaxRTTMs: 50}, move, placement.ReasonLogin, "eu-west-1"},
		{"a bound says nothing of a region of arrival", world(state(events.StateDown, "us-east-1-a", "us-east-1-b")), placement.Request{Arrived: "us-east-1"}, placement.Policy{MaxRTTMs: 50}, move, placement.ReasonLogin, "eu-west-1"},

		{"nothing to do", world(), placement.Request{Server: here}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"closest server unknown", world(), placement.Request{Server: here, ClosestServer: "eu-west-9-x"}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"arrival alone moves nobody", world(), placement.Request{Server: here, Arrived: "us-east-1"}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},

		{"down", world(state(events.StateDown, here)), placement.Request{Server: here, Critical: true}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"left", world(state(events.StateLeft, here)), placement.Request{Server: here}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"in a state of the future", world(state("dancing", here)), placement.Request{Server: here}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"found dead", world(), placement.Request{Server: here, Dead: true, MovedAt: noon}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"found dead while draining", world(state(events.StateDraining, here)), placement.Request{Server: here, Dead: true}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"dead counts before out of reach", world(), placement.Request{Server: here, Dead: true, Unreachable: true}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"unknown server", world(), placement.Request{Server: "mars-1-a", Arrived: "us-east-1", Unreachable: true}, placement.Policy{}, move, placement.ReasonServerDown, "us-east-1"},
		{"region down", world(state(events.StateDown, here, beside)), placement.Request{Server: here}, placement.Policy{}, move, placement.ReasonRegionDown, "us-east-1"},
		{"region down with this one", world(state(events.StateDown, beside)), placement.Request{Server: here, Dead: true}, placement.Policy{}, move, placement.ReasonRegionDown, "us-east-1"},
		{"region not down: one suspect", world(state(events.StateDown, here), state(events.StateSuspect, beside)), placement.Request{Server: here}, placement.Policy{}, move, placement.ReasonServerDown, "us-east-1"},
		{"dead and nobody else", world(state(events.StateDown, beside)), placement.Request{Server: here, Dead: true, Allowed: []string{"eu-west-1"}}, placement.Policy{}, stay, placement.ReasonNoCandidate, ""},
		{"dead: another region only within the bound", world(state(events.StateDown, here, beside)), placement.Request{Server: here, Location: london}, placement.Policy{MaxRTTMs: 50}, stay, placement.ReasonNoCandidate, ""},
		{"dead in a standby region", set("eu-west-1", events.RoleStandby, 100), placement.Request{Server: here, Dead: true}, placement.Policy{}, move, placement.ReasonServerDown, "us-east-1"},
		{"out of reach", world(), placement.Request{Server: here, Unreachable: true, Critical: true}, placement.Policy{}, move, placement.ReasonUnreachable, "eu-west-1"},
		{"out of reach and nobody else", world(state(events.StateDown, beside)), placement.Request{Server: here, Unreachable: true, Allowed: []string{"eu-west-1"}}, placement.Policy{}, stay, placement.ReasonNoCandidate, "eu-west-1"},

		{"critical", world(), placement.Request{Server: here, Critical: true, ClosestServer: "us-east-1-a"}, placement.Policy{}, stay, placement.ReasonCriticalTask, "eu-west-1"},
		{"critical on a suspect server", world(state(events.StateSuspect, here)), placement.Request{Server: here, Critical: true}, placement.Policy{}, stay, placement.ReasonCriticalTask, "eu-west-1"},
		{"critical at the bound", world(), placement.Request{Server: here, Critical: true, CriticalSince: ago(time.Minute), ClosestServer: "us-east-1-a"}, placement.Policy{CriticalBound: time.Minute}, stay, placement.ReasonCriticalTask, "eu-west-1"},
		{"critical beyond it", world(), placement.Request{Server: here, Critical: true, CriticalSince: ago(61 * time.Second), ClosestServer: "us-east-1-a"}, placement.Policy{CriticalBound: time.Minute}, move, placement.ReasonCriticalExpired, "us-east-1"},
		{"beyond it, with nowhere to go", world(), placement.Request{Server: here, Critical: true, CriticalSince: ago(time.Hour)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"beyond it, cooling down", world(), placement.Request{Server: here, Critical: true, CriticalSince: ago(time.Hour), ClosestServer: "us-east-1-a", MovedAt: ago(time.Minute)}, placement.Policy{}, stay, placement.ReasonCooldown, "eu-west-1"},
		{"beyond it, out of reach", world(), placement.Request{Server: here, Critical: true, CriticalSince: ago(time.Hour), Unreachable: true}, placement.Policy{}, move, placement.ReasonUnreachable, "eu-west-1"},
		{"a bound passed without a task", world(), placement.Request{Server: here, CriticalSince: ago(time.Hour), ClosestServer: "us-east-1-a"}, placement.Policy{}, move, placement.ReasonCloserRegion, "us-east-1"},

		{"residency", world(), placement.Request{Server: here, Location: london, Allowed: []string{"us-east-1", "ap-southeast-1"}}, placement.Policy{}, move, placement.ReasonResidency, "us-east-1"},
		{"residency after a move", world(), placement.Request{Server: here, MovedAt: noon, Allowed: []string{"us-east-1"}}, placement.Policy{}, move, placement.ReasonResidency, "us-east-1"},
		{"residency waits for a task", world(), placement.Request{Server: here, Critical: true, Allowed: []string{"us-east-1"}}, placement.Policy{}, stay, placement.ReasonCriticalTask, "eu-west-1"},
		{"residency with nowhere to go", world(), placement.Request{Server: here, Allowed: []string{"mars-1"}}, placement.Policy{}, stay, placement.ReasonNoCandidate, ""},

		{"draining, the deadline to come", world(drained(here, time.Hour)), placement.Request{Server: here, Critical: true}, placement.Policy{DrainDeadline: time.Second}, stay, placement.ReasonCriticalTask, "eu-west-1"},
		{"its deadline passed", world(drained(here, 0)), placement.Request{Server: here, Critical: true}, placement.Policy{DrainDeadline: time.Hour}, move, placement.ReasonServerDraining, "eu-west-1"},
		{"the last refresh before it", world(drained(here, 2*time.Minute)), placement.Request{Server: here}, placement.Policy{}, move, placement.ReasonServerDraining, "eu-west-1"},

		{"login beside a region in standby", set("us-east-1", events.RoleStandby, 100), placement.Request{Arrived: "us-east-1"}, placement.Policy{}, move, placement.ReasonLogin, "eu-west-1"},
		{"login where only a standby is left", set("us-east-1", events.RoleStandby, 100), placement.Request{Allowed: []string{"us-east-1"}}, placement.Policy{}, move, placement.ReasonLogin, "us-east-1"},
		{"login beside a region of weight 0", set("us-east-1", "", 0), placement.Request{Arrived: "us-east-1"}, placement.Policy{}, move, placement.ReasonLogin, "eu-west-1"},
		{"login where only weight 0 is left", set("us-east-1", "", 0), placement.Request{Allowed: []string{"us-east-1"}}, placement.Policy{}, move, placement.ReasonLogin, "us-east-1"},
		{"called closest, but of weight 0", set("us-east-1", "", 0), placement.Request{Server: here, ClosestServer: "us-east-1-a"}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"weight 0 sends nobody away", set("eu-west-1", "", 0), placement.Request{Server: here}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"dead in a region of weight 0: residents stay there", set("eu-west-1", "", 0), placement.Request{Server: here, Dead: true}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},

		{"10 ms and 10 %", world(), placement.Request{Server: here, RTT: rtt(here, 100.0, "us-east-1-a", 90.0)}, placement.Policy{}, move, placement.ReasonCloserRegion, "us-east-1"},
		{"under 10 %", world(), placement.Request{Server: here, RTT: rtt(here, 110.0, "us-east-1-a", 99.5)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"under 10 ms", world(), placement.Request{Server: here, RTT: rtt(here, 20.0, "us-east-1-a", 10.5)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"a region's time is its least", world(), placement.Request{Server: here, RTT: rtt(here, 90.0, beside, 20.0, "us-east-1-a", 60.0)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"nonsense is not a time", world(), placement.Request{Server: here, RTT: rtt(here, 90.0, "us-east-1-a", -60.0, "us-east-1-b", 0.0)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"faster, but not usable", world(state(events.StateDraining, "us-east-1-a", "us-east-1-b")), placement.Request{Server: here, RTT: rtt(here, 100.0, "us-east-1-a", 5.0)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"faster, but not allowed", world(), placement.Request{Server: here, RTT: rtt(here, 100.0, "us-east-1-a", 5.0), Allowed: []string{"eu-west-1"}}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"faster, but standby", set("us-east-1", events.RoleStandby, 100), placement.Request{Server: here, RTT: rtt(here, 100.0, "us-east-1-a", 5.0)}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"faster, but beyond the bound", world(), placement.Request{Server: here, RTT: rtt(here, 200.0, "us-east-1-a", 90.0)}, placement.Policy{MaxRTTMs: 80}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"called closest, but not usable: the place decides", world(state(events.StateDown, "us-east-1-a", "us-east-1-b")), placement.Request{Server: here, ClosestServer: "us-east-1-a", Location: sydney}, placement.Policy{}, move, placement.ReasonCloserRegion, "ap-southeast-1"},
		{"called closest, being dead itself", world(state(events.StateDown, "us-east-1-a")), placement.Request{Server: here, ClosestServer: "us-east-1-a"}, placement.Policy{}, move, placement.ReasonCloserRegion, "us-east-1"},
		{"called closest counts before the place", world(), placement.Request{Server: here, ClosestServer: beside, Location: sydney}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"place", world(), placement.Request{Server: here, Location: sydney}, placement.Policy{}, move, placement.ReasonCloserRegion, "ap-southeast-1"},
		{"place, not much closer", world(), placement.Request{Server: here, Location: &events.Location{Lat: 52, Lon: -44}}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"place unknown", world(), placement.Request{Server: here, Location: &events.Location{Lat: -100}}, placement.Policy{}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"suspect keeps its locks", world(state(events.StateSuspect, here)), placement.Request{Server: here}, placement.Policy{}, stay, placement.ReasonWithinBand, "eu-west-1"},
		{"suspect lets go of travellers", world(state(events.StateSuspect, here)), placement.Request{Server: here, ClosestServer: "us-east-1-a"}, placement.Policy{}, move, placement.ReasonCloserRegion, "us-east-1"},

		{"stale view: nobody follows", world(), placement.Request{Server: here, ClosestServer: "us-east-1-b", Stale: true}, placement.Policy{}, stay, placement.ReasonViewStale, "eu-west-1"},
		{"stale view: a death in it is not believed", world(state(events.StateDown, here)), placement.Request{Server: here, Stale: true}, placement.Policy{}, stay, placement.ReasonViewStale, "eu-west-1"},
		{"stale view: a server that it does not know", world(), placement.Request{Server: "mars-1-a", Stale: true}, placement.Policy{}, stay, placement.ReasonViewStale, ""},
		{"stale view: found dead all the same", world(), placement.Request{Server: here, Stale: true, Dead: true}, placement.Policy{}, move, placement.ReasonServerDown, "eu-west-1"},
		{"stale view: out of reach all the same", world(), placement.Request{Server: here, Stale: true, Unreachable: true}, placement.Policy{}, move, placement.ReasonUnreachable, "eu-west-1"},
		{"stale view: residency holds", world(), placement.Request{Server: here, Stale: true, Allowed: []string{"us-east-1"}}, placement.Policy{}, move, placement.ReasonResidency, "us-east-1"},
		{"stale view: an unknown server's residency too", world(), placement.Request{Server: "mars-1-a", Stale: true, Allowed: []string{"us-east-1"}}, placement.Policy{}, move, placement.ReasonServerDown, "us-east-1"},
		{"stale view: a login goes by it", world(), placement.Request{Arrived: "eu-west-1", Stale: true}, placement.Policy{}, move, placement.ReasonLogin, "eu-west-1"},
		{"literal follows at once", world(), placement.Request{Server: here, ClosestServer: "us-east-1-b", MovedAt: noon}, placement.Policy{Name: placement.PolicyLiteral}, move, placement.ReasonCloserRegion, "us-east-1"},
		{"literal never leaves the allowed regions", world(), placement.Request{Server: here, ClosestServer: "us-east-1-b", Allowed: []string{"eu-west-1"}}, placement.Policy{Name: placement.PolicyLiteral}, stay, placement.ReasonAlreadyBest, "eu-west-1"},
		{"literal on a dead server stays in its region", world(), placement.Request{Server: here, ClosestServer: here, Dead: true}, placement.Policy{Name: placement.PolicyLiteral}, move, placement.ReasonServerDown, "eu-west-1"},
		{"literal login", world(), placement.Request{ClosestServer: "us-east-1-b"}, placement.Policy{Name: placement.PolicyLiteral}, move, placement.ReasonLogin, "us-east-1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.request.Session = "s"
			d := placement.Decide(test.request, &test.view, test.policy, noon)
			if d.Verdict != test.verdict || d.Reason != test.reason || d.Region != test.region {
				t.Errorf("decided %s %s in %q, want %s %s in %q", d.Verdict, d.Reason, d.Region, test.verdict, test.reason, test.region)
			}
			elsewhere := d.Server != "" && d.Server != test.request.Server
			if (d.Server == "") != (d.Region == "") || (d.Verdict == move) != elsewhere {
				t.Errorf("%s names server %q of %q, from %q", d.Verdict, d.Server, d.Region, test.request.Server)
			}
		})
	}
}

// TestManyMeasuredRegions: a client may measure more regions than a query holds at hand.
func TestManyMeasuredRegions(t *testing.T) {
	v := placement.NewView(fleet(2))
	var measured []placement.RTT
	for i, city := range cities {
		measured = append(measured,
			placement.RTT{ServerID: city.region + "-001", MS: float64(300 - 10*i)},
			placement.RTT{ServerID: city.region + "-000", MS: float64(301 - 10*i)})
	}
	for range len(measured) {
		measured = append(measured[1:], measured[0])
		d := placement.Decide(placement.Request{Session: "s", Server: "ap-south-1-000", RTT: measured}, &v, placement.Policy{}, noon)
		if d.Reason != placement.ReasonCloserRegion || d.Region != "us-west-2" {
			t.Fatalf("decided %+v", d)
		}
	}
}

// TestDecideDoesNotAllocate: the benchmarks measure time, this holds what does not depend on
// the machine.
func TestDecideDoesNotAllocate(t *testing.T) {
	servers := fleet(50)
	for i := range servers {
		if servers[i].Region == "eu-west-1" {
			servers[i].Utilisation += 0.5 // above its level
		}
	}
	plain := placement.NewView(servers)
	v := plain.WithPrices(placement.Prices{"eu-west-1": 30})
	for _, r := range []placement.Request{
		{Session: "s", Location: &events.Location{Lat: 50, Lon: 8}},
		{Session: "s", Server: "us-east-1-007", Home: "eu-west-2"},
		{Session: "s", Server: "eu-west-1-007", Allowed: []string{"eu-west-1", "us-east-1"}},
		{Session: "s", Server: "eu-west-1-007", RTT: rtt("eu-west-1-007", 90.0, "us-east-1-001", 20.0), ClosestServer: "us-east-1-004"},
		{Session: "s", Server: "eu-west-1-007", Dead: true},
	} {
		for _, policy := range placement.Policies() {
			allocations := testing.AllocsPerRun(100, func() {
				r.Generation++
				placement.Decide(r, &v, placement.Policy{Name: policy}, noon)
			})
			if allocations != 0 {
				t.Errorf("%s: %v allocations for %+v", policy, allocations, r)
			}
		}
	}
}
