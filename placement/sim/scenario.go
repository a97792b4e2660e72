package sim

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/document"
)

// Scenario is a fleet, its clients and what happens to them.
type Scenario struct {
	// Name names the scenario, About says in a line what it is for.
	Name  string `yaml:"name"`
	About string `yaml:"about"`
	// Duration is the time simulated; of the first Warmup nothing is measured.
	Duration time.Duration `yaml:"duration"`
	Warmup   time.Duration `yaml:"warmup"`
	// Clients is how many there are at a time.
	Clients int `yaml:"clients"`
	// Utilisation is the mean of every region with all its sessions: capacities are made so.
	Utilisation float64 `yaml:"utilisation"`
	// Sizes are the sizes of servers relative to each other, which the servers of a region
	// have in turn. Empty: all are equal.
	Sizes []float64 `yaml:"sizes"`
	// Refresh is the time between two refreshes of a session, ±10 %.
	Refresh time.Duration `yaml:"refresh"`
	// Life is the mean time until a session ends and its client logs in anew; 0: it never ends.
	Life time.Duration `yaml:"life"`
	// HeavyShare is the share of the sessions that cause HeavyTimes the load of the others.
	HeavyShare float64 `yaml:"heavy_share"`
	HeavyTimes float64 `yaml:"heavy_times"`
	// Noise is the standard deviation of a server's load around that of its sessions, as a
	// share; it changes within a minute.
	Noise float64 `yaml:"noise"`
	// Critical is the share of the refreshes in which a critical task is in progress.
	Critical float64 `yaml:"critical"`
	// TokenServices is how many decide, each by a view of its own.
	TokenServices int `yaml:"token_services"`
	// Report is the time between two load reports of a server, ReportDelay how long one takes
	// at most to reach a token service; it is another for each of them.
	Report      time.Duration `yaml:"report"`
	ReportDelay time.Duration `yaml:"report_delay"`
	// Reconnect is the time within which the clients of a dead server notice and look for
	// another; 0: each at its next refresh.
	Reconnect time.Duration `yaml:"reconnect"`
	// Smoothing is the time constant by which servers smooth the load that they report.
	Smoothing time.Duration `yaml:"smoothing"`
	// Detect is the time from a server's death to its state in the views.
	Detect  time.Duration `yaml:"detect"`
	Regions []Region      `yaml:"regions"`
	Events  []Event       `yaml:"events"`
	// Expect are figures by policy, or of PolicyBound, that a run must reach, within 10 % or 0.02.
	Expect map[string]Figures `yaml:"expect"`
}

// Region is a region of a scenario.
type Region struct {
	Name    string `yaml:"name"`
	Servers int    `yaml:"servers"`
	// Share is its part of the clients: those of the places that it is closest to. The shares
	// of all regions are scaled to sum to 1. 0 in all: by the weights of the places.
	Share float64 `yaml:"share"`
}

// Event is something that begins At and lasts For. Exactly one of the others is set.
type Event struct {
	At  time.Duration `yaml:"at"`
	For time.Duration `yaml:"for"`
	// Burst is the share of new clients, who log in within Over and leave at the end; In is
	// the region whose places they come from, empty: everywhere.
	Burst float64       `yaml:"burst"`
	Over  time.Duration `yaml:"over"`
	In    string        `yaml:"in"`
	// Lose is a region that is dead meanwhile.
	Lose string `yaml:"lose"`
	// Slow is a server, as REGION-NUMBER from 000, that bears only Factor of its capacity.
	Slow   string  `yaml:"slow"`
	Factor float64 `yaml:"factor"`
	// Drain is a region or a server whose sessions are to be gone within Deadline. It goes on
	// for longer, so that who is left then can be counted.
	Drain    string        `yaml:"drain"`
	Deadline time.Duration `yaml:"deadline"`
	// Delay is how much longer load reports take to reach the token services.
	Delay time.Duration `yaml:"delay"`
}

//go:embed scenarios/*.yaml
var shipped embed.FS

// Names returns the names of the scenarios that are shipped.
func Names() []string {
	files, err := fs.Glob(shipped, "scenarios/*.yaml")
	if err != nil {
		return nil // the pattern is sound
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, "scenarios/"), ".yaml")
	}
	return files
}

// Shipped returns a scenario by its name. It fails if none is shipped under it.
func Shipped(name string) (Scenario, error) {
	data, err := shipped.ReadFile("scenarios/" + name + ".yaml")
	if err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	return Parse(data)
}

