package placement_test

import (
	"math"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

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

func capacity(s placement.Server) float64 { return s.Capacity }

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
	switch m.p.Name {
	case placement.PolicyLiteral, placement.PolicyLowestLoad:
		return lowest(list)
	case placement.PolicyP2C:
		first, x := m.draw(list, capacity), m.x
		m.x = m.x*(1<<20) - math.Floor(m.x*(1<<20))
		second := m.draw(list, capacity)
		m.x = x
		if second.Utilisation < first.Utilisation {
			return second
		}
		return first
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
	if own != nil && m.allowed(own.Region) && len(m.usable(own.Region)) > 0 && !m.standby(own.Region) && !m.full(own.Region) {
		return m.in(own.Region)
	}
	best, bestMS := "", 0.0
	for order := range 16 {
		for _, region := range m.regions() {
			ms, _ := m.time(region)
			if closest != nil && closest.Region == region && m.measured(region) == 0 {
				ms = 0
			}
			ms += m.price(region)
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
			if least, _ := m.time(best); best == "" || ms+m.price(region) < least+m.price(best) {
				best = region
			}
		}
		return best
	}
	ownMS, ownSure := m.time(own)
	decides := func(best string) string {
		ms, _ := m.time(best)
		if gain := ownMS + m.price(own) - (ms + m.price(best)); gain >= 10 && gain*10 >= ownMS+m.price(own) {
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
		m.p.Name = placement.PolicySpreadPrices
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
	chance := 1.0
	if left > 2*time.Minute {
		chance = float64(2*time.Minute) / float64(left+time.Minute)
	}
	if draining && m.turn(chance) {
		return leave(spelt(placement.ReasonServerDraining))
	}
	if !m.allowed(own.Region) {
		return leave(spelt(placement.ReasonResidency))
	}
	if region := m.closer(own.Region); region != "" {
		if m.p.Name != placement.PolicyLiteral && !m.r.MovedAt.IsZero() && m.now.Sub(m.r.MovedAt) < 10*time.Minute {
			return own, placement.ReasonCooldown
		}
		if m.welcome(region) {
			if region == m.r.Home {
				return m.in(region), spelt(placement.ReasonHomeRestored)
			}
			return m.in(region), spelt(placement.ReasonCloserRegion)
		}
	}
	if region := m.spill(own); region != "" {
		return m.in(region), spelt(placement.ReasonRegionFull)
	}
	if region := m.home(own); region != "" && m.welcome(region) {
		return m.in(region), spelt(placement.ReasonHomeRestored)
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
	case m.p.Name == placement.PolicyP2C:
		other := m.draw(list, capacity)
		if u-other.Utilisation < 0.05-1e-9 {
			return own, placement.ReasonWithinBand
		}
		return other, spelt(placement.ReasonRebalance)
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

// levels returns the water levels; ok is false where the policy has none.
func (m *model) levels() (low, high float64, ok bool) {
	var load, room float64
	for _, s := range m.servers {
		if s.State == events.StateUp && s.Capacity > 0 {
			load += s.Utilisation * s.Capacity
			room += s.Capacity
		}
	}
	fleet := 0.0
	if room > 0 {
		fleet = load / room
	}
	ok = m.p.Name == placement.PolicySpreadLevels || m.p.Name == placement.PolicySpreadPrices
	return max(0.8, fleet), max(0.85, 1.04*fleet), ok
}

func (m *model) full(region string) bool {
	_, high, ok := m.levels()
	return ok && m.mean(region) >= high
}

// price returns what the policy adds to the time to a region.
func (m *model) price(region string) float64 {
	if m.p.Name != placement.PolicySpreadPrices || len(m.prices) == 0 {
		return 0
	}
	return m.prices[region] + placement.Jitter(m.r.Session, region)
}

func (m *model) welcome(region string) bool {
	back := time.Time{}
	for i, s := range m.usable(region) {
		if s.RejoinedAt.IsZero() {
			back = time.Time{}
			break
		}
		if i == 0 || s.RejoinedAt.Before(back) {
			back = s.RejoinedAt
		}
	}
	if m.p.Name != placement.PolicyLiteral && !back.IsZero() && m.now.Sub(back) < 2*time.Minute {
		return false
	}
	low, _, ok := m.levels()
	return !ok || m.turn(min(1, max(0, 4*(low-m.mean(region))/low)))
}

// spill returns the region for a session drawn to leave its own, "" for none.
func (m *model) spill(own *placement.Server) (best string) {
	_, high, _ := m.levels()
	mean := m.mean(own.Region)
	if !m.full(own.Region) || own.State != events.StateUp || own.Capacity <= 0 || !m.turn(min(1, 4*(mean-high)/mean)) {
		return ""
	}
	least := 0.0
	for _, region := range m.regions() {
		ms := m.wait(region)
		if region != own.Region && m.able(region) && m.order(region) == 0 && (best == "" || ms < least) {
			best, least = region, ms
		}
	}
	return best
}

// wait returns the time to a region by which it is ordered.
func (m *model) wait(region string) float64 {
	ms, _ := m.time(region)
	if closest := m.find(m.r.ClosestServer); closest != nil && closest.Region == region && m.measured(region) == 0 {
		ms = 0
	}
	return ms + m.price(region)
}

// home returns the region to go back to, "" for none.
func (m *model) home(own *placement.Server) string {
	home := m.r.Home
	cooling := !m.r.MovedAt.IsZero() && m.now.Sub(m.r.MovedAt) < 10*time.Minute
	if m.p.Name == placement.PolicyLiteral || cooling || home == own.Region || !slices.Contains(m.regions(), home) ||
		!m.able(home) || m.order(home) != 0 {
		return ""
	}
	if m.sure(own.Region) && m.sure(home) {
		if gain := m.wait(home) - m.wait(own.Region); gain >= 10 && gain*10 >= m.wait(home) {
			return ""
		}
	}
	return home
}

// sure reports whether the time to a region says something of the client.
func (m *model) sure(region string) bool {
	closest := m.find(m.r.ClosestServer)
	_, sure := m.time(region)
	return sure && !(closest != nil && closest.Region == region && m.measured(region) == 0)
}
