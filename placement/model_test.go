package placement_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
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
	if m.standby(region) {
		n = 2
	}
	set, ok := m.set[region]
	switch {
	case !ok || own != nil && own.Region == region:
		return n
	case set.Weight == 0:
		return n + 4
	case 100*placement.Lot(m.r.Session, region) >= float64(set.Weight):
		return n + 1
	}
	return n
}

func (m *model) turn(p float64) bool {
	if m.x < p {
		m.x /= p
		return true
	}
	m.x = (m.x - p) / (1 - p)
	return false
}

// draw picks one of the servers by weight.
func (m *model) draw(list []placement.Server, weight func(placement.Server) float64) *placement.Server {
	total := 0.0
	for _, s := range list {
		total += weight(s)
	}
	at := m.x * total
	for i := range list {
		if at -= weight(list[i]); at < 0 {
			return &list[i]
		}
	}
	return nil
}

func lowest(list []placement.Server) *placement.Server {
	var low *placement.Server
	for i := range list {
		if low == nil || list[i].Utilisation < low.Utilisation {
			low = &list[i]
		}
	}
	return low
}

// in returns the server of a region for a session that is not there.
func (m *model) in(region string) *placement.Server {
	list, mean := m.usable(region), m.mean(region)
	closest := m.find(m.r.ClosestServer)
	own := m.find(m.r.Server)
	if m.p.Name == placement.PolicyLiteral && closest != nil && closest.Region == region && (own == nil || own.Region != region) {
		for _, s := range list {
			if s.ID == closest.ID {
				return closest
			}
		}
	}
	if m.p.Name == placement.PolicyLiteral || m.p.Name == placement.PolicyLowestLoad {
		return lowest(list)
	}
	if s := m.draw(list, func(s placement.Server) float64 { return max(0, mean+0.05-s.Utilisation) * s.Capacity }); s != nil {
		return s
	}
	return lowest(list)
}

// destination returns where a session goes that must leave, nil if nowhere.
func (m *model) destination() *placement.Server {
	own, closest := m.find(m.r.Server), m.find(m.r.ClosestServer)
	if m.p.Name == placement.PolicyLiteral && closest != nil && m.able(closest.Region) && m.order(closest.Region) == 0 &&
		(own == nil || own.Region != closest.Region) && m.in(closest.Region).ID == closest.ID &&
		closest.State == events.StateUp && closest.Capacity > 0 {
		return closest
	}
	if own != nil && m.allowed(own.Region) && len(m.usable(own.Region)) > 0 && !m.standby(own.Region) {
		return m.in(own.Region)
	}
	best, bestMS := "", 0.0
	for order := range 7 {
		for _, region := range m.regions() {
			ms, _ := m.time(region)
			if closest != nil && closest.Region == region && m.measured(region) == 0 {
				ms = 0
			}
			if m.order(region) == order && m.able(region) && (best == "" || ms < bestMS) {
				best, bestMS = region, ms
			}
		}
		if best != "" {
			return m.in(best)
		}
	}
	return nil
}

// closer returns the region to follow the client to, "" if none.
func (m *model) closer(own string) string {
	closest := m.find(m.r.ClosestServer)
	named := ""
	if closest != nil && (closest.Region == own || (m.able(closest.Region) && m.order(closest.Region) == 0)) {
		named = closest.Region
	}
	if m.p.Name == placement.PolicyLiteral {
		if named == "" || named == own || closest.State != events.StateUp || closest.Capacity <= 0 {
			return ""
		}
		return named
	}
	fastest := func(measured bool) (best string) {
		for _, region := range m.regions() {
			ms, sure := m.time(region)
			if region == own || !sure || m.order(region) > 0 || !m.able(region) || (measured && m.measured(region) == 0) {
				continue
			}
			if least, _ := m.time(best); best == "" || ms < least {
				best = region
			}
		}
		return best
	}
	ownMS, ownSure := m.time(own)
	decides := func(best string) string {
		if ms, _ := m.time(best); ownMS-ms >= 10 && ownMS-ms >= ownMS/10 {
			return best
		}
		return ""
	}
	if best := fastest(true); m.measured(own) > 0 && best != "" {
		return decides(best)
	}
	if named != "" {
		if named == own {
			return ""
		}
		return named
	}
	if best := fastest(false); ownSure && best != "" {
		return decides(best)
	}
	return ""
}

func (m *model) decide() placement.Decision {
	if m.p.Name == "" {
		m.p.Name = placement.PolicySpread
	}
	m.x = placement.Draw(m.r.Session, m.r.Generation)
	d := placement.Decision{Verdict: placement.VerdictStay, Policy: m.p.Name, Draw: m.x}
	var target *placement.Server
	target, d.Reason = m.rule(m.find(m.r.Server))
	if target != nil {
		d.Server, d.Region = target.ID, target.Region
		if target.ID != m.r.Server {
			d.Verdict = placement.VerdictMove
		}
	}
	return d
}

