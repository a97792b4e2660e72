// Package replay promises that a decision which was recorded can be made again: it says how a decision
// and the view that it saw are written down, and what comes of deciding them anew, by the policy that
// was in force, which must be the same, or by another.
package replay

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Config says how decisions are made again.
type Config struct {
	// Candidate gives the policy that is compared with the recorded one, for each session. nil: none is.
	Candidate func(session string) placement.Policy
}

// Replay makes recorded decisions again. It is told the decisions first and then the sights, those of a
// token service in about the order in which they were stored. What it holds grows with the decisions,
// not with the sights. It is owned by one goroutine.
type Replay struct {
	cfg    Config
	report Report
	// services are the token services by instance, waiting counts the decisions that wait for a sight.
	services map[string]*service
	waiting  int
	sessions map[string]*session
	// latest is the newest view, of latestAt.
	latest    *placement.View
	latestAt  time.Time
	latencies []latency
	changes   map[[2]string]int
}

// service is a token service: what it has seen, and its decisions that wait for that, by sight.
type service struct {
	seen    seen
	waiting map[uint64][]*events.Decision
}

// session is where a session was put by the last of its decisions, and would have been.
type session struct {
	at            time.Time
	before, after string // regions, empty for none
}

// latency is the estimated round-trip time in milliseconds of a session to its server.
type latency struct{ before, after float64 }

// New returns a replay of nothing yet.
func New(c Config) *Replay {
	return &Replay{cfg: c, services: map[string]*service{}, sessions: map[string]*session{}, changes: map[[2]string]int{}}
}

// Decision takes a recorded decision.
func (r *Replay) Decision(e *events.Decision) {
	n := &r.report
	n.Decisions++
	n.StandFor += max(1, e.Sampled)
	n.From, n.To = earliest(n.From, e.At), latest(n.To, e.At)
	if _, asked := decidedBy(e); !asked {
		n.NoRule++
		return
	}
	if e.Instance == "" || e.Sight == 0 {
		n.NotRecorded++
		return
	}
	s, ok := r.services[e.Instance]
	if !ok {
		s = &service{waiting: map[uint64][]*events.Decision{}}
		r.services[e.Instance] = s
	}
	s.waiting[e.Sight] = append(s.waiting[e.Sight], e)
	r.waiting++
}

// Sight takes a recorded sight and makes the decisions that have waited for it. It reports whether
// others still wait for theirs. Those of token services of which there is no decision pass by.
func (r *Replay) Sight(e *events.Sight) (wanted bool) {
	if s, ok := r.services[e.Instance]; ok && len(s.waiting) > 0 {
		s.seen.take(e, func(number uint64, view *placement.View) { r.decide(s, number, view, e.At) })
	}
	return r.waiting > 0
}

// Report ends the replay and returns what came of it.
func (r *Replay) Report() *Report {
	for _, s := range r.services {
		s.seen.apply(0, func(number uint64, view *placement.View) { r.decide(s, number, view, time.Time{}) })
	}
	n := &r.report
	n.Services, n.NotRecorded = len(r.services), n.NotRecorded+r.waiting
	r.waiting = 0
	slices.SortFunc(n.Differences, Difference.compare)
	if r.cfg.Candidate != nil {
		n.Candidate = r.compare()
	}
	return n
}

// decide makes the decisions again that saw a view.
func (r *Replay) decide(s *service, number uint64, view *placement.View, at time.Time) {
	list := s.waiting[number]
	if len(list) == 0 {
		return
	}
	delete(s.waiting, number)
	r.waiting -= len(list)
	r.report.Sights++
	if r.latest == nil || at.After(r.latestAt) {
		r.latest, r.latestAt = view, at
	}
	for _, e := range list {
		r.again(e, view)
	}
}

// again makes one decision again.
func (r *Replay) again(e *events.Decision, view *placement.View) {
	c, err := Read(e)
	if err != nil {
		r.report.Unreadable++
		return
	}
	was, _ := decidedBy(e)
	d := c.Decide(view)
	if got := outcomeOf(d); got != was || d.Draw != e.Draw {
		r.report.Differences = append(r.report.Differences, differenceOf(e, was, got))
	} else {
		r.report.Agree++
	}
	if r.cfg.Candidate != nil {
		c.Policy = r.cfg.Candidate(e.Session)
		r.weigh(e, &c, was, view)
	}
}

