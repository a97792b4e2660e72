package events

import (
	"encoding/json"
	"strings"

	"github.com/berthhq/berth/events/wire"
)

// scanner reads what travels by the 100 000 a second.
type scanner struct{ wire.Scanner }

// prefixHeartbeat begins the subject of every heartbeat.
const prefixHeartbeat = Prefix + string(KindHeartbeat) + "."

// HeartbeatSender returns the region and the server that a heartbeat on subject is of, false
// if none travels there. It checks no more of them: the payload has to agree.
func HeartbeatSender(subject string) (region, server string, ok bool) {
	rest, ok := strings.CutPrefix(subject, prefixHeartbeat)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}

// ScanHeartbeat reads into h what Decode would read from a heartbeat that arrived on subject,
// without reflection. like is the heartbeat that came before it, nil for none: strings, and the
// Replication, that are the same are shared with it, so that only what is new allocates.
//
// It reports false for a payload that is not plain, or not in order; h is of no use then, and
// Decode says what the payload is, or what is wrong with it.
func ScanHeartbeat(subject string, data []byte, h, like *Heartbeat) bool {
	if len(data) > MaxHeartbeat {
		return false
	}
	if like == nil {
		like = new(Heartbeat)
	}
	s := scanner{wire.Scan(data)}
	s.heartbeat(h, like)
	if !s.End() || h.checkFields() != nil {
		return false
	}
	// The URLs of like are in order.
	same := h.URL == like.URL && h.HealthURL == like.HealthURL && h.AuthURL == like.AuthURL
	if (!same || h.URL == "") && checkURLs(h.URL, h.HealthURL, h.AuthURL) != nil {
		return false
	}
	region, server, ok := HeartbeatSender(subject)
	return ok && region == h.Region && server == h.Server
}

// heartbeat reads a heartbeat.
func (s *scanner) heartbeat(h, like *Heartbeat) {
	*h = Heartbeat{}
	var had wire.Fields
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			return
		}
		once := true
		switch string(key) {
		case "version":
			once, h.Version = had.Add(0), s.Whole()
		case "server":
			once, h.Server = had.Add(1), s.Keep(like.Server)
		case "member":
			once, h.Member = had.Add(2), s.Keep(like.Member)
		case "region":
			once, h.Region = had.Add(3), s.Keep(like.Region)
		case "url":
			once, h.URL = had.Add(4), s.Keep(like.URL)
		case "health_url":
			once, h.HealthURL = had.Add(5), s.Keep(like.HealthURL)
		case "auth_url":
			once, h.AuthURL = had.Add(6), s.Keep(like.AuthURL)
		case "boot":
			once, h.Boot = had.Add(7), s.Keep(like.Boot)
		case "seq":
			once, h.Seq = had.Add(8), s.Natural()
		case "at":
			once, h.At = had.Add(9), s.Time()
		case "interval_ms":
			once, h.IntervalMS = had.Add(10), s.Whole()
		case "state":
			once, h.State = had.Add(11), s.state()
		case "capacity":
			once, h.Capacity = had.Add(12), s.Whole()
		case "load":
			once, h.Load = had.Add(13), s.load()
		case "location":
			once, h.Location = had.Add(14), s.location()
		case "replication":
			once, h.Replication = had.Add(15), s.replication(like.Replication)
		case "drain_until":
			once, h.DrainUntil = had.Add(16), s.Time()
		default:
			s.Ignore(key)
		}
		if !once {
			s.Stop()
		}
	}
}

// DecodeServer reads a value of berth_servers, as encoding/json does. Strings that are the same
// in like, which may be nil, are shared with it.
func DecodeServer(data []byte, like *Server) (*Server, error) {
	if like == nil {
		like = new(Server)
	}
	v := new(Server)
	s := scanner{wire.Scan(data)}
	if s.server(v, like); s.End() {
		return v, nil
	}
	*v = Server{}
	if err := json.Unmarshal(data, v); err != nil {
		return nil, malformed("server: %v", err)
	}
	return v, nil
}

