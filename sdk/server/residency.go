package server

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// residence knows which jurisdictions the server's region is in, as far as its token services have shown.
type residence struct {
	// mu guards served.
	mu     sync.Mutex
	served map[string]bool
}

// inside reports whether a token service of the region is known to serve a jurisdiction.
func (r *residence) inside(jurisdiction string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return jurisdiction == events.GlobalJurisdiction || r.served[jurisdiction]
}

// maxServed bounds how many are remembered: tokens that are not verified name them.
const maxServed = 256

func (r *residence) answered(jurisdiction string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil {
		r.served = map[string]bool{}
	}
	if len(r.served) < maxServed {
		r.served[jurisdiction] = true
	}
}

// elsewhere returns why a token of a jurisdiction is not passed on, nil if it is: the sessions of its
// organization may not be in this region. Nothing of the token goes to NATS before that is known, but for the
// organization's name.
func (a *Agent) elsewhere(ctx context.Context, p peeked, header http.Header) *api.Error {
	if p.org == "" || a.residence.inside(p.jurisdiction) {
		return nil
	}
	o, err := a.lookUp(ctx, p.org, header)
	if err != nil {
		return err
	}
	return a.outside(&o)
}

// mayBegin returns why no session of an organization begins in this region, nil if one may. Where that cannot be
// looked up the token service says it, to whom it is no news who wants one.
func (a *Agent) mayBegin(ctx context.Context, org string, header http.Header) *api.Error {
	o, err := a.lookUp(ctx, org, header)
	if err != nil {
		return nil
	}
	return a.outside(&o)
}

// lookUp asks where an organization's sessions are.
func (a *Agent) lookUp(ctx context.Context, org string, header http.Header) (api.OrgReply, *api.Error) {
	h := http.Header{api.HeaderOrg: {org}}
	for _, name := range []string{api.HeaderDeadline, api.HeaderArrived} {
		h[name] = header[name]
	}
	var o api.OrgReply
	answer, err := a.askTokens(ctx, events.GlobalJurisdiction, api.MethodOrg, h, nil)
	switch {
	case err != nil:
		return o, a.notAnswering(err)
	case answer.status != http.StatusOK || json.Unmarshal(answer.body, &o) != nil:
		return o, unavailable("where sessions of this organization may be is not known here now", nil)
	default:
		return o, nil
	}
}

// outside returns what is told of an organization's sessions that may not be in this region, nil if they may.
func (a *Agent) outside(o *api.OrgReply) *api.Error {
	switch {
	case slices.Contains(o.AllowedRegions, a.cfg.Region):
		return nil
	case o.URL == "":
		return &api.Error{
			Code: api.CodeNoAllowedRegion, RetryAfter: 5,
			Detail: "none of the regions where this organization's sessions may be takes any now; try again in a moment",
		}
	}
	return &api.Error{
		Code:   api.CodeLockedElsewhere,
		Detail: "sessions of this organization are not served in region " + a.cfg.Region + "; go to " + o.URL,
		Server: &api.Server{Region: o.Region, URL: o.URL},
	}
}