// Bounds of a scenario, so that none takes all memory.
const (
	maxClients  = 1_000_000
	maxRegions  = 500
	maxServers  = 10_000
	maxWays     = 50_000 // between places and regions
	maxServices = 100
	maxDuration = 7 * 24 * time.Hour
	maxShare    = 1e9
	maxBursts   = 10 // times the clients
)

// Parse reads a scenario in YAML or JSON. An error names the line where it can.
func Parse(data []byte) (Scenario, error) {
	s := Scenario{
		Duration: time.Hour, Warmup: 10 * time.Minute, Clients: 10_000, Utilisation: 0.6, HeavyTimes: 1,
		Refresh: 2 * time.Minute, TokenServices: 2, Report: 2 * time.Second, ReportDelay: 500 * time.Millisecond, Detect: 3 * time.Second,
	}
	if err := document.Read(data, &s); err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	if err := s.validate(); err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	return s, nil
}

// validate returns the first fault.
func (s *Scenario) validate() error {
	switch {
	case s.Duration < time.Minute || s.Duration > maxDuration:
		return fmt.Errorf("duration %s: want %s to %s", s.Duration, time.Minute, maxDuration)
	case s.Warmup < 0 || s.Warmup >= s.Duration:
		return fmt.Errorf("warmup %s: want less than the duration %s", s.Warmup, s.Duration)
	case s.Clients < 1 || s.Clients > maxClients:
		return fmt.Errorf("clients %d: want 1 to %d", s.Clients, maxClients)
	case !(s.Utilisation > 0 && s.Utilisation <= 10):
		return fmt.Errorf("utilisation %v: want more than 0, at most 10", s.Utilisation)
	case slices.ContainsFunc(s.Sizes, func(x float64) bool { return !(x > 0 && x <= 1000) }):
		return fmt.Errorf("sizes %v: want each more than 0, at most 1000", s.Sizes)
	case s.Refresh < time.Second || s.Refresh > time.Hour:
		return fmt.Errorf("refresh %s: want 1s to 1h", s.Refresh)
	case s.Life != 0 && s.Life < s.Refresh:
		return fmt.Errorf("life %s: want 0 (endless) or at least a refresh, %s", s.Life, s.Refresh)
	case !(s.Critical >= 0 && s.Critical <= 1):
		return fmt.Errorf("critical %v: want 0 to 1", s.Critical)
	case !(s.HeavyShare >= 0 && s.HeavyShare <= 1):
		return fmt.Errorf("heavy_share %v: want 0 to 1", s.HeavyShare)
	case !(s.HeavyTimes >= 1 && s.HeavyTimes <= 1000):
		return fmt.Errorf("heavy_times %v: want 1 to 1000", s.HeavyTimes)
	case !(s.Noise >= 0 && s.Noise <= 1):
		return fmt.Errorf("noise %v: want 0 to 1", s.Noise)
	case s.TokenServices < 1 || s.TokenServices > maxServices:
		return fmt.Errorf("token_services %d: want 1 to %d", s.TokenServices, maxServices)
	case s.Report < step || s.Report > time.Hour:
		return fmt.Errorf("report %s: want %s to 1h", s.Report, step)
	case s.Reconnect < 0 || s.Reconnect > s.Refresh:
		return fmt.Errorf("reconnect %s: want 0s to a refresh, %s", s.Reconnect, s.Refresh)
	case s.Smoothing < 0 || s.Smoothing > time.Hour:
		return fmt.Errorf("smoothing %s: want 0s to 1h", s.Smoothing)
	case s.ReportDelay < 0 || s.ReportDelay > time.Hour:
		return fmt.Errorf("report_delay %s: want 0s to 1h", s.ReportDelay)
	case s.Detect < 0 || s.Detect > time.Hour:
		return fmt.Errorf("detect %s: want 0s to 1h", s.Detect)
	}
	if err := s.validateRegions(); err != nil {
		return err
	}
	if err := s.validateExpect(); err != nil {
		return err
	}
	return s.validateEvents()
}

// validateExpect returns the first fault of what is expected.
func (s *Scenario) validateExpect() error {
	policies := append([]string{PolicyBound}, placement.Policies()...)
	for _, policy := range slices.Sorted(maps.Keys(s.Expect)) {
		if !slices.Contains(policies, policy) {
			return fmt.Errorf("expect %s: no policy is called so: want one of %s", policy, strings.Join(policies, ", "))
		}
		for _, f := range slices.Sorted(maps.Keys(s.Expect[policy])) {
			if !slices.Contains(all(), f) {
				return fmt.Errorf("expect %s: no figure is called %s: want one of %s", policy, f, joined(all()))
			}
			if x := s.Expect[policy][f]; !(x >= 0) || math.IsInf(x, 0) {
				return fmt.Errorf("expect %s: %s %v: want 0 or more", policy, f, x)
			}
		}
	}
	return nil
}

