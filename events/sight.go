package events

import "time"

// Sight is what a token service saw of the servers when it decided: all that placement reads of a
// view, or what has changed of the one recorded before. It names no session and stays in its region.
//
// A view is recorded when the first decision was made by it, and never twice but as a whole. Decisions
// name it by Instance and Number.
type Sight struct {
	Version int `json:"version"`
	// Region and Instance name the token service, which has another instance at each start.
	Region   string    `json:"region"`
	Instance string    `json:"instance"`
	At       time.Time `json:"at"`
	// Number counts what the instance has seen, from 1; those that were not recorded are missing.
	Number uint64 `json:"sight"`
	// Since is the number of the one recorded before, 0 for the first. Unless Whole is set, what is not
	// named here is as it was there.
	Since uint64 `json:"since"`
	Whole bool   `json:"whole,omitempty"`
	// Part is this part's number, 1 to Of: a sight counts once all its parts are there.
	Part int `json:"part"`
	Of   int `json:"of"`
	// Regions are those of which operators have set something: always all of them, in the first part.
	Regions []SightRegion `json:"regions,omitempty"`
	// Servers are those that are new, or of which more than the utilisation has changed.
	Servers []SightServer `json:"servers,omitempty"`
	// Utilisation is that of servers of which nothing else has changed.
	Utilisation map[string]float64 `json:"utilisation,omitempty"`
	// Gone are the ids of servers that are no more.
	Gone []string `json:"gone,omitempty"`
}

// SightRegion is what operators have set of a region.
type SightRegion struct {
	Region string `json:"region"`
	Role   Role   `json:"role"`
	Weight int    `json:"weight"`
}

// SightServer is what placement reads of a server.
type SightServer struct {
	Server string `json:"server"`
	Region string `json:"region"`
	// State is up also for a suspect server that is used for want of others (FailOpen).
	State State `json:"state"`
	// Capacity is how many sessions it could hold then: a part of its own in slow start.
	Capacity    float64 `json:"capacity"`
	Utilisation float64 `json:"utilisation"`
	// Location is where it stands. Zero: not known.
	Location Location `json:"location,omitzero"`
	// DrainingSince and DrainUntil are the times of its drain. Zero: it is in none, or they are not known.
	DrainingSince time.Time `json:"draining_since,omitzero"`
	DrainUntil    time.Time `json:"drain_until,omitzero"`
	// RejoinedAt is when it came back from the dead. Zero: it did not, or long ago.
	RejoinedAt time.Time `json:"rejoined_at,omitzero"`
}

// MaxSightParts is how many parts a sight has at most.
const MaxSightParts = 4096

// Subject returns sight.<region>.<instance>.
func (s *Sight) Subject() Subject {
	return Subject{Kind: KindSight, Region: s.Region, Instance: s.Instance}
}

func (s *Sight) check() error {
	if err := checkHeader(s.Version, s.At); err != nil {
		return err
	}
	if err := checkTokens([2]string{"region", s.Region}, [2]string{"instance", s.Instance}); err != nil {
		return err
	}
	if s.Since >= s.Number || s.Part < 1 || s.Part > s.Of || s.Of > MaxSightParts {
		return malformed("sight %d since %d, part %d of %d", s.Number, s.Since, s.Part, s.Of)
	}
	for i := range s.Regions {
		if err := s.Regions[i].check(); err != nil {
			return err
		}
	}
	for i := range s.Servers {
		if err := s.Servers[i].check(); err != nil {
			return err
		}
	}
	for id, u := range s.Utilisation {
		if !ValidToken(id) || !(u >= 0) {
			return malformed("utilisation %v of server %q", u, id)
		}
	}
	for _, id := range s.Gone {
		if !ValidToken(id) {
			return malformed("server %q", id)
		}
	}
	return nil
}

func (r *SightRegion) check() error {
	if err := checkRegion(r.Role, &r.Weight); err != nil {
		return err
	}
	return checkTokens([2]string{"region", r.Region})
}

func (s *SightServer) check() error {
	switch {
	case !s.State.Valid():
		return malformed("server %s: state %q", s.Server, s.State)
	case !(s.Capacity >= 0) || !(s.Utilisation >= 0):
		return malformed("server %s: capacity %v, utilisation %v", s.Server, s.Capacity, s.Utilisation)
	}
	if err := checkTokens([2]string{"server", s.Server}, [2]string{"region", s.Region}); err != nil {
		return err
	}
	return s.Location.check()
}
