package placement_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/placement"
)

// TestPricesAreZeroWhereThereIsRoom: nobody pays while everybody fits where they are closest.
func TestPricesAreZeroWhereThereIsRoom(t *testing.T) {
	m := placement.Market{
		Origins: []placement.Origin{
			{Sessions: 800, RTT: map[string]float64{"a": 10, "b": 80}},
			{Sessions: 500, RTT: map[string]float64{"a": 90, "b": 5}},
		},
		Capacity: map[string]float64{"a": 850, "b": 850},
		Last:     placement.Prices{"b": 33},
	}
	if got := m.Solve(); len(got) > 0 {
		t.Errorf("prices %v", got)
	}
}

// TestPricesMoveThoseWhoLoseLeast: region a is overrun by 300 sessions. Those of the place in
// between lose 20 ms in b, those at a's door 70: the price lies where the former go.
func TestPricesMoveThoseWhoLoseLeast(t *testing.T) {
	m := placement.Market{
		Origins: []placement.Origin{
			{Sessions: 600, RTT: map[string]float64{"a": 10, "b": 80}},
			{Sessions: 600, RTT: map[string]float64{"a": 30, "b": 50}},
		},
		Capacity: map[string]float64{"a": 900, "b": 900},
	}
	got := m.Solve()
	if got["a"] < 14 || got["a"] > 26 || got["b"] != 0 {
		t.Errorf("prices %v, want some 20 ms in a", got)
	}
}

// TestPricesFitEverybodyIn: at the prices nobody is overrun by more than a twentieth, by the
// sessions' own decisions, but for four standard deviations of what the sample of their jitter
// says of those decisions.
func TestPricesFitEverybodyIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := placement.Market{Capacity: map[string]float64{}}
		var names []string
		room := 0.0
		for i := range rapid.IntRange(2, 6).Draw(t, "regions") {
			name := fmt.Sprintf("r%d", i)
			names = append(names, name)
			m.Capacity[name] = float64(rapid.IntRange(500, 3000).Draw(t, "capacity"))
			room += m.Capacity[name]
		}
		places := rapid.IntRange(8, 20).Draw(t, "places")
		for range places {
			o := placement.Origin{Sessions: 0.9 * room / float64(places), RTT: map[string]float64{}}
			for _, name := range names {
				o.RTT[name] = float64(rapid.IntRange(1, 200).Draw(t, "ms"))
			}
			m.Origins = append(m.Origins, o)
		}
		prices, taken, variance := m.Solve(), map[string]float64{}, map[string]float64{}
		const sample = 200
		for i, o := range m.Origins {
			here := map[string]float64{}
			for k := range sample {
				best, least := "", math.Inf(1)
				for _, name := range names {
					if ms := o.RTT[name] + prices[name] + placement.Jitter(fmt.Sprint(i, "-", k), name); ms < least {
						best, least = name, ms
					}
				}
				here[best] += 1.0 / sample
			}
			for name, p := range here {
				taken[name] += p * o.Sessions
				variance[name] += p * (1 - p) * o.Sessions * o.Sessions / sample
			}
		}
		for name, n := range taken {
			if n > 1.05*m.Capacity[name]+4*math.Sqrt(variance[name]) {
				t.Errorf("region %s gets %.0f, can take %.0f; prices %v", name, n, m.Capacity[name], prices)
			}
		}
	})
}

// TestSolveBearsAnything: numbers that are none, regions that nobody can reach, no demand.
func TestSolveBearsAnything(t *testing.T) {
	nan := math.NaN()
	for _, m := range []placement.Market{
		{},
		{Origins: []placement.Origin{{Sessions: 5}}, Capacity: map[string]float64{"a": 1}},
		{Origins: []placement.Origin{{Sessions: nan, RTT: map[string]float64{"a": 1}}}, Capacity: map[string]float64{"a": 1}},
		{Origins: []placement.Origin{{Sessions: 5, RTT: map[string]float64{"a": nan, "b": 3}}}, Capacity: map[string]float64{"a": nan, "b": math.Inf(1)}},
		{Origins: []placement.Origin{{Sessions: 5, RTT: map[string]float64{"a": 1}}}, Capacity: map[string]float64{"a": 0}},
		{Origins: []placement.Origin{{Sessions: math.Inf(1), RTT: map[string]float64{"a": 1, "b": 1e300}}}, Capacity: map[string]float64{"a": 1, "b": 1}},
	} {
		for name, price := range m.Solve() {
			if !(price > 0 && price <= 1e6) {
				t.Errorf("%+v: price %v in %s", m, price, name)
			}
		}
	}
}

// TestWithKeepsPrices: a view changed by reports still has its prices, and back.
func TestWithKeepsPrices(t *testing.T) {
	servers := fleet(2)
	plain := placement.NewView(servers)
	v := plain.WithPrices(placement.Prices{"eu-west-1": 20, "nowhere": 5, "us-east-1": math.NaN(), "sa-east-1": -3})
	servers[0].Utilisation = 0.99
	next, _ := v.With(servers[0])
	want := placement.Prices{"eu-west-1": 20}
	if diff := cmp.Diff(want, next.Prices()); diff != "" {
		t.Errorf("prices (-want +got):\n%s", diff)
	}
	if len(plain.Prices()) > 0 {
		t.Error("the view that prices were added to has them, too")
	}
}

func BenchmarkSolve(b *testing.B) {
	m := placement.Market{Capacity: map[string]float64{}}
	for i, city := range cities {
		m.Capacity[city.region] = float64(2000 + 500*(i%3))
	}
	for i := range 80 {
		o := placement.Origin{Sessions: 300, RTT: map[string]float64{}}
		for j, city := range cities {
			o.RTT[city.region] = float64(10 + 17*(i*7+j*5)%190)
		}
		m.Origins = append(m.Origins, o)
	}
	for b.Loop() {
		m.Solve()
	}
}
