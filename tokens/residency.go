package tokens

import (
	"cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Seconds after which it is worth to ask again: what holds for an organization is known within a second
// as a rule; that a region is out takes longer.
const (
	rulesRetry   = 1
	allowedRetry = 5
)

// rules returns what holds for an organization; of none, that all is allowed. An error is an *api.Error.
func (s *Service) rules(org string) (residency.Org, error) {
	if org == "" || s.cfg.Orgs == nil {
		return residency.Org{Jurisdiction: events.GlobalJurisdiction}, nil
	}
	o, err := s.cfg.Orgs.Org(org)
	if err != nil {
		return residency.Org{}, rulesUnknown(err)
	}
	o.Jurisdiction = cmp.Or(o.Jurisdiction, events.GlobalJurisdiction)
	return o, nil
}

// rulesUnknown is what is told while nobody knows where an organization's data may be.
func rulesUnknown(cause error) *api.Error {
	return &api.Error{
		Code: api.CodeUnavailable, Detail: "where sessions of this organization may be is not known here now", Cause: cause, RetryAfter: rulesRetry,
	}
}

// bounds returns where an organization's sessions of a jurisdiction may be. An error is an *api.Error.
func (s *Service) bounds(org, jurisdiction string) (residency.Bounds, error) {
	o, err := s.rules(org)
	if err != nil {
		return residency.Bounds{}, err
	}
	return s.within(o, jurisdiction)
}

// begins returns where an organization's new sessions may be, and their jurisdiction. An error is an *api.Error.
func (s *Service) begins(org string) (b residency.Bounds, jurisdiction string, err error) {
	o, err := s.rules(org)
	if err != nil {
		return residency.Bounds{}, "", err
	}
	b, err = s.within(o, o.Jurisdiction)
	return b, o.Jurisdiction, err
}

// within returns where sessions of a jurisdiction may be by an organization's rules. An error is an *api.Error.
func (s *Service) within(o residency.Org, jurisdiction string) (residency.Bounds, error) {
	b, err := s.cfg.Jurisdictions.Bounds(o, jurisdiction)
	if err != nil {
		return residency.Bounds{}, rulesUnknown(err)
	}
	return b, nil
}

// bind puts into a placement what holds for the session. Where a home region is set that counts, or who
// stands in for it, and neither what is closest to the client, for it would leave its home again and again, nor what the
// session has had to leave.
func bind(pr *placement.Request, b *residency.Bounds, view *registry.View) {
	pr.Allowed = b.Allowed
	if b.Home == "" {
		return
	}
	pr.Home = b.Home
	pr.ClosestServer, pr.RTT, pr.Location, pr.Arrived = "", nil, nil, b.Home
	if usable(view, b.Home) {
		return
	}
	for _, region := range b.Fallbacks {
		if usable(view, region) {
			pr.Arrived = region
			return
		}
	}
}

// usable reports whether a region has a server that takes sessions.
func usable(view *registry.View, region string) bool {
	i, ok := view.Region(region)
	return ok && view.Regions[i].Usable > 0
}

// nowhere is what is told where no server can have a session.
func nowhere(view *registry.View, b *residency.Bounds) *api.Error {
	if b.Allowed == nil {
		return noServer()
	}
	for _, region := range b.Allowed {
		if usable(view, region) {
			return noServer()
		}
	}
	return noAllowedRegion()
}

func noAllowedRegion() *api.Error {
	return &api.Error{
		Code: api.CodeNoAllowedRegion, RetryAfter: allowedRetry,
		Detail: "none of the regions where this organization's sessions may be takes any now; try again in a moment",
	}
}

// ordered returns which of the regions with a usable server may have a session, and those first that the organization wants
// first. The list stays as it is.
func ordered(view *registry.View, b *residency.Bounds, list []int) []int {
	if b.Allowed == nil && b.Home == "" && len(b.Fallbacks) == 0 {
		return list
	}
	names := make([]string, len(list))
	for i, region := range list {
		names[i] = view.Regions[region].Name
	}
	next := make([]int, 0, len(list))
	for _, name := range b.Order(names) {
		if i, ok := view.Region(name); ok {
			next = append(next, i)
		}
	}
	return next
}

// way returns a server of a region through which sessions get in, chosen by the seed.
func way(view *registry.View, region int, seed string) (events.Server, bool) {
	ref, ok := view.Pick(region, placement.Draw(seed, 0))
	if !ok {
		return events.Server{}, false
	}
	return view.Server(view.ServerID(ref))
}

// elsewhere sends somebody on who came to a region where the session may not be: 421 with the way into
// the first region that may have it, and 503 if there is none.
func (s *Service) elsewhere(b *residency.Bounds, arrived, seed string) *api.Error {
	view := s.cfg.View()
	if view == nil {
		return unavailable("the servers are not known yet", nil)
	}
	for _, region := range ordered(view, b, around(view, arrived)) {
		if server, ok := way(view, region, seed); ok {
			return &api.Error{
				Code:   api.CodeLockedElsewhere,
				Detail: "sessions of this organization are not served in region " + s.cfg.Region + "; go to region " + server.Region,
				Server: &api.Server{ID: server.Server, Region: server.Region, URL: server.Auth()},
			}
		}
	}
	return noAllowedRegion()
}

// serves returns why this region may not serve a session that is not here, nil if it may: 421 with the
// way to go, and nothing of the session is stored here or sent on.
func (s *Service) serves(org, jurisdiction string, c *call, session string) error {
	b, err := s.bounds(org, jurisdiction)
	switch {
	case err != nil:
		return err
	case !b.Allows(s.cfg.Region):
		return s.elsewhere(&b, c.arrived, session)
	}
	return nil
}

// home returns the home region of a record's organization that its session may be in, empty if none is set.
func (s *Service) home(rec *sessions.Record) string {
	if rec.Org == "" || s.cfg.Orgs == nil {
		return ""
	}
	b, err := s.bounds(rec.Org, rec.Jurisdiction)
	if err != nil {
		return ""
	}
	return b.Home
}

// noticeOf tells the user of a change, nil if there is none.
func noticeOf(a *sessions.Answer, home string) *api.Notice {
	changed := a.From.Server != ""
	begins := a.Reason == string(placement.ReasonLogin) && !changed
	crossed := begins || changed && a.From.Region != a.Region
	n := api.Notice{SyncedWithinSeconds: int(api.SyncedWithin.Seconds())}
	switch {
	case home != "" && crossed && a.Region != home:
		n.Code, n.Message = api.NoticeCodeTemporaryRegion, api.NoticeTemporaryRegion
	case home != "" && crossed && !begins:
		n.Code, n.Message = api.NoticeCodeHomeRegionRestored, api.NoticeHomeRegionRestored
	case changed:
		n.Code, n.Message = api.NoticeCodeServerChanged, api.NoticeServerChanged
	default:
		return nil
	}
	return &n
}

// tellsAbroad reports whether a server of another region may be told that a session has left it: what is told across
// regions is heard in all of them. Where it may not, that region tells it, once it is asked about the session.
func (s *Service) tellsAbroad(rec *sessions.Record, from events.Home) bool {
	return from.Region == s.cfg.Region || rec.Jurisdiction == events.GlobalJurisdiction
}
