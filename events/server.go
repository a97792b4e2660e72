package events

import (
	"net/url"
	"time"
)

// State is what a registry holds of a server.
type State string

// The states of a server.
const (
	// StateUp takes sessions.
	StateUp State = "up"
	// StateSuspect keeps its sessions and gets no new ones.
	StateSuspect State = "suspect"
	// StateDown is dead: its sessions move.
	StateDown State = "down"
	// StateDraining gives its sessions away at their safe points.
	StateDraining State = "draining"
	// StateLeft has said goodbye, or was down for so long that it is forgotten.
	StateLeft State = "left"
)

// Valid reports whether s is one of the states.
func (s State) Valid() bool {
	switch s {
	case StateUp, StateSuspect, StateDown, StateDraining, StateLeft:
		return true
	}
	return false
}

// Alive reports whether a server in this state may keep the sessions it has.
func (s State) Alive() bool { return s == StateUp || s == StateSuspect || s == StateDraining }

// Load is how busy a server is, as it says itself.
type Load struct {
	// Sessions is how many sessions are locked to the server.
	Sessions int `json:"sessions"`
	// InFlight is the number of requests in progress, MaxInFlight how many it can bear
	// (0: unknown).
	InFlight    int `json:"in_flight"`
	MaxInFlight int `json:"max_in_flight"`
	// CPU is the share of its processors in use, 0 to 1.
	CPU float64 `json:"cpu"`
	// P99 is the 99th percentile of its response times in milliseconds.
	P99 float64 `json:"p99_ms"`
	// Utilisation is the load as one fraction of what the server can bear: 0 idle, 1 full,
	// more is overload. max(sessions/capacity, in_flight/max_in_flight, cpu/0.8) smoothed
	// over 5 s, unless the application sets it.
	Utilisation float64 `json:"utilisation"`
}

// Heartbeat is what a regional server, or each member of a cell, says about itself every
// second, give or take a tenth.
type Heartbeat struct {
	Version int    `json:"version"`
	Server  string `json:"server"`
	// Member names the process behind the server's URL; empty where there is just one.
	Member string `json:"member,omitempty"`
	Region string `json:"region"`
	// URL is where clients reach the server; HealthURL where probes do (empty: URL +
	// "/healthz"); AuthURL is the base of the token paths that it passes on (empty: URL).
	URL       string `json:"url"`
	HealthURL string `json:"health_url,omitempty"`
	AuthURL   string `json:"auth_url,omitempty"`
	// Boot is the ULID of this start of the process, Seq counts its heartbeats from 1:
	// (Boot, Seq) orders the heartbeats of a member.
	Boot string    `json:"boot"`
	Seq  uint64    `json:"seq"`
	At   time.Time `json:"at"`
	// IntervalMS is the time to the next heartbeat in milliseconds.
	IntervalMS int `json:"interval_ms"`
	// State is up, draining or left (the last word before the process ends).
	State State `json:"state"`
	// DrainUntil is, with draining, when sessions that have reached no safe point are to move
	// regardless. Zero: the registry's default.
	DrainUntil time.Time `json:"drain_until,omitzero"`
	// Capacity is how many sessions the server can hold, more than 0.
	Capacity int      `json:"capacity"`
	Load     Load     `json:"load"`
	Location Location `json:"location"`
	// Replication maps each region of origin to the position that this server's replica of
	// it has reached. Positions are opaque and compare as strings.
	Replication map[string]string `json:"replication,omitempty"`
}

// Subject returns heartbeat.<region>.<server>.
func (h *Heartbeat) Subject() Subject {
	return Subject{Kind: KindHeartbeat, Region: h.Region, Server: h.Server}
}

// Bounds of a heartbeat's fields.
const (
	minInterval = 100        // ms
	maxInterval = 60_000     // ms
	maxCapacity = 10_000_000 // sessions
	maxBoot     = 26         // a ULID's length
	maxLoad     = 1e9        // of each field of a load, so that a cell's sums are finite
)

func (h *Heartbeat) check() error {
	if err := h.checkFields(); err != nil {
		return err
	}
	return checkURLs(h.URL, h.HealthURL, h.AuthURL)
}

// checkFields checks all but the URLs.
func (h *Heartbeat) checkFields() error {
	if err := checkHeader(h.Version, h.At); err != nil {
		return err
	}
	if err := checkTokens([2]string{"server", h.Server}, [2]string{"region", h.Region}); err != nil {
		return err
	}
	switch {
	case h.Member != "" && !ValidToken(h.Member):
		return malformed("member %q: want 1 to %d of a-z 0-9 - _", h.Member, MaxToken)
	case len(h.Boot) != maxBoot:
		return malformed("boot %q: want a ULID", h.Boot)
	case h.Seq == 0:
		return malformed("seq 0: heartbeats count from 1")
	case h.IntervalMS < minInterval || h.IntervalMS > maxInterval:
		return malformed("interval_ms %d: want %d to %d", h.IntervalMS, minInterval, maxInterval)
	case h.State != StateUp && h.State != StateDraining && h.State != StateLeft:
		return malformed("state %q: a server says up, draining or left", h.State)
	case h.Capacity < 1 || h.Capacity > maxCapacity:
		return malformed("capacity %d: want 1 to %d", h.Capacity, maxCapacity)
	}
	if err := h.Load.check(maxLoad); err != nil {
		return err
	}
	return h.Location.check()
}

