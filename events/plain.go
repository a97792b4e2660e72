package events

import (
	"encoding/json"
	"strings"
)

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
	s := scanner{data: data, ok: true}
	s.heartbeat(h, like)
	if !s.end() || h.checkFields() != nil {
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
	var had fields
	s.open()
	for first := true; s.ok; first = false {
		key, more := s.key(first)
		if !more {
			return
		}
		once := true
		switch string(key) {
		case "version":
			once, h.Version = had.add(0), s.whole()
		case "server":
			once, h.Server = had.add(1), s.keep(like.Server)
		case "member":
			once, h.Member = had.add(2), s.keep(like.Member)
		case "region":
			once, h.Region = had.add(3), s.keep(like.Region)
		case "url":
			once, h.URL = had.add(4), s.keep(like.URL)
		case "health_url":
			once, h.HealthURL = had.add(5), s.keep(like.HealthURL)
		case "auth_url":
			once, h.AuthURL = had.add(6), s.keep(like.AuthURL)
		case "boot":
			once, h.Boot = had.add(7), s.keep(like.Boot)
		case "seq":
			once, h.Seq = had.add(8), s.natural()
		case "at":
			once, h.At = had.add(9), s.time()
		case "interval_ms":
			once, h.IntervalMS = had.add(10), s.whole()
		case "state":
			once, h.State = had.add(11), s.state()
		case "capacity":
			once, h.Capacity = had.add(12), s.whole()
		case "load":
			once, h.Load = had.add(13), s.load()
		case "location":
			once, h.Location = had.add(14), s.location()
		case "replication":
			once, h.Replication = had.add(15), s.replication(like.Replication)
		case "drain_until":
			once, h.DrainUntil = had.add(16), s.time()
		default:
			s.unknown(key)
		}
		if !once {
			s.stop()
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
	s := scanner{data: data, ok: true}
	if s.server(v, like); s.end() {
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
	var had fields
	s.open()
	for first := true; s.ok; first = false {
		key, more := s.key(first)
		if !more {
			return
		}
		once := true
		switch string(key) {
		case "server":
			once, v.Server = had.add(0), s.keep(like.Server)
		case "region":
			once, v.Region = had.add(1), s.keep(like.Region)
		case "url":
			once, v.URL = had.add(2), s.keep(like.URL)
		case "health_url":
			once, v.HealthURL = had.add(3), s.keep(like.HealthURL)
		case "auth_url":
			once, v.AuthURL = had.add(4), s.keep(like.AuthURL)
		case "boot":
			once, v.Boot = had.add(5), s.keep(like.Boot)
		case "state":
			once, v.State = had.add(6), s.state()
		case "reason":
			once, v.Reason = had.add(7), s.keep(like.Reason)
		case "since":
			once, v.Since = had.add(8), s.time()
		case "protection":
			once, v.Protection = had.add(9), s.keep(like.Protection)
		case "rejoined_at":
			once, v.RejoinedAt = had.add(10), s.time()
		case "held_until":
			once, v.HeldUntil = had.add(11), s.time()
		case "seen_at":
			once, v.SeenAt = had.add(12), s.time()
		case "interval_ms":
			once, v.IntervalMS = had.add(13), s.whole()
		case "capacity":
			once, v.Capacity = had.add(14), s.whole()
		case "load":
			once, v.Load = had.add(15), s.load()
		case "location":
			once, v.Location = had.add(16), s.location()
		case "replication":
			once, v.Replication = had.add(17), s.replication(like.Replication)
		case "seq":
			once, v.Seq = had.add(18), s.natural()
		case "load_source":
			once, v.LoadSource = had.add(22), s.keep(like.LoadSource)
		case "drain_until":
			once, v.DrainUntil = had.add(19), s.time()
		case "region_role":
			once, v.RegionRole = had.add(20), Role(s.keep(string(like.RegionRole)))
		case "region_weight":
			once, v.RegionWeight = had.add(21), s.weight(like.RegionWeight)
		default:
			s.stop()
		}
		if !once {
			s.stop()
		}
	}
}

// weight reads a weight; where it is the same as like, it is that one.
func (s *scanner) weight(like *int) *int {
	w := s.whole()
	if like != nil && *like == w {
		return like
	}
	return new(w)
}

// load reads a Load.
func (s *scanner) load() (l Load) {
	var had fields
	s.open()
	for first := true; s.ok; first = false {
		key, more := s.key(first)
		if !more {
			break
		}
		once := true
		switch string(key) {
		case "sessions":
			once, l.Sessions = had.add(0), s.whole()
		case "in_flight":
			once, l.InFlight = had.add(1), s.whole()
		case "max_in_flight":
			once, l.MaxInFlight = had.add(2), s.whole()
		case "cpu":
			once, l.CPU = had.add(3), s.float()
		case "p99_ms":
			once, l.P99 = had.add(4), s.float()
		case "utilisation":
			once, l.Utilisation = had.add(5), s.float()
		default:
			s.unknown(key)
		}
		if !once {
			s.stop()
		}
	}
	return l
}

// location reads a Location.
func (s *scanner) location() (p Location) {
	var had fields
	s.open()
	for first := true; s.ok; first = false {
		key, more := s.key(first)
		if !more {
			break
		}
		once := true
		switch string(key) {
		case "lat":
			once, p.Lat = had.add(0), s.float()
		case "lon":
			once, p.Lon = had.add(1), s.float()
		default:
			s.unknown(key)
		}
		if !once {
			s.stop()
		}
	}
	return p
}

// replication reads positions by region; where they are the same as like, they are that map,
// which may be shared and is never changed.
func (s *scanner) replication(like map[string]string) map[string]string {
	from := s.at
	n, same := 0, true
	var last []byte
	s.open()
	for ; s.ok; n++ {
		key, more := s.key(n == 0)
		if !more {
			break
		}
		if n > 0 && string(key) <= string(last) {
			s.stop() // not in order: one may come twice
		}
		last = key
		was, had := like[string(key)]
		same = string(s.text()) == was && had && same
	}
	if !s.ok || same && n == len(like) && n > 0 {
		return like
	}
	m := make(map[string]string, n)
	s.at = from
	s.open()
	for first := true; s.ok; first = false {
		key, more := s.key(first)
		if !more {
			break
		}
		m[string(key)] = string(s.text())
	}
	return m
}
