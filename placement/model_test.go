package placement_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// model decides a second time, the dumb way: it walks the list of servers for everything,
// keeps no sums, and estimates distances by another formula. It shares only the draw.
type model struct {
	servers []placement.Server // sorted by region and id, each id once
	set     map[string]placement.Setting
	prices  placement.Prices
	r       placement.Request
	p       placement.Policy
	now     time.Time
	x       float64
}

func (m *model) find(id string) *placement.Server {
	for i := range m.servers {
		if m.servers[i].ID == id {
			return &m.servers[i]
		}
	}
	return nil
}

func (m *model) regions() []string {
	var list []string
	for _, s := range m.servers {
		list = append(list, s.Region)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// usable returns the region's servers that take new sessions, without the session's own.
func (m *model) usable(region string) []placement.Server {
	var list []placement.Server
	for _, s := range m.servers {
		if s.Region == region && s.State == events.StateUp && s.Capacity > 0 && s.ID != m.r.Server {
			list = append(list, s)
		}
	}
	return list
}

func (m *model) mean(region string) float64 {
	var load, capacity float64
	for _, s := range m.servers {
		if s.Region == region && s.State == events.StateUp && s.Capacity > 0 {
			load += s.Utilisation * s.Capacity
			capacity += s.Capacity
		}
	}
	if capacity == 0 {
		return 0
	}
	return load / capacity
}

func (m *model) allowed(region string) bool {
	return m.r.Allowed == nil || slices.Contains(m.r.Allowed, region)
}

// location returns where a region is: its servers stand in one place, or none says where.
func (m *model) location(region string) *events.Location {
	for _, s := range m.servers {
		if s.Region == region && s.Location != (events.Location{}) {
			return &s.Location
		}
	}
	return nil
}

func (m *model) measured(region string) float64 {
	least := 0.0
	for _, t := range m.r.RTT {
		if s := m.find(t.ServerID); s != nil && s.Region == region && t.MS > 0 && (least == 0 || t.MS < least) {
			least = t.MS
		}
	}
	return least
}

// time returns the milliseconds to a region, and whether they say something of the client.
func (m *model) time(region string) (ms float64, sure bool) {
	if ms := m.measured(region); ms > 0 {
		return ms, true
	}
	from, sure := m.r.Location, true
	if from == nil {
		from, sure = m.location(m.r.Arrived), false
	}
	if own := m.find(m.r.Server); from == nil && own != nil {
		from = m.location(own.Region)
	}
	to := m.location(region)
	if from == nil || to == nil {
		return placement.Offset + placement.Slope*placement.EarthRadius*math.Pi/2, false
	}
	return placement.Offset + placement.Slope*haversine(*from, *to), sure
}

// able reports whether a region can take the session.
func (m *model) able(region string) bool {
	ms, sure := m.time(region)
	tooFar := m.p.MaxRTTMs > 0 && sure && ms > m.p.MaxRTTMs
	return m.allowed(region) && len(m.usable(region)) > 0 && !tooFar
}

func (m *model) standby(region string) bool { return m.set[region].Role == events.RoleStandby }

// order returns a region's place before closeness: 0 for one that takes the session.
func (m *model) order(region string) (n int) {
	own := m.find(m.r.Server)
	if m.full(region) {
		n = 1
	}
	if m.standby(region) {
		n += 4
	}
	set, ok := m.set[region]
	switch {
	case !ok || own != nil && own.Region == region:
		return n
	case set.Weight == 0:
		return n + 8
	case 100*placement.Lot(m.r.Session, region) >= float64(set.Weight):
		return n + 2
	}
	return n
}

// TestDecideAgainstTheModel compares Decide with the dumb second implementation.
func TestDecideAgainstTheModel(t *testing.T) {
	reasons := map[placement.Reason]int{}
	check := func(t *rapid.T) {
		s := draw(t)
		plain := placement.NewView(s.servers, s.settings...)
		v := plain.WithPrices(s.prices)
		m := model{servers: s.servers, set: map[string]placement.Setting{}, prices: v.Prices(), r: s.r, p: s.p, now: noon}
		for _, set := range s.settings {
			m.set[set.Region] = set
		}
		want, got := m.decide(), placement.Decide(s.r, &v, s.p, noon)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("decision differs (-model +Decide):\n%s", diff)
		}
		checkDecision(t, s.servers, s.r, got)
		reasons[got.Reason]++
	}
	for range 20 { // a hundred scenes each, unless -rapid.checks says otherwise
		rapid.Check(t, check)
	}
	t.Logf("reasons: %v", reasons)
}

// checkDecision holds what no decision may break, whatever the policy.
func checkDecision(t interface{ Fatalf(string, ...any) }, servers []placement.Server, r placement.Request, d placement.Decision) {
	m := model{servers: servers, r: r}
	target := m.find(d.Server)
	switch {
	case d.Reason == placement.ReasonViewStale:
		if d.Verdict != placement.VerdictStay || !r.Stale || r.Dead || r.Unreachable || (d.Server == "") != (target == nil) || d.Server != "" && d.Server != r.Server {
			t.Fatalf("by a stale view: %+v", d)
		}
	case d.Server == "":
		if d.Verdict != placement.VerdictStay || d.Reason != placement.ReasonNoCandidate || d.Region != "" {
			t.Fatalf("nowhere: %+v", d)
		}
	case target == nil || target.Region != d.Region:
		t.Fatalf("no such server: %+v", d)
	case d.Verdict == placement.VerdictMove:
		if d.Server == r.Server {
			t.Fatalf("a move to where it is: %+v", d)
		}
		if target.State != events.StateUp || !(target.Capacity > 0) {
			t.Fatalf("a move to %+v: %+v", *target, d)
		}
	case d.Verdict == placement.VerdictStay:
		if d.Server != r.Server || r.Dead || !target.State.Alive() {
			t.Fatalf("a stay at %+v: %+v", *target, d)
		}
	default:
		t.Fatalf("verdict: %+v", d)
	}
	if d.Server != "" && !m.allowed(d.Region) && d.Reason != placement.ReasonCriticalTask {
		t.Fatalf("outside the allowed regions %v: %+v", r.Allowed, d)
	}
}