// rule returns where the session is to be, nil for nowhere, and why.
func (m *model) rule(own *placement.Server) (*placement.Server, placement.Reason) {
	leave := func(reason placement.Reason) (*placement.Server, placement.Reason) {
		if target := m.destination(); target != nil {
			return target, reason
		}
		if own == nil || m.r.Dead || !own.State.Alive() || !m.allowed(own.Region) {
			return nil, placement.ReasonNoCandidate
		}
		return own, placement.ReasonNoCandidate
	}
	permitted := m.r.Allowed == nil || own != nil && m.allowed(own.Region)
	switch {
	case m.r.Server == "":
		return leave(placement.ReasonLogin)
	case m.r.Stale && permitted && !m.r.Dead && !m.r.Unreachable:
		return own, placement.ReasonViewStale
	case own == nil:
		return leave(placement.ReasonServerDown)
	case m.r.Dead || !own.State.Alive():
		for _, s := range m.servers {
			if s.Region == own.Region && s.ID != own.ID && s.State.Alive() {
				return leave(placement.ReasonServerDown)
			}
		}
		return leave(placement.ReasonRegionDown)
	case m.r.Unreachable:
		return leave(placement.ReasonUnreachable)
	}
	left := 10*time.Minute - m.now.Sub(own.DrainingSince)
	if !own.DrainUntil.IsZero() {
		left = own.DrainUntil.Sub(m.now)
	}
	draining := own.State == events.StateDraining
	if draining && left <= 0 && m.destination() != nil {
		return leave(placement.ReasonServerDraining)
	}
	spelt := func(reason placement.Reason) placement.Reason { return reason }
	if m.r.Critical {
		if m.r.CriticalSince.IsZero() || m.now.Sub(m.r.CriticalSince) <= 30*time.Minute {
			return own, placement.ReasonCriticalTask
		}
		spelt = func(placement.Reason) placement.Reason { return placement.ReasonCriticalExpired }
	}
	if draining && m.turn(math.Min(1, float64(2*time.Minute)/math.Max(1, float64(left)))) {
		return leave(spelt(placement.ReasonServerDraining))
	}
	if !m.allowed(own.Region) {
		return leave(spelt(placement.ReasonResidency))
	}
	if region := m.closer(own.Region); region != "" {
		if m.p.Name != placement.PolicyLiteral && !m.r.MovedAt.IsZero() && m.now.Sub(m.r.MovedAt) < 10*time.Minute {
			return own, placement.ReasonCooldown
		}
		return m.in(region), spelt(placement.ReasonCloserRegion)
	}
	return m.balance(own, spelt)
}

func (m *model) balance(own *placement.Server, spelt func(placement.Reason) placement.Reason) (*placement.Server, placement.Reason) {
	list, mean, u := m.usable(own.Region), m.mean(own.Region), own.Utilisation
	low := lowest(list)
	switch {
	case own.State != events.StateUp:
		return own, placement.ReasonWithinBand
	case low == nil || low.Utilisation >= u:
		return own, placement.ReasonAlreadyBest
	case m.p.Name == placement.PolicyLiteral:
		return low, spelt(placement.ReasonRebalance)
	case m.p.Name == placement.PolicyLowestLoad:
		if u-low.Utilisation < 0.1-1e-9 {
			return own, placement.ReasonWithinBand
		}
		return low, spelt(placement.ReasonRebalance)
	case u <= 1.1*mean || u <= mean+0.03 || !m.turn(min(1, 4*(u-mean)/u)):
		return own, placement.ReasonWithinBand
	}
	target := m.draw(list, func(s placement.Server) float64 { return max(0, mean-s.Utilisation) * s.Capacity })
	if target == nil {
		return own, placement.ReasonNoCandidate
	}
	return target, spelt(placement.ReasonRebalance)
}

// choice draws one of the values, the first being the plain case.
func choice[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// scene draws servers, sorted and each id once, a request about them, and a policy.
func scene(t *rapid.T) ([]placement.Server, []placement.Setting, placement.Request, placement.Policy) {
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
		Stale: choice(t, "stale", false, false, false, true),
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
		Name:     choice(t, "policy", placement.PolicySpread, "", placement.PolicyLiteral, placement.PolicyLowestLoad),
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
	return servers, settings, r, p
}

// TestDecideAgainstTheModel compares Decide with the dumb second implementation.
func TestDecideAgainstTheModel(t *testing.T) {
	reasons := map[placement.Reason]int{}
	check := func(t *rapid.T) {
		servers, settings, r, p := scene(t)
		v := placement.NewView(servers, settings...)
		m := model{servers: servers, set: map[string]placement.Setting{}, r: r, p: p, now: noon}
		for _, s := range settings {
			m.set[s.Region] = s
		}
		want, got := m.decide(), placement.Decide(r, &v, p, noon)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("decision differs (-model +Decide):\n%s", diff)
		}
		checkDecision(t, servers, r, got)
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
