package tokens

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

// candidates is how many regions a client is given to measure: probing the nearest three
// finds the closest in all but a few of a hundred places.
const candidates = 3

// closest names the servers nearest to the client, one a region: by its location if known,
// else around the region where it arrived.
func (s *Service) closest(c call) (api.ClosestReply, error) {
	view := s.outlook.view(s.cfg.View())
	if view == nil {
		return api.ClosestReply{}, unavailable("the servers are not known yet", nil)
	}
	reply := api.ClosestReply{Basis: "region", Candidates: []api.Candidate{}}
	var regions []int
	if c.location != nil {
		reply.Basis = "location"
		regions = view.Closest(*c.location, candidates)
	} else {
		regions = around(view, c.arrived)
	}
	for _, r := range regions {
		ref, ok := view.Pick(r, placement.Draw(c.address, 0))
		if !ok {
			continue
		}
		server, ok := view.Server(view.ServerID(ref))
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
		return api.ClosestReply{}, noServer()
	}
	first := reply.Candidates[0]
	reply.ClosestServerID, reply.Region, reply.URL = first.ServerID, first.Region, first.URL
	return reply, nil
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
