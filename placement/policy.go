package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The policies: how sessions are shared among the servers of a region.
const (
	// PolicyLiteral is the original rule to the letter: while the closest server is in the
	// session's region, the server with the lowest load; otherwise that very server. It has
	// no band and no cooldown, and does not look at measured times or places.
	PolicyLiteral = "literal"
	// PolicyLowestLoad moves to the lowest reported load, if that is 10 points lower.
	PolicyLowestLoad = "lowest-load"
	// PolicySpread lets a server give away what it has above the region's mean, a share at a
	// time, to servers drawn by what they lack of it.
	PolicySpread = "spread"
	// PolicyP2C compares the session's server with one other, drawn at random, and moves
	// there if it is 5 points better.
	PolicyP2C = "p2c"
	// PolicySpreadLevels is spread, and regions have water levels: what is above goes to, or
	// stays in, other regions.
	PolicySpreadLevels = "spread+levels"
	// PolicySpreadPrices is spread+levels, and the order of the regions is that of the time
	// to each plus its price, so that those leave a full region who lose least by it.
	PolicySpreadPrices = "spread+prices"
)

// PolicyDefault is the policy where none is named.
const PolicyDefault = PolicySpreadPrices

// Policies returns the names of the policies, the plainest first.
func Policies() []string {
	return []string{PolicyLiteral, PolicyLowestLoad, PolicyP2C, PolicySpread, PolicySpreadLevels, PolicySpreadPrices}
}

// sharing is how sessions are shared among the servers of a region.
type sharing uint8

// The ways of sharing.
const (
	shareLiteral sharing = iota
	shareLowest
	shareP2C
	shareSpread
)

// rules is what a policy's name stands for.
type rules struct {
	name   string
	inside sharing
	// levels says that regions have water levels, prices that they have prices too.
	levels, prices bool
}

// Policy is what an operator decides about placement. The zero Policy is valid.
type Policy struct {
	// Name is one of the policies; empty: PolicyDefault.
	Name string
	// Variant names it among the policies that are in force at a time; empty: it is the main one. It
	// decides nothing.
	Variant string
	// CriticalBound is how long a client may claim a critical task without a break; 0: 30 min.
	CriticalBound time.Duration
	// Cooldown is the time after a move during which a session does not follow its client to
	// a closer region; 0: 10 min.
	Cooldown time.Duration
	// ReturnAfter is how long a region that was lost has to be back until sessions return there;
	// 0: 2 min, at most 10 min. It is asked only where all its usable servers were dead.
	ReturnAfter time.Duration
	// DrainDeadline is how long a draining server waits for its sessions to reach a safe
	// point before they move regardless, if its record names no deadline; 0: 10 min.
	DrainDeadline time.Duration
	// RefreshInterval is the time expected between two refreshes of a session, by which a
	// drain is paced; 0: 2 min.
	RefreshInterval time.Duration
	// MaxRTTMs is the round-trip time in milliseconds beyond which no session is placed in
	// another region. It bounds what the client measured or what its location implies; a
	// region of which neither is known is within it. 0: no bound.
	MaxRTTMs float64
}

// The values that a zero field stands for.
const (
	defaultCriticalBound   = 30 * time.Minute
	defaultCooldown        = 10 * time.Minute
	defaultReturnAfter     = 2 * time.Minute
	defaultDrainDeadline   = 10 * time.Minute
	defaultRefreshInterval = 2 * time.Minute
)

// MaxReturnAfter bounds Policy.ReturnAfter: for so long registries know of a server that it was dead.
const MaxReturnAfter = 10 * time.Minute

// Validate returns the first fault of the policy.
func (p Policy) Validate() error {
	if names := Policies(); p.Name != "" && !slices.Contains(names, p.Name) {
		last := len(names) - 1
		return fmt.Errorf("policy %q: want %s or %s", p.Name, strings.Join(names[:last], ", "), names[last])
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"critical bound", p.CriticalBound},
		{"cooldown", p.Cooldown},
		{"return after", p.ReturnAfter},
		{"drain deadline", p.DrainDeadline},
		{"refresh interval", p.RefreshInterval},
	} {
		if d.value < 0 {
			return fmt.Errorf("%s %s: want 0 (the default) or more", d.name, d.value)
		}
	}
	if p.ReturnAfter > MaxReturnAfter {
		return fmt.Errorf("return after %s: want %s at most", p.ReturnAfter, MaxReturnAfter)
	}
	if !(p.MaxRTTMs >= 0) || math.IsInf(p.MaxRTTMs, 0) {
		return fmt.Errorf("max RTT %v ms: want 0 (no bound) or more", p.MaxRTTMs)
	}
	return nil
}

// rules returns the policy that is in force. A name that Validate refuses is the default's.
func (p *Policy) rules() rules {
	switch p.Name {
	case PolicyLiteral:
		return rules{name: PolicyLiteral, inside: shareLiteral}
	case PolicyLowestLoad:
		return rules{name: PolicyLowestLoad, inside: shareLowest}
	case PolicyP2C:
		return rules{name: PolicyP2C, inside: shareP2C}
	case PolicySpread:
		return rules{name: PolicySpread, inside: shareSpread}
	case PolicySpreadLevels:
		return rules{name: PolicySpreadLevels, inside: shareSpread, levels: true}
	default: // PolicyDefault
		return rules{name: PolicySpreadPrices, inside: shareSpread, levels: true, prices: true}
	}
}

// orDefault returns d, or the default where d is not set.
func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// criticalOver reports whether the bound of a critical task has passed.
func (p *Policy) criticalOver(since, now time.Time) bool {
	return !since.IsZero() && now.Sub(since) > orDefault(p.CriticalBound, defaultCriticalBound)
}

// cooling reports whether a move is too recent for another to a closer region.
func (p *Policy) cooling(movedAt, now time.Time) bool {
	return !movedAt.IsZero() && now.Sub(movedAt) < orDefault(p.Cooldown, defaultCooldown)
}

// returned reports whether a region that is back since then is to have its sessions back; zero: it was
// not lost.
func (p *Policy) returned(since, now time.Time) bool {
	return since.IsZero() || now.Sub(since) >= orDefault(p.ReturnAfter, defaultReturnAfter)
}

// drainChance returns the probability that a session leaves its draining server at a
// refresh, so that over the refreshes until the deadline the sessions go evenly: the time
// between two refreshes over the time left. That is counted from the middle of the interval
// which this refresh ends, for those who leave at it stand for all of the interval: counted
// from its end, the drain would run half an interval ahead. It is 1 at the last refresh. A
// drain with neither a known deadline nor a known beginning keeps its first rate.
func (p *Policy) drainChance(since, until, now time.Time) float64 {
	left := orDefault(p.DrainDeadline, defaultDrainDeadline)
	switch {
	case !until.IsZero():
		left = until.Sub(now)
	case !since.IsZero():
		// A beginning in the future is another machine's clock.
		left = min(left, since.Add(left).Sub(now))
	}
	step := orDefault(p.RefreshInterval, defaultRefreshInterval)
	if left <= step {
		return 1
	}
	return float64(step) / (float64(left) + float64(step)/2)
}

// drainOver reports whether a drain's deadline has passed: the one of its record, or else the
// policy's.
func (p *Policy) drainOver(since, until, now time.Time) bool {
	if until.IsZero() && !since.IsZero() {
		until = since.Add(orDefault(p.DrainDeadline, defaultDrainDeadline))
	}
	return !until.IsZero() && !now.Before(until)
}
