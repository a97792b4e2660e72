package replay

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Case is a decision as placement.Decide was asked for it, all but the view.
type Case struct {
	Request placement.Request
	Policy  placement.Policy
	// At is the time by which it was decided. It has no monotonic reading: those do not outlive a process.
	At time.Time
	// Prices and Added are what was known besides the view that is recorded.
	Prices placement.Prices
	Added  placement.Added
}

// Decide decides the case by a view that was recorded.
func (c *Case) Decide(seen *placement.View) placement.Decision {
	return placement.Decide(c.Request, c.view(seen), c.Policy, c.At)
}

// view returns what the case was decided by: the view that was recorded, and on top of it what the
// decision itself says that it added.
func (c *Case) view(seen *placement.View) *placement.View {
	if len(c.Prices) > 0 {
		priced := seen.WithPrices(c.Prices)
		seen = &priced
	}
	if len(c.Added) > 0 {
		added := seen.WithAdded(c.Added)
		seen = &added
	}
	return seen
}

// Event writes the case down, what Decide said, and what became of it. decided without a verdict: Decide
// was not asked. The caller adds who decided, the epoch, and which view it was.
func (c *Case) Event(decided, final placement.Decision) *events.Decision {
	r := &c.Request
	e := &events.Decision{
		Version: events.Version, At: c.At.UTC(), Session: r.Session, Generation: r.Generation,
		Verdict: string(final.Verdict), Reason: string(final.Reason), From: r.Server, To: final.Server,
		Policy: cmp.Or(c.Policy.Name, placement.PolicyDefault), Variant: c.Policy.Variant, Limits: limits(&c.Policy), Draw: decided.Draw,
		Prices: c.Prices, Added: c.Added,
		Facts: events.Facts{
			Arrived: r.Arrived, Allowed: named(r.Allowed), Home: r.Home, ClosestServer: r.ClosestServer, Critical: r.Critical,
			CriticalSince: instant(r.CriticalSince), MovedAt: instant(r.MovedAt), Location: r.Location,
			RTTMs: measured(r.RTT), Dead: r.Dead, Unreachable: r.Unreachable, Stale: r.Stale,
		},
	}
	if decided.Verdict != "" && outcomeOf(decided) != outcomeOf(final) {
		e.Decided = &events.Decided{Verdict: string(decided.Verdict), Reason: string(decided.Reason), To: decided.Server}
	}
	return e
}

// Read returns the case of an event. It fails if this build cannot decide it again.
func Read(e *events.Decision) (Case, error) {
	f := &e.Facts
	c := Case{
		At: e.At,
		Request: placement.Request{
			Session: e.Session, Generation: e.Generation, Server: e.From, Arrived: f.Arrived, ClosestServer: f.ClosestServer,
			Location: f.Location, RTT: times(f.RTTMs), Critical: f.Critical, CriticalSince: since(f.CriticalSince),
			MovedAt: since(f.MovedAt), Home: f.Home, Dead: f.Dead, Unreachable: f.Unreachable, Stale: f.Stale, Allowed: f.Allowed,
		},
		Policy: placement.Policy{Name: e.Policy, Variant: e.Variant},
		Prices: e.Prices, Added: e.Added,
	}
	if l := e.Limits; l != nil {
		c.Policy.MaxRTTMs = l.MaxRTTMs
		for _, t := range []struct {
			name, text string
			to         *time.Duration
		}{
			{"critical_bound", l.CriticalBound, &c.Policy.CriticalBound},
			{"cooldown", l.Cooldown, &c.Policy.Cooldown},
			{"return_after", l.ReturnAfter, &c.Policy.ReturnAfter},
			{"drain_deadline", l.DrainDeadline, &c.Policy.DrainDeadline},
			{"refresh_interval", l.RefreshInterval, &c.Policy.RefreshInterval},
		} {
			d, err := time.ParseDuration(cmp.Or(t.text, "0s"))
			if err != nil {
				return Case{}, fmt.Errorf("read decision: %s %q: want a time such as 90s", t.name, t.text)
			}
			*t.to = d
		}
	}
	if err := c.Policy.Validate(); err != nil {
		return Case{}, fmt.Errorf("read decision: %w", err)
	}
	return c, nil
}

// decidedBy returns what Decide said for an event, false if it was not asked.
func decidedBy(e *events.Decision) (Outcome, bool) {
	if d := e.Decided; d != nil {
		return Outcome{Verdict: d.Verdict, Reason: d.Reason, To: d.To}, true
	}
	switch placement.Reason(e.Reason) {
	case placement.ReasonStoreUnavailable, placement.ReasonTargetRefused, placement.ReasonReplicaBehind:
		return Outcome{}, false
	default:
		return Outcome{Verdict: e.Verdict, Reason: e.Reason, To: e.To}, true
	}
}

// limits returns the numbers of a policy that are not the defaults, nil if all are.
func limits(p *placement.Policy) *events.Limits {
	l := events.Limits{
		CriticalBound: written(p.CriticalBound), Cooldown: written(p.Cooldown), ReturnAfter: written(p.ReturnAfter),
		DrainDeadline: written(p.DrainDeadline), RefreshInterval: written(p.RefreshInterval), MaxRTTMs: p.MaxRTTMs,
	}
	if l == (events.Limits{}) {
		return nil
	}
	return &l
}

func written(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// named returns the regions of a request, sorted. The empty list, which allows none, would be left out, as
// the nil one is, which allows all: in its place stands the name that no region has.
func named(regions []string) []string {
	switch {
	case regions != nil && len(regions) == 0:
		return []string{""}
	case slices.IsSorted(regions):
		return regions
	default:
		return slices.Sorted(slices.Values(regions))
	}
}

// measured returns round-trip times by server, nil for none.
func measured(list []placement.RTT) map[string]float64 {
	if len(list) == 0 {
		return nil
	}
	ms := make(map[string]float64, len(list))
	for _, r := range list {
		ms[r.ServerID] = r.MS
	}
	return ms
}

// times is the inverse of measured.
func times(ms map[string]float64) (list []placement.RTT) {
	for _, id := range slices.Sorted(maps.Keys(ms)) {
		list = append(list, placement.RTT{ServerID: id, MS: ms[id]})
	}
	return list
}

// instant returns t for a field that is left out where there is none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// since is the inverse of instant.
func since(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