func (l Load) check(most float64) error {
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"sessions", float64(l.Sessions)},
		{"in_flight", float64(l.InFlight)},
		{"max_in_flight", float64(l.MaxInFlight)},
		{"cpu", l.CPU},
		{"p99_ms", l.P99},
		{"utilisation", l.Utilisation},
	} {
		if !(f.value >= 0 && f.value <= most) {
			return faulty(FaultLoad, "load %s %v: want a number from 0 to %g", f.name, f.value, most)
		}
	}
	return nil
}

// checkURLs fails unless the first is an http(s) URL and each of the others is one or empty.
func checkURLs(first string, others ...string) error {
	for i, raw := range append([]string{first}, others...) {
		if raw == "" && i > 0 {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			return faulty(FaultURL, "url %q: want http(s)://host", raw)
		}
	}
	return nil
}

// LoadReport is a server's load as a central telemetry system sees it.
type LoadReport struct {
	Version int       `json:"version"`
	Server  string    `json:"server"`
	Region  string    `json:"region"`
	At      time.Time `json:"at"`
	Load    Load      `json:"load"`
	// Fields names those of Load that the report speaks of, by their JSON names; the others
	// are left as they are. Empty: all.
	Fields []string `json:"fields,omitempty"`
	// Source names the telemetry system: 1 to 64 of a-z 0-9 - _.
	Source string `json:"source"`
}

// Subject returns load.<region>.<server>.
func (l *LoadReport) Subject() Subject {
	return Subject{Kind: KindLoad, Region: l.Region, Server: l.Server}
}

func (l *LoadReport) check() error {
	if err := checkHeader(l.Version, l.At); err != nil {
		return err
	}
	if err := checkTokens([2]string{"server", l.Server}, [2]string{"region", l.Region}, [2]string{"source", l.Source}); err != nil {
		return err
	}
	return l.Load.check(maxLoad)
}

// ServerState says that a registry changed its mind about a server.
type ServerState struct {
	Version  int    `json:"version"`
	Server   string `json:"server"`
	Region   string `json:"region"`
	State    State  `json:"state"`
	Previous State  `json:"previous,omitempty"`
	// Reason says why: a word such as "heartbeat", "missed_heartbeats", "announced".
	Reason string    `json:"reason"`
	URL    string    `json:"url"`
	Boot   string    `json:"boot"`
	At     time.Time `json:"at"`
}

// Subject returns server.<region>.<server>.<state>.
func (s *ServerState) Subject() Subject {
	return Subject{Kind: KindServer, Region: s.Region, Server: s.Server, State: string(s.State)}
}

func (s *ServerState) check() error {
	if err := checkHeader(s.Version, s.At); err != nil {
		return err
	}
	if !s.State.Valid() {
		return malformed("state %q", s.State)
	}
	return checkTokens([2]string{"server", s.Server}, [2]string{"region", s.Region})
}

// The protections of a region: states of RegionState, and what Server.Protection is.
const (
	// Protected: silence alone is no death, and few may die at a time.
	Protected = "protected"
	// FailOpen: too few servers are healthy, so suspect ones without a failed probe are used.
	FailOpen = "fail_open"
)

// States of RegionState that tell of messages which could not be used, or are doubtful.
const (
	// DuplicateID: two processes claim the same server id.
	DuplicateID    = "duplicate_id"
	BadHeartbeats  = "bad_heartbeats"
	BadLoadReports = "bad_load_reports"
)

// RegionState says that a registry changed its mind about a region, or protects it.
type RegionState struct {
	Version int    `json:"version"`
	Region  string `json:"region"`
	// State is up, unreachable or down, or a protection: protected, fail_open,
	// duplicate_id, bad_heartbeats, bad_load_reports.
	State string `json:"state"`
	// Reason says why, for an operator.
	Reason string `json:"reason"`
	// Seen is the region of the registry that says so.
	Seen string    `json:"seen"`
	At   time.Time `json:"at"`
}

// Subject returns region.<region>.<state>.
func (r *RegionState) Subject() Subject {
	return Subject{Kind: KindRegion, Region: r.Region, State: r.State}
}

func (r *RegionState) check() error {
	if err := checkHeader(r.Version, r.At); err != nil {
		return err
	}
	return checkTokens([2]string{"region", r.Region}, [2]string{"state", r.State}, [2]string{"seen", r.Seen})
}
