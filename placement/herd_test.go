package placement_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// herd runs a region of twelve unequal servers for a while: clients refresh every 120 s, a
// few at a time, and every decision sees load reports that are up to 10 s old. It returns
// the 99th percentile over time of the greatest utilisation divided by the mean, once the
// start is forgotten, and the moves per client and hour.
func herd(policy string) (p99, moves float64) {
	const (
		clients, refresh, report = 4000, 120, 10 // seconds
		minutes, settled         = 30, 15
	)
	servers := make([]placement.Server, 12)
	held := make([]int, len(servers))
	index := map[string]int{}
	var capacity float64
	for i := range servers {
		servers[i] = placement.Server{ID: fmt.Sprintf("r-%02d", i), Region: "r", State: events.StateUp, Capacity: 250 + float64(i%4)*200}
		index[servers[i].ID] = i
		capacity += servers[i].Capacity
	}
	sessions := make([]placement.Request, clients)
	for i := range sessions {
		on := i % 5 // a start that is far from even
		sessions[i] = placement.Request{Session: fmt.Sprintf("session-%d", i), Server: servers[on].ID}
		held[on]++
	}
	var view placement.View
	var ratios []float64
	moved := 0
	for second := range minutes * 60 {
		if second%report == 0 {
			for i := range servers {
				servers[i].Utilisation = float64(held[i]) / servers[i].Capacity
			}
			view = placement.NewView(servers)
		}
		for i := second % refresh; i < clients; i += refresh {
			r := &sessions[i]
			r.Generation++
			d := placement.Decide(*r, &view, placement.Policy{Name: policy}, noon.Add(time.Duration(second)*time.Second))
			if d.Verdict == placement.VerdictMove {
				held[index[r.Server]]--
				held[index[d.Server]]++
				r.Server = d.Server
				if second >= settled*60 {
					moved++
				}
			}
		}
		if second >= settled*60 {
			most := 0.0
			for i := range servers {
				most = math.Max(most, float64(held[i])/servers[i].Capacity)
			}
			ratios = append(ratios, most/(clients/capacity))
		}
	}
	slices.Sort(ratios)
	return ratios[len(ratios)*99/100], float64(moved) / clients * 60 / (minutes - settled)
}

// TestSpreadDoesNotHerd: with stale reports, sending everybody to the lowest overloads one
// server after the other; spread settles and stays so.
func TestSpreadDoesNotHerd(t *testing.T) {
	ratio, moves := map[string]float64{}, map[string]float64{}
	for _, policy := range []string{placement.PolicyLiteral, placement.PolicyLowestLoad, placement.PolicySpread} {
		ratio[policy], moves[policy] = herd(policy)
		t.Logf("%-12s greatest utilisation / mean: p99 %.2f, moves per client-hour %.2f", policy, ratio[policy], moves[policy])
	}
	if ratio[placement.PolicySpread] > 1.15 || moves[placement.PolicySpread] > 0.2 {
		t.Errorf("spread: ratio %.2f, moves %.2f", ratio[placement.PolicySpread], moves[placement.PolicySpread])
	}
	if ratio[placement.PolicyLiteral] < 1.5*ratio[placement.PolicySpread] {
		t.Errorf("literal, at %.2f, does not herd: the simulation shows nothing", ratio[placement.PolicyLiteral])
	}
}
