package placement_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// source turns fuzzed bytes into values; when they run out it yields zeros.
type source []byte

func (s *source) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

func (s *source) below(n int) int { return int(s.byte()) % n }

// float returns a small sensible number most times, else any there is.
func (s *source) float() float64 {
	if b := s.byte(); b < 224 {
		return float64(b) / 100
	}
	var raw [8]byte
	for i := range raw {
		raw[i] = s.byte()
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(raw[:]))
}

func (s *source) time() time.Time {
	b := s.byte()
	if b == 0 {
		return time.Time{}
	}
	return noon.Add(time.Duration(int(b)-200) * 17 * time.Second)
}

func (s *source) flag() bool { return s.byte()%4 == 1 }

var (
	fuzzRegions = []string{"", "a", "b", "c", "d", "e"}
	fuzzServers = []string{"", "a-1", "a-2", "b-1", "b-2", "c-1", "d-1", "e-1", "twin", "unknown"}
	fuzzStates  = []events.State{
		events.StateUp, events.StateUp, events.StateUp, events.StateSuspect, events.StateDraining, events.StateDown,
		events.StateLeft, "", "dancing",
	}
)

func (s *source) servers() []placement.Server {
	list := make([]placement.Server, s.below(12))
	for i := range list {
		list[i] = placement.Server{
			Region: fuzzRegions[s.below(len(fuzzRegions))], ID: fuzzServers[s.below(len(fuzzServers)-1)],
			State: fuzzStates[s.below(len(fuzzStates))], Capacity: s.float(), Utilisation: s.float(),
			Location: events.Location{Lat: 30 * s.float(), Lon: 60 * s.float()}, DrainingSince: s.time(), DrainUntil: s.time(), RejoinedAt: s.time(),
		}
	}
	return list
}

func (s *source) request() placement.Request {
	server := func() string { return fuzzServers[s.below(len(fuzzServers))] }
	r := placement.Request{
		Session: string([]byte{s.byte()}), Generation: uint64(s.byte()), Server: server(), ClosestServer: server(),
		Arrived: fuzzRegions[s.below(len(fuzzRegions))], Critical: s.flag(), CriticalSince: s.time(), MovedAt: s.time(),
		Dead: s.flag(), Unreachable: s.flag(), Stale: s.flag(),
	}
	if s.flag() {
		r.Location = &events.Location{Lat: 30 * s.float(), Lon: 60 * s.float()}
	}
	for range s.below(12) {
		r.RTT = append(r.RTT, placement.RTT{ServerID: server(), MS: 100 * s.float()})
	}
	if s.flag() {
		r.Allowed = []string{}
		for range s.below(5) {
			r.Allowed = append(r.Allowed, fuzzRegions[s.below(len(fuzzRegions))])
		}
	}
	return r
}

func (s *source) policy() placement.Policy {
	p := placement.Policy{
		Name: []string{
			"", placement.PolicySpread, placement.PolicyLiteral, placement.PolicyLowestLoad, "?",
			placement.PolicyP2C, placement.PolicySpreadLevels, placement.PolicySpreadPrices,
		}[s.below(8)],
		CriticalBound: time.Duration(s.below(3)-1) * time.Minute, Cooldown: time.Duration(s.below(3)-1) * time.Minute,
		DrainDeadline: time.Duration(s.below(3)-1) * time.Minute, RefreshInterval: time.Duration(s.below(3)-1) * time.Minute,
	}
	if s.flag() {
		p.MaxRTTMs = 100 * s.float()
	}
	return p
}

func (s *source) setting() placement.Setting {
	return placement.Setting{
		Region: fuzzRegions[s.below(len(fuzzRegions))], Role: []events.Role{"", events.RoleStandby, "?"}[s.below(3)], Weight: int(s.byte()) - 50,
	}
}

// FuzzDecide: Decide answers whatever it is asked, breaks none of its promises, and does not
// care about the order of anything.
func FuzzDecide(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for n := range 100 {
		seed := make([]byte, 10*n%400)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed, uint64(n))
	}
	f.Fuzz(func(t *testing.T, data []byte, order uint64) {
		s := source(data)
		servers, r, p := s.servers(), s.request(), s.policy()
		set := s.setting()
		prices := placement.Prices{fuzzRegions[s.below(len(fuzzRegions))]: 100 * s.float(), "b": s.float()}
		r.Home = fuzzRegions[s.below(len(fuzzRegions))]
		plain := placement.NewView(servers, set)
		v := plain.WithPrices(prices)
		d := placement.Decide(r, &v, p, noon)

		// What the view kept of the servers: each id once.
		kept := slices.DeleteFunc(slices.Clone(servers), func(s placement.Server) bool {
			at, ok := v.Find(s.ID)
			return !ok || v.RegionName(at) != s.Region || v.State(at) != s.State
		})
		checkDecision(t, kept, r, d)
		if !(d.Draw >= 0 && d.Draw < 1) {
			t.Fatalf("draw: %+v", d)
		}

		random := rand.New(rand.NewPCG(order, 1))
		shuffle(random, servers)
		shuffle(random, r.RTT)
		shuffle(random, r.Allowed)
		plain = placement.NewView(servers, set)
		again := plain.WithPrices(prices)
		if other := placement.Decide(r, &again, p, noon); other != d {
			t.Fatalf("decided %+v, in another order %+v", d, other)
		}
		if ranked := placement.Rank(r, &v, p); len(ranked) != len(v.Regions) {
			t.Fatalf("%d of %d regions ranked", len(ranked), len(v.Regions))
		}
	})
}

func shuffle[T any](random *rand.Rand, list []T) {
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