// server reads a server. It knows every key; one that it does not may be that of a field
// which was added since, so encoding/json is to read it.
func (s *scanner) server(v, like *Server) {
	var had wire.Fields
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			return
		}
		once := true
		switch string(key) {
		case "server":
			once, v.Server = had.Add(0), s.Keep(like.Server)
		case "region":
			once, v.Region = had.Add(1), s.Keep(like.Region)
		case "url":
			once, v.URL = had.Add(2), s.Keep(like.URL)
		case "health_url":
			once, v.HealthURL = had.Add(3), s.Keep(like.HealthURL)
		case "auth_url":
			once, v.AuthURL = had.Add(4), s.Keep(like.AuthURL)
		case "boot":
			once, v.Boot = had.Add(5), s.Keep(like.Boot)
		case "state":
			once, v.State = had.Add(6), s.state()
		case "reason":
			once, v.Reason = had.Add(7), s.Keep(like.Reason)
		case "since":
			once, v.Since = had.Add(8), s.Time()
		case "protection":
			once, v.Protection = had.Add(9), s.Keep(like.Protection)
		case "rejoined_at":
			once, v.RejoinedAt = had.Add(10), s.Time()
		case "settled":
			once, v.Settled = had.Add(23), s.Bool()
		case "held_until":
			once, v.HeldUntil = had.Add(11), s.Time()
		case "seen_at":
			once, v.SeenAt = had.Add(12), s.Time()
		case "interval_ms":
			once, v.IntervalMS = had.Add(13), s.Whole()
		case "capacity":
			once, v.Capacity = had.Add(14), s.Whole()
		case "load":
			once, v.Load = had.Add(15), s.load()
		case "location":
			once, v.Location = had.Add(16), s.location()
		case "replication":
			once, v.Replication = had.Add(17), s.replication(like.Replication)
		case "seq":
			once, v.Seq = had.Add(18), s.Natural()
		case "load_source":
			once, v.LoadSource = had.Add(22), s.Keep(like.LoadSource)
		case "drain_until":
			once, v.DrainUntil = had.Add(19), s.Time()
		case "region_role":
			once, v.RegionRole = had.Add(20), Role(s.Keep(string(like.RegionRole)))
		case "region_weight":
			once, v.RegionWeight = had.Add(21), s.weight(like.RegionWeight)
		default:
			s.Stop()
		}
		if !once {
			s.Stop()
		}
	}
}

// weight reads a weight; where it is the same as like, it is that one.
func (s *scanner) weight(like *int) *int {
	w := s.Whole()
	if like != nil && *like == w {
		return like
	}
	return new(w)
}

// load reads a Load.
func (s *scanner) load() (l Load) {
	var had wire.Fields
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			break
		}
		once := true
		switch string(key) {
		case "sessions":
			once, l.Sessions = had.Add(0), s.Whole()
		case "in_flight":
			once, l.InFlight = had.Add(1), s.Whole()
		case "max_in_flight":
			once, l.MaxInFlight = had.Add(2), s.Whole()
		case "cpu":
			once, l.CPU = had.Add(3), s.Float()
		case "p99_ms":
			once, l.P99 = had.Add(4), s.Float()
		case "utilisation":
			once, l.Utilisation = had.Add(5), s.Float()
		default:
			s.Ignore(key)
		}
		if !once {
			s.Stop()
		}
	}
	return l
}

// location reads a Location.
func (s *scanner) location() (p Location) {
	var had wire.Fields
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			break
		}
		once := true
		switch string(key) {
		case "lat":
			once, p.Lat = had.Add(0), s.Float()
		case "lon":
			once, p.Lon = had.Add(1), s.Float()
		default:
			s.Ignore(key)
		}
		if !once {
			s.Stop()
		}
	}
	return p
}

// replication reads positions by region; where they are the same as like, they are that map,
// which may be shared and is never changed.
func (s *scanner) replication(like map[string]string) map[string]string {
	from := s.At()
	n, same := 0, true
	var last []byte
	s.Open()
	for ; s.OK(); n++ {
		key, more := s.Key(n == 0)
		if !more {
			break
		}
		if n > 0 && string(key) <= string(last) {
			s.Stop() // not in order: one may come twice
		}
		last = key
		was, had := like[string(key)]
		same = string(s.Text()) == was && had && same
	}
	if !s.OK() || same && n == len(like) && n > 0 {
		return like
	}
	m := make(map[string]string, n)
	s.Back(from)
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			break
		}
		m[string(key)] = string(s.Text())
	}
	return m
}

// state reads a state that this build knows.
func (s *scanner) state() State {
	switch string(s.Text()) {
	case string(StateUp):
		return StateUp
	case string(StateSuspect):
		return StateSuspect
	case string(StateDown):
		return StateDown
	case string(StateDraining):
		return StateDraining
	case string(StateLeft):
		return StateLeft
	}
	s.Stop()
	return ""
}
