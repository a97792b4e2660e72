package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// orgCache is how long a client may keep where an organization's sessions are without asking: a change
// is known in a second.
const orgCache = "private, max-age=1"

// serveOrg says where an organization's sessions are. Unknown organizations are answered like known ones.
func (s *Service) serveOrg(_ context.Context, c call, r *http.Request, _ none) (message, error) {
	name := r.PathValue("org")
	if !events.ValidToken(name) {
		return message{}, invalid(api.FieldError{Location: "path.org", Message: "want 1 to 64 of a-z 0-9 - _"})
	}
	reply, err := s.orgPlaces(name, c.arrived)
	if err != nil {
		return message{}, err
	}
	m, err := success(reply)
	if err != nil {
		return message{}, err
	}
	sum := sha256.Sum256(m.body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	header := http.Header{"Etag": {tag}, "Cache-Control": {orgCache}}
	if strings.Contains(r.Header.Get("If-None-Match"), tag) {
		return message{status: http.StatusNotModified, header: header}, nil
	}
	m.header = header
	return m, nil
}

// orgPlaces returns the regions of an organization's new sessions, for somebody who came to a region.
func (s *Service) orgPlaces(name, arrived string) (api.OrgReply, error) {
	view := s.cfg.View()
	if view == nil {
		return api.OrgReply{}, unavailable("the servers are not known yet", nil)
	}
	b, _, err := s.begins(name)
	if err != nil {
		return api.OrgReply{}, err
	}
	reply := api.OrgReply{HomeRegion: b.Home, AllowedRegions: append([]string{}, b.Allowed...), FallbackRegions: []string{}}
	if b.Allowed == nil {
		for i := range view.Regions {
			reply.AllowedRegions = append(reply.AllowedRegions, view.Regions[i].Name)
		}
	}
	for _, i := range ordered(view, &b, around(view, arrived)) {
		server, ok := way(view, i, name)
		if !ok {
			continue
		}
		if reply.URL == "" {
			reply.URL, reply.Region = server.Auth(), server.Region
		}
		switch region := view.Regions[i].Name; {
		case reply.HomeRegion == "":
			reply.HomeRegion = region
		case region != reply.HomeRegion:
			reply.FallbackRegions = append(reply.FallbackRegions, region)
		}
	}
	return reply, nil
}

// orgOf returns the organization that a look-up is for: as it says, or as its access token does. That is not
// verified, for whoever asks may name any.
func orgOf(r *http.Request) (string, error) {
	org := r.URL.Query().Get("org")
	if org == "" {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		parts := strings.Split(token, ".")
		if !ok || len(parts) != 3 || len(token) > api.MaxToken {
			return "", nil
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		var claims struct {
			Org string `json:"org"`
		}
		if err != nil || json.Unmarshal(payload, &claims) != nil || !events.ValidToken(claims.Org) {
			return "", nil
		}
		return claims.Org, nil
	}
	if !events.ValidToken(org) {
		return "", invalid(api.FieldError{Location: "query.org", Message: "want 1 to 64 of a-z 0-9 - _"})
	}
	return org, nil
}
