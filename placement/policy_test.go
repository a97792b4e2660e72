package placement_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

func TestPolicyValidate(t *testing.T) {
	tests := []struct {
		name   string
		policy placement.Policy
		want   string
	}{
		{"zero", placement.Policy{}, ""},
		{"all set", placement.Policy{
			Name: placement.PolicyLiteral, CriticalBound: time.Hour, Cooldown: time.Second, DrainDeadline: time.Minute,
			RefreshInterval: time.Minute, MaxRTTMs: 80,
		}, ""},
		{"unknown name", placement.Policy{Name: "Spread"}, `policy "Spread": want literal, lowest-load, p2c, spread, spread+levels or spread+prices`},
		{"negative bound", placement.Policy{CriticalBound: -1}, "critical bound -1ns: want 0 (the default) or more"},
		{"negative cooldown", placement.Policy{Cooldown: -time.Second}, "cooldown -1s: want 0 (the default) or more"},
		{"negative deadline", placement.Policy{DrainDeadline: -time.Second}, "drain deadline -1s: want 0 (the default) or more"},
		{"negative interval", placement.Policy{RefreshInterval: -time.Second}, "refresh interval -1s: want 0 (the default) or more"},
		{"negative RTT", placement.Policy{MaxRTTMs: -1}, "max RTT -1 ms: want 0 (no bound) or more"},
		{"no RTT", placement.Policy{MaxRTTMs: math.NaN()}, "max RTT NaN ms: want 0 (no bound) or more"},
		{"endless RTT", placement.Policy{MaxRTTMs: math.Inf(1)}, "max RTT +Inf ms: want 0 (no bound) or more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if err := test.policy.Validate(); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("Validate() = %q, want %q", got, test.want)
			}
		})
	}
}

// TestDefaults: a zero Policy decides as one that spells its defaults out, on both sides of
// each.
func TestDefaults(t *testing.T) {
	spelt := placement.Policy{
		Name: placement.PolicySpreadPrices, CriticalBound: 30 * time.Minute, Cooldown: 10 * time.Minute,
		DrainDeadline: 10 * time.Minute, RefreshInterval: 2 * time.Minute,
	}
	for minutes := range 45 {
		ago := noon.Add(-time.Duration(minutes) * time.Minute)
		v := placement.NewView([]placement.Server{
			{ID: "r-a", Region: "r", State: events.StateDraining, Capacity: 1, DrainingSince: ago},
			{ID: "r-b", Region: "r", State: events.StateUp, Capacity: 1},
			{ID: "s-a", Region: "s", State: events.StateUp, Capacity: 1},
		})
		for _, r := range []placement.Request{
			{Session: "s", Server: "r-a", Generation: uint64(minutes)},
			{Session: "s", Server: "r-b", Critical: true, CriticalSince: ago, ClosestServer: "s-a"},
			{Session: "s", Server: "r-b", MovedAt: ago, ClosestServer: "s-a"},
		} {
			got, want := placement.Decide(r, &v, placement.Policy{}, noon), placement.Decide(r, &v, spelt, noon)
			if got != want {
				t.Errorf("after %d min: zero policy %+v, spelt out %+v", minutes, got, want)
			}
		}
	}
	// A policy that nobody validated is the default, not a panic.
	v := placement.NewView(fleet(2))
	r := placement.Request{Session: "s", Server: "eu-west-1-000"}
	if d := placement.Decide(r, &v, placement.Policy{Name: "?", Cooldown: -1, MaxRTTMs: math.NaN()}, noon); d.Policy != placement.PolicySpreadPrices {
		t.Errorf("decided %+v", d)
	}
}

// TestDrainIsPacedOverItsDeadline drains a server of 2000 sessions, refreshed every 2 min at
// times spread evenly: all leave by its end, at a rate that is even but for the chance of the
// draws (a Kolmogorov-Smirnov distance of 1.63/sqrt(n) once in a hundred times, Smirnov 1948).
func TestDrainIsPacedOverItsDeadline(t *testing.T) {
	const sessions, interval, deadline = 2000, 2 * time.Minute, 10 * time.Minute
	v := placement.NewView([]placement.Server{
		{ID: "r-a", Region: "r", State: events.StateDraining, Capacity: 1, DrainingSince: noon},
		{ID: "r-b", Region: "r", State: events.StateUp, Capacity: 1},
	})
	var left []float64
	for i := range sessions {
		r := placement.Request{Session: "s" + string(rune('0'+i)), Server: "r-a"}
		for at := interval * time.Duration(i) / sessions; ; at += interval {
			if at > deadline {
				t.Fatalf("session %d is still there at %s", i, at)
			}
			r.Generation++
			if d := placement.Decide(r, &v, placement.Policy{}, noon.Add(at)); d.Server == "r-b" {
				left = append(left, float64(at)/float64(deadline))
				break
			}
		}
	}
	slices.Sort(left)
	distance := 0.0
	for i, share := range left {
		distance = max(distance, math.Abs(float64(i)/sessions-share), math.Abs(float64(i+1)/sessions-share))
	}
	t.Logf("distance to an even rate: %.3f", distance)
	if most := 1.63 / math.Sqrt(sessions); distance > most {
		t.Errorf("distance to an even rate: %.3f, want %.3f at most", distance, most)
	}
}