func (s *Scenario) validateRegions() error {
	if len(s.Regions) == 0 {
		return errors.New("regions: want at least one")
	}
	if len(s.Regions) > maxRegions {
		return fmt.Errorf("regions: %d: want at most %d", len(s.Regions), maxRegions)
	}
	servers, shares := 0, 0
	seen := map[string]bool{}
	for _, r := range s.Regions {
		switch {
		case r.Name == "" || seen[r.Name]:
			return fmt.Errorf("region %q: want names, each once", r.Name)
		case r.Servers < 1:
			return fmt.Errorf("region %s: servers %d: want 1 or more", r.Name, r.Servers)
		case !(r.Share >= 0 && r.Share <= maxShare):
			return fmt.Errorf("region %s: share %v: want 0 to %v", r.Name, r.Share, float64(maxShare))
		}
		seen[r.Name] = true
		servers += r.Servers
		if r.Share > 0 {
			shares++
		}
	}
	if servers > maxServers {
		return fmt.Errorf("regions: %d servers: want at most %d", servers, maxServers)
	}
	if shares != 0 && shares != len(s.Regions) {
		return errors.New("regions: want a share of each region or of none")
	}
	return nil
}

// validateEvents returns the first fault of the events.
func (s *Scenario) validateEvents() error {
	bursts := 0.0
	for i := range s.Events {
		if err := s.validateEvent(&s.Events[i]); err != nil {
			return fmt.Errorf("event %d: %w", i+1, err)
		}
		if bursts += s.Events[i].Burst; bursts > maxBursts {
			return fmt.Errorf("event %d: bursts of %v with those before: want at most %d together", i+1, bursts, maxBursts)
		}
	}
	return nil
}

// validateEvent returns the first fault of an event.
func (s *Scenario) validateEvent(e *Event) error {
	kinds := 0
	for _, set := range []bool{e.Burst != 0, e.Lose != "", e.Slow != "", e.Drain != "", e.Delay != 0} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("want one of burst, lose, slow, drain, delay")
	case e.At < 0 || e.At >= s.Duration:
		return fmt.Errorf("at %s: want a time before the end, %s", e.At, s.Duration)
	case e.For <= 0 || e.For > maxDuration:
		return fmt.Errorf("for %s: want more than 0, at most %s", e.For, maxDuration)
	case !(e.Burst >= 0 && e.Burst <= maxBursts):
		return fmt.Errorf("burst %v: want more than 0, at most %d", e.Burst, maxBursts)
	case e.Over < 0 || e.Over > e.For:
		return fmt.Errorf("over %s: want 0s to %s, the time it lasts", e.Over, e.For)
	case e.In != "" && !s.has(e.In):
		return fmt.Errorf("in %s: no such region", e.In)
	case e.Lose != "" && !s.has(e.Lose):
		return fmt.Errorf("lose %s: no such region", e.Lose)
	case e.Slow != "" && !s.hasServer(e.Slow):
		return fmt.Errorf("slow %s: no such server; servers are called REGION-000 and so on", e.Slow)
	case e.Slow != "" && !(e.Factor >= 0.001 && e.Factor <= 1):
		return fmt.Errorf("factor %v: want 0.001 to 1", e.Factor)
	case e.Drain != "" && !s.has(e.Drain) && !s.hasServer(e.Drain):
		return fmt.Errorf("drain %s: no such region or server", e.Drain)
	case e.Drain != "" && (e.Deadline < time.Second || e.Deadline >= e.For || e.Deadline >= s.Duration-e.At):
		return fmt.Errorf("deadline %s: want 1s or more, and one before the drain ends, after %s", e.Deadline, min(e.For, s.Duration-e.At))
	case e.Delay < 0 || e.Delay > time.Hour:
		return fmt.Errorf("delay %s: want 0s to 1h", e.Delay)
	}
	return nil
}

func (s *Scenario) has(region string) bool {
	return slices.ContainsFunc(s.Regions, func(r Region) bool { return r.Name == region })
}

func (s *Scenario) hasServer(id string) bool {
	for _, r := range s.Regions {
		for i := range r.Servers {
			if serverID(r.Name, i) == id {
				return true
			}
		}
	}
	return false
}

// serverID names a region's server by its number.
func serverID(region string, i int) string { return fmt.Sprintf("%s-%03d", region, i) }
