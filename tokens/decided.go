package tokens

import (
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
	"github.com/berthhq/berth/registry"
)

// decided is a decision with all that it was founded on, for its event.
type decided struct {
	// view is what was seen, with the prices and the sessions on their way, which made has only in the event.
	view *registry.View
	made replay.Case
	// said is what Decide said; without a verdict it was not asked.
	said placement.Decision
}

// decide places a session by its policy.
func (s *Service) decide(pr placement.Request, view *registry.View, now time.Time) decided {
	d := s.undecided(pr, view, now)
	d.said = placement.Decide(pr, &view.View, d.made.Policy, d.made.At)
	return d
}

// undecided is decide without the decision.
func (s *Service) undecided(pr placement.Request, view *registry.View, now time.Time) decided {
	return decided{view: view, made: replay.Case{Request: pr, Policy: s.policy(pr.Session), At: now.Round(0)}}
}

// decisionEvent records a decision, of which d became.
func (s *Service) decisionEvent(f *decided, d placement.Decision, before events.Epoch) *events.Decision {
	f.made.Prices, f.made.Added = f.view.Prices(), f.view.Added()
	e := f.made.Event(f.said, d)
	e.Region, e.Epoch, e.View = s.cfg.Region, before, f.view.Seqs()
	e.Instance, e.Sight = s.recording.instance, s.recording.sight(f.view.Base(), time.Now())
	return e
}
