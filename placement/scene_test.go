package placement_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// choice draws one of the values, the first being the plain case.
func choice[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// scene is what a decision is made from: servers, sorted and each id once, what is set of and
// asked for their regions, a request about them, and a policy.
type scene struct {
	servers  []placement.Server
	settings []placement.Setting
	prices   placement.Prices
	r        placement.Request
	p        placement.Policy
}

// draw draws a scene.
func draw(t *rapid.T) scene {
	ago := func(label string) time.Time {
		minutes := rapid.IntRange(-2, 45).Draw(t, label)
		if minutes < -1 {
			return time.Time{}
		}
		return noon.Add(-time.Duration(minutes) * time.Minute)
	}
	var servers []placement.Server
	var regions []string
	ids := []string{"", "unknown-1-a"}
	for _, city := range cities[:choice(t, "regions", 3, 1, 2, 4, 5, 12, 0)] {
		at := choice(t, "located", city.at, city.at, city.at, events.Location{})
		regions = append(regions, city.region)
		for i := range choice(t, "servers", 2, 3, 4, 1, 0) {
			s := placement.Server{
				ID: fmt.Sprintf("%s-%c", city.region, 'a'+i), Region: city.region, Location: at,
				State: choice(t, "state", events.StateUp, events.StateUp, events.StateUp, events.StateUp,
					events.StateSuspect, events.StateDraining, events.StateDown, events.StateLeft),
				Capacity:    choice(t, "capacity", 1000.0, 1000, 100, 350, 0),
				Utilisation: float64(rapid.IntRange(0, 130).Draw(t, "u")) / 100,
			}
			if s.State == events.StateDraining {
				s.DrainingSince = noon.Add(-time.Duration(rapid.IntRange(0, 12).Draw(t, "draining")) * time.Minute)
				if until := rapid.IntRange(-5, 15).Draw(t, "until"); until > -3 {
					s.DrainUntil = noon.Add(time.Duration(until) * time.Minute)
				}
			}
			if s.State == events.StateUp {
				s.RejoinedAt = choice(t, "rejoined", time.Time{}, time.Time{}, noon.Add(-time.Minute), noon.Add(-3*time.Minute))
			}
			servers, ids = append(servers, s), append(ids, s.ID)
		}
	}
	slices.Reverse(ids) // what is drawn first is drawn most
	id := rapid.SampledFrom(ids)
	r := placement.Request{
		Session: choice(t, "session", "s", "t", "u", "v"), Generation: rapid.Uint64().Draw(t, "generation"), Server: id.Draw(t, "server"),
		ClosestServer: id.Draw(t, "closest"), Arrived: choice(t, "arrived", append(regions, "", "unknown-1")...),
		Critical: choice(t, "critical", false, false, true), CriticalSince: ago("critical since"), MovedAt: ago("moved"),
		Dead: choice(t, "dead", false, false, false, true), Unreachable: choice(t, "unreachable", false, false, false, true),
		Stale: choice(t, "stale", false, false, false, true), Home: choice(t, "home", append([]string{"", "", "unknown-1"}, regions...)...),
	}
	for range rapid.IntRange(-12, 12).Draw(t, "rtts") {
		r.RTT = append(r.RTT, placement.RTT{ServerID: id.Draw(t, "measured"), MS: float64(rapid.IntRange(-1, 200).Draw(t, "ms"))})
	}
	if rapid.Bool().Draw(t, "somewhere") {
		city := cities[rapid.IntRange(0, len(cities)-1).Draw(t, "near")]
		r.Location = &events.Location{Lat: city.at.Lat + 1.5, Lon: city.at.Lon - 2.5}
	}
	if choice(t, "bound to regions", false, false, true) {
		r.Allowed = rapid.SliceOfN(rapid.SampledFrom(append(regions, "unknown-1")), 0, 6).Draw(t, "allowed")
	}
	p := placement.Policy{
		Name: choice(t, "policy", placement.PolicySpread, "", placement.PolicyLiteral, placement.PolicyLowestLoad,
			placement.PolicyP2C, placement.PolicySpreadLevels, placement.PolicySpreadPrices),
		MaxRTTMs: choice(t, "max rtt", 0.0, 0, 40, 120),
	}
	var settings []placement.Setting
	for _, region := range regions {
		s := placement.Setting{
			Region: region, Role: choice(t, "role", events.RoleActive, "", events.RoleActive, events.RoleStandby),
			Weight: choice(t, "weight", 100, 100, 100, 50, 10, 0),
		}
		if s != (placement.Setting{Region: region, Weight: 100}) {
			settings = append(settings, s)
		}
	}
	slices.SortFunc(servers, func(a, b placement.Server) int { return strings.Compare(a.ID, b.ID) })
	prices := placement.Prices{}
	for _, region := range regions {
		if ms := choice(t, "price", 0, 0, 0, 3, 20, 70); ms > 0 {
			prices[region] = float64(ms)
		}
	}
	return scene{servers: servers, settings: settings, prices: prices, r: r, p: p}
}
