package tokens

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"slices"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// candidates is how many regions a client is given to measure: probing the nearest three
// finds the closest in all but a few of a hundred places.
const candidates = 3

// What an answer to closestToMe rests on.
const (
	basisRTT      = "rtt"      // times that the client has measured
	basisLocation = "location" // its own word
	basisGeoIP    = "geoip"    // its address
	basisRegion   = "region"   // where its request arrived
)

// closest names the servers nearest to the client, one a region: by the times that it has measured, then by its
// location if known, else around the region where it arrived; for an organization, of its regions alone, its home first.
func (s *Service) closest(c call, org string, times *sessions.Measured) (api.ClosestReply, error) {
	view := s.outlook.view(s.cfg.View())
	if view == nil {
		return api.ClosestReply{}, unavailable("the servers are not known yet", nil)
	}
	b, _, err := s.begins(org)
	if err != nil {
		return api.ClosestReply{}, err
	}
	reply := api.ClosestReply{Candidates: []api.Candidate{}}
	var regions []int
	regions, reply.Basis = s.nearest(view, &c, times)
	for _, r := range ordered(view, &b, regions) {
		server, ok := way(view, r, c.address)
		if !ok {
			continue
		}
		reply.Candidates = append(reply.Candidates, api.Candidate{
			ServerID: server.Server, Region: server.Region, URL: server.URL, ProbeURL: server.Health(),
		})
		if len(reply.Candidates) == candidates {
			break
		}
	}
	if len(reply.Candidates) == 0 {
		return api.ClosestReply{}, nowhere(view, &b)
	}
	first := reply.Candidates[0]
	reply.ClosestServerID, reply.Region, reply.URL = first.ServerID, first.Region, first.URL
	return reply, nil
}

// nearest returns the regions, the nearest to the client first, and what that rests on.
func (s *Service) nearest(view *registry.View, c *call, times *sessions.Measured) (regions []int, basis string) {
	switch at := s.whereabouts(c); {
	case at == nil:
		regions, basis = around(view, c.arrived), basisRegion
	case c.location == nil:
		regions, basis = view.Closest(*at, len(view.Regions)), basisGeoIP
	default:
		regions, basis = view.Closest(*at, len(view.Regions)), basisLocation
	}
	if times == nil {
		return regions, basis
	}
	regions = slices.Clone(regions)
	slices.SortStableFunc(regions, func(a, b int) int {
		return cmp.Compare(measuredTo(view, a, times), measuredTo(view, b, times))
	})
	if len(regions) > 0 && !math.IsInf(measuredTo(view, regions[0], times), 1) {
		basis = basisRTT
	}
	return regions, basis
}

// measuredTo returns the time to a region, infinite if it was not measured, or takes sessions only where no other does.
func measuredTo(view *registry.View, region int, times *sessions.Measured) float64 {
	r := &view.Regions[region]
	for _, t := range times.Regions {
		if t.Region == r.Name && r.Usable > 0 && r.Role != events.RoleStandby && r.Weight > 0 {
			return t.MS
		}
	}
	return math.Inf(1)
}

// around returns the region itself and then the others, nearest to it first.
func around(view *registry.View, region string) []int {
	var list []int
	if own, ok := view.Region(region); ok {
		list = append(list, own)
	}
	return append(list, view.Fallbacks(region)...)
}

// servers lists the region's servers that take sessions, without their load, and a tag that
// changes with the list.
func (s *Service) servers() (api.ServersReply, string, error) {
	view := s.cfg.View()
	if view == nil {
		return api.ServersReply{}, "", unavailable("the servers are not known yet", nil)
	}
	reply := api.ServersReply{Region: s.cfg.Region, Servers: []api.Server{}}
	sum := sha256.New()
	for _, server := range view.Servers {
		if server.Region != s.cfg.Region || server.State != events.StateUp {
			continue
		}
		reply.Servers = append(reply.Servers, api.Server{ID: server.Server, Region: server.Region, URL: server.URL})
		fmt.Fprintf(sum, "%s %s\n", server.Server, server.URL)
	}
	return reply, `"` + base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:12]) + `"`, nil
}