// weigh makes a decision by the candidate, and notes what that changes.
func (r *Replay) weigh(e *events.Decision, c *Case, was Outcome, view *placement.View) {
	if r.report.Candidate == nil {
		r.report.Candidate = &Candidate{}
	}
	n := r.report.Candidate
	got := outcomeOf(c.Decide(view))
	n.Moves.count(was.moves(e), got.moves(e))
	own, before, after := regionOf(view, e.From), regionOf(view, was.To), regionOf(view, got.To)
	n.Between.count(was.moves(e) && before != own, got.moves(e) && after != own)
	if got != was {
		n.Changed++
		r.changes[[2]string{was.why(), got.why()}]++
		n.Differences = append(n.Differences, differenceOf(e, was, got))
		if got.To != was.To {
			n.Elsewhere++
		}
	}
	if s, ok := r.sessions[e.Session]; !ok || e.At.After(s.at) {
		r.sessions[e.Session] = &session{at: e.At, before: before, after: after}
	}
	was0, ok0 := estimate(c, c.view(view), before)
	got0, ok1 := estimate(c, c.view(view), after)
	if ok0 && ok1 {
		r.latencies = append(r.latencies, latency{was0, got0})
	}
}

// estimate returns the round-trip time from the client of a case to a region, as far as it is known.
func estimate(c *Case, view *placement.View, region string) (ms float64, ok bool) {
	request := c.Request
	request.ClosestServer = "" // which says nothing of the time
	for _, k := range placement.Rank(request, view, c.Policy) {
		if view.Regions[k.Region].Name == region {
			return k.MS, k.Basis != placement.BasisNone
		}
	}
	return 0, false
}

// regionOf returns the region of a server, empty if the view does not know it.
func regionOf(view *placement.View, server string) string {
	if at, ok := view.Find(server); ok {
		return view.RegionName(at)
	}
	return ""
}

// compare sums up what the candidate changes.
func (r *Replay) compare() *Candidate {
	n := cmp.Or(r.report.Candidate, &Candidate{})
	slices.SortFunc(n.Differences, Difference.compare)
	for why, count := range r.changes {
		n.Reasons = append(n.Reasons, Reasons{Before: why[0], After: why[1], Decisions: count})
	}
	slices.SortFunc(n.Reasons, func(a, b Reasons) int {
		return cmp.Or(b.Decisions-a.Decisions, cmp.Compare(a.Before, b.Before), cmp.Compare(a.After, b.After))
	})
	n.Regions = r.loads()
	n.Latency = summary(r.latencies)
	return n
}

// loads returns what each region has to bear of the sessions that were decided on.
func (r *Replay) loads() (list []Load) {
	if r.latest == nil {
		return nil
	}
	before, after := map[string]int{}, map[string]int{}
	for _, s := range r.sessions {
		before[s.before]++
		after[s.after]++
	}
	for i := range r.latest.Regions {
		region := &r.latest.Regions[i]
		l := Load{Region: region.Name, Utilisation: Pair{Before: region.Mean, After: region.Mean}}
		l.Sessions = Count{Before: before[region.Name], After: after[region.Name]}
		if region.Room > 0 {
			l.Utilisation.After = max(0, region.Mean+float64(l.Sessions.After-l.Sessions.Before)/region.Room)
		}
		list = append(list, l)
	}
	return list
}

// summary returns mean and 95th percentile of the times.
func summary(list []latency) Latency {
	l := Latency{Decisions: len(list)}
	if len(list) == 0 {
		return l
	}
	before, after := make([]float64, len(list)), make([]float64, len(list))
	for i, t := range list {
		before[i], after[i] = t.before, t.after
		l.MeanMs.Before += t.before / float64(len(list))
		l.MeanMs.After += t.after / float64(len(list))
	}
	l.P95Ms = Pair{Before: percentile(before, 0.95), After: percentile(after, 0.95)}
	return l
}

func percentile(list []float64, p float64) float64 {
	slices.Sort(list)
	return list[max(0, int(math.Ceil(p*float64(len(list))))-1)]
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
