package events

import (
	"encoding/json"
	"errors"
	"math"
	"time"
)

// Server is one server as the registry of its region sees it: an element of a view update
// and the value of its key in berth_servers.
type Server struct {
	Server    string `json:"server"`
	Region    string `json:"region"`
	URL       string `json:"url"`
	HealthURL string `json:"health_url,omitempty"`
	AuthURL   string `json:"auth_url,omitempty"`
	Boot      string `json:"boot"`
	State     State  `json:"state"`
	// Reason says why it is in that state, Since when that began.
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// Protection is what keeps the server from a false verdict, while its region's registry
	// sees signs of a fault that is not the servers': Protected, or FailOpen for one that is
	// suspect and to be used all the same. Empty: none.
	Protection string `json:"protection,omitempty"`
	// RejoinedAt is when it came back from the dead, less than ten minutes ago. Until it is Settled,
	// in its first minute, that is a slow start, in which it is taken to have a part of its
	// Capacity. Zero: it did not.
	RejoinedAt time.Time `json:"rejoined_at,omitzero"`
	Settled    bool      `json:"settled,omitempty"`
	// HeldUntil is how long it is held down because it came and went too often. Zero: not.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// DrainUntil is when its drain ends: sessions that have reached no safe point by then move
	// regardless. Zero: nobody wants it drained.
	DrainUntil time.Time `json:"drain_until,omitzero"`
	// RegionRole and RegionWeight are those of its region, in berth_servers alone. Empty:
	// active; nil: FullWeight.
	RegionRole   Role `json:"region_role,omitempty"`
	RegionWeight *int `json:"region_weight,omitempty"`
	// SeenAt is when its last heartbeat arrived, by the registry's clock.
	SeenAt time.Time `json:"seen_at"`
	// IntervalMS is its own heartbeat interval in milliseconds.
	IntervalMS int  `json:"interval_ms"`
	Capacity   int  `json:"capacity"`
	Load       Load `json:"load"`
	// LoadSource names the telemetry system that Load, or a part of it, comes from. Empty: the
	// server itself.
	LoadSource  string            `json:"load_source,omitempty"`
	Location    Location          `json:"location"`
	Replication map[string]string `json:"replication,omitempty"`
	// Seq is the view update of its region that brought this value.
	Seq uint64 `json:"seq"`
}

// Key returns the server's key in berth_servers: <region>.<server>.
func (s *Server) Key() string { return s.Region + "." + s.Server }

// Health returns the URL that probes ask.
func (s *Server) Health() string {
	if s.HealthURL != "" {
		return s.HealthURL
	}
	return s.URL + "/healthz"
}

// Auth returns the base URL of the token paths that the server passes on.
func (s *Server) Auth() string {
	if s.AuthURL != "" {
		return s.AuthURL
	}
	return s.URL
}

// Validate returns the first fault of a server, as ErrMalformed: no view update may carry it.
func (s *Server) Validate() error {
	if err := checkTokens([2]string{"server", s.Server}, [2]string{"region", s.Region}); err != nil {
		return err
	}
	if !s.State.Valid() {
		return malformed("server %s: state %q", s.Server, s.State)
	}
	if err := checkRegion(s.RegionRole, s.RegionWeight); err != nil {
		return err
	}
	if err := s.Load.check(math.MaxFloat64); err != nil {
		return err
	}
	if err := s.Location.check(); err != nil {
		return err
	}
	return checkURLs(s.URL, s.HealthURL, s.AuthURL)
}

// ViewUpdate tells the other regions what changed in one: each second the servers that
// changed, a change of state at once, every 30 s all of them in parts.
type ViewUpdate struct {
	Version int    `json:"version"`
	Region  string `json:"region"`
	// Seq counts the region's updates from 1; the parts of a full one share it.
	Seq uint64    `json:"seq"`
	At  time.Time `json:"at"`
	// Full says that Servers, over all parts, is every server that the region knows: others
	// are gone.
	Full bool `json:"full,omitempty"`
	// Part is this part's number, 1 to Of. Both are 1 for an update in one piece.
	Part int `json:"part"`
	Of   int `json:"of"`
	// Servers are the servers that changed, or all.
	Servers []Server `json:"servers"`
	// Role and Weight are the region's. Empty: active; nil: FullWeight.
	Role   Role `json:"role,omitempty"`
	Weight *int `json:"weight,omitempty"`
	// Sees maps each other region to the age in milliseconds of what this one last heard
	// of it.
	Sees map[string]int64 `json:"sees,omitempty"`
	// RTTMs maps each other region to the round-trip time to it in milliseconds, Demand each
	// region to how many sessions that come from there this one serves.
	RTTMs  map[string]float64 `json:"rtt_ms,omitempty"`
	Demand map[string]float64 `json:"demand,omitempty"`
}

// Subject returns view.<region>.
func (u *ViewUpdate) Subject() Subject { return Subject{Kind: KindView, Region: u.Region} }

// ViewHead is what a view update says besides its servers.
type ViewHead struct {
	Version int       `json:"version"`
	Region  string    `json:"region"`
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
	// Sees, RTTMs and Demand are those of ViewUpdate.
	Sees   map[string]int64   `json:"sees,omitempty"`
	RTTMs  map[string]float64 `json:"rtt_ms,omitempty"`
	Demand map[string]float64 `json:"demand,omitempty"`
}

// DecodeViewHead reads a view update from subject without its servers, for those who only want
// to know that the region is there and how far it has counted. Its errors are those of Decode.
func DecodeViewHead(subject string, data []byte) (ViewHead, error) {
	var head ViewHead
	if len(data) > MaxSize {
		return head, malformed("%s: %d bytes, at most %d are read", subject, len(data), MaxSize)
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return head, malformed("%s: %v", subject, err)
	}
	if err := checkHeader(head.Version, head.At); err != nil {
		return head, err
	}
	if got := (Subject{Kind: KindView, Region: head.Region}).String(); got != subject || head.Seq == 0 {
		return head, malformed("payload of %s arrived on %s", got, subject)
	}
	return head, errors.Join(checkOrigins("rtt_ms", head.RTTMs), checkOrigins("demand", head.Demand))
}

func (u *ViewUpdate) check() error {
	if err := checkHeader(u.Version, u.At); err != nil {
		return err
	}
	if err := checkTokens([2]string{"region", u.Region}); err != nil {
		return err
	}
	if u.Seq == 0 || u.Part < 1 || u.Part > u.Of {
		return malformed("view update %d, part %d of %d", u.Seq, u.Part, u.Of)
	}
	if err := checkRegion(u.Role, u.Weight); err != nil {
		return err
	}
	if err := errors.Join(checkOrigins("rtt_ms", u.RTTMs), checkOrigins("demand", u.Demand)); err != nil {
		return err
	}
	for i := range u.Servers {
		if err := u.Servers[i].Validate(); err != nil {
			return err
		}
		if u.Servers[i].Region != u.Region {
			return malformed("server %s of region %s in an update of %s", u.Servers[i].Server, u.Servers[i].Region, u.Region)
		}
	}
	return nil
}
