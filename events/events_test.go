package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// at is the time in all examples.
var at = time.Date(2026, 11, 21, 10, 30, 0, 250_000_000, time.UTC)

const boot = "01K9ZJ4Q8R5T6V7W8X9Y0Z1A2B"

// instance is the token service's.
const instance = "01k9zj4q8r5t6v7w8x9y0z1a2e"

// examples returns one full event of each kind, and a sparse one where fields may be absent,
// by the name of its golden file.
func examples() map[string]events.Event {
	since := at.Add(-3 * time.Minute)
	server := events.Server{
		Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://a.eu.example.com", HealthURL: "https://a.eu.example.com/live",
		AuthURL: "https://a.eu.example.com/berth", Boot: boot, State: events.StateSuspect, Reason: "missed_heartbeats",
		Since: since, SeenAt: at.Add(-2 * time.Second), IntervalMS: 1000, Capacity: 5000, Load: load(), LoadSource: "prometheus",
		Location: events.Location{Lat: 53.35, Lon: -6.26}, Replication: map[string]string{"us-east-1": "0/16B3748"}, Seq: 411,
	}
	draining := server
	draining.State, draining.Reason, draining.DrainUntil = events.StateDraining, "operator", at.Add(7*time.Minute)
	draining.RegionRole, draining.RegionWeight = events.RoleActive, new(40)
	leaving := sparseHeartbeat()
	leaving.DrainUntil = at.Add(30 * time.Second)
	return map[string]events.Event{
		"heartbeat":          heartbeat(),
		"heartbeat_draining": leaving,
		"heartbeat_sparse":   sparseHeartbeat(),
		"load": &events.LoadReport{
			Version: 1, Server: "eu-west-1-a", Region: "eu-west-1", At: at, Load: load(), Fields: []string{"cpu", "utilisation"}, Source: "prometheus",
		},
		"server": &events.ServerState{
			Version: 1, Server: "eu-west-1-a", Region: "eu-west-1", State: events.StateDown, Previous: events.StateSuspect,
			Reason: "missed_heartbeats", URL: "https://a.eu.example.com", Boot: boot, At: at,
		},
		"region": &events.RegionState{
			Version: 1, Region: "us-east-1", State: "unreachable", Reason: "no view update for 10s", Seen: "eu-west-1", At: at,
		},
		"view": &events.ViewUpdate{
			Version: 1, Region: "eu-west-1", Seq: 412, At: at, Full: true, Part: 1, Of: 2,
			Servers: []events.Server{server}, Sees: map[string]int64{"us-east-1": 340},
			RTTMs: map[string]float64{"us-east-1": 71.5}, Demand: map[string]float64{"eu-west-1": 1200, "us-east-1": 17.5},
		},
		"view_draining": &events.ViewUpdate{
			Version: 1, Region: "eu-west-1", Seq: 413, At: at, Part: 1, Of: 1, Role: events.RoleStandby, Weight: new(0),
			Servers: []events.Server{draining},
		},
		"view_sparse": &events.ViewUpdate{
			Version: 1, Region: "eu-west-1", Seq: 1, At: at, Part: 1, Of: 1, Servers: []events.Server{},
		},
		"decision": &events.Decision{
			Version: 1, Region: "eu-west-1", At: at, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Generation: 7,
			Epoch: epoch(2), Verdict: "move", Reason: "server_down", Policy: "spread+prices", Variant: "prices", From: "eu-west-1-a", To: "eu-west-1-b",
			Limits:  &events.Limits{CriticalBound: "20m0s", Cooldown: "5m0s", DrainDeadline: "15m0s", RefreshInterval: "1m30s", MaxRTTMs: 120.5},
			Decided: &events.Decided{Verdict: "move", Reason: "closer_region", To: "eu-west-1-c"},
			Facts: events.Facts{
				Arrived: "eu-west-1", ClosestServer: "eu-west-1-b", Critical: true, CriticalSince: &since, MovedAt: &since,
				Location: &events.Location{Lat: 48.85, Lon: 2.35}, Allowed: []string{"eu-central-1", "eu-west-1"}, Home: "eu-west-1", Dead: true, Unreachable: true, Stale: true,
			},
			View: map[string]uint64{"eu-west-1": 412, "us-east-1": 97}, Prices: map[string]float64{"eu-west-1": 12.5},
			Added:    map[string]float64{"eu-west-1-a": -0.0125, "eu-west-1-b": 0.025},
			Instance: instance, Sight: 31, Draw: 0.625, Sampled: 5,
		},
		"decision_sparse": &events.Decision{
			Version: 1, Region: "eu-west-1", At: at, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Epoch: epoch(1),
			Verdict: "stay", Reason: "already_best", Policy: "literal", View: map[string]uint64{}, Facts: events.Facts{Arrived: "eu-west-1"},
		},
		"sight": &events.Sight{
			Version: 1, Region: "eu-west-1", Instance: instance, At: at, Number: 31, Since: 29, Part: 1, Of: 2,
			Regions: []events.SightRegion{{Region: "eu-west-1", Role: events.RoleStandby, Weight: 40}},
			Servers: []events.SightServer{{
				Server: "eu-west-1-a", Region: "eu-west-1", State: events.StateDraining, Capacity: 500.5, Utilisation: 0.3875,
				Location: events.Location{Lat: 53.35, Lon: -6.26}, DrainingSince: since, DrainUntil: at.Add(7 * time.Minute),
			}},
			Utilisation: map[string]float64{"eu-west-1-b": 0.4}, Gone: []string{"eu-west-1-c"},
		},
		"sight_sparse": &events.Sight{
			Version: 1, Region: "eu-west-1", Instance: instance, At: at, Number: 1, Whole: true, Part: 1, Of: 1,
		},
		"session": &events.Session{
			Version: 1, Region: "eu-west-1", At: at, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Kind: events.SessionMoved,
			Epoch: epoch(3), Generation: 8, Server: "eu-west-1-b", Reason: "server_down", Sub: "alice", Org: "acme", Jurisdiction: "global",
		},
		"lock": &events.LockReleased{
			Version: 1, Region: "eu-west-1", Server: "eu-west-1-a", At: at, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Epoch: epoch(3),
			To: events.Home{Server: "eu-west-1-b", Region: "eu-west-1", URL: "https://b.eu.example.com"},
		},
		"revoked": &events.Revoked{
			Version: 1, Region: "eu-west-1", At: at, Sessions: []string{"01k9zj4q8r5t6v7w8x9y0z1a2c", "01k9zj4q8r5t6v7w8x9y0z1a2d"},
		},
		"report": &events.Report{
			Version: 1, Region: "eu-west-1", At: at, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Server: "eu-west-1-a", Epoch: epoch(2),
		},
		"demand": &events.Demand{
			Version: 1, Region: "eu-west-1", Service: "tokens-1", At: at, Origins: map[string]float64{"eu-west-1": 1200, "us-east-1": 17.5},
		},
	}
}

func epoch(n uint64) events.Epoch { return events.Epoch{Number: n, Region: "eu-west-1"} }

func load() events.Load {
	return events.Load{Sessions: 1200, InFlight: 17, MaxInFlight: 200, CPU: 0.31, P99: 42.5, Utilisation: 0.3875}
}

func heartbeat() *events.Heartbeat {
	return &events.Heartbeat{
		Version: 1, Server: "eu-west-1-a", Member: "m2", Region: "eu-west-1", URL: "https://a.eu.example.com",
		HealthURL: "https://a.eu.example.com/live", AuthURL: "https://a.eu.example.com/berth", Boot: boot, Seq: 91, At: at,
		IntervalMS: 1000, State: events.StateUp, Capacity: 5000, Load: load(),
		Location: events.Location{Lat: 53.35, Lon: -6.26}, Replication: map[string]string{"us-east-1": "0/16B3748"},
	}
}

func sparseHeartbeat() *events.Heartbeat {
	return &events.Heartbeat{
		Version: 1, Server: "eu-west-1-a", Region: "eu-west-1", URL: "http://127.0.0.1:8080", Boot: boot, Seq: 1, At: at,
		IntervalMS: 1000, State: events.StateDraining, Capacity: 1,
	}
}

// TestGolden holds the wire: what a file says decodes to the example and encodes to the very
// same JSON, whatever the types are called in Go.
func TestGolden(t *testing.T) {
	for name, want := range examples() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".json")
			encoded, err := events.Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				var pretty bytes.Buffer
				if err := json.Indent(&pretty, encoded, "", "  "); err != nil {
					t.Fatal(err)
				}
				pretty.WriteByte('\n')
				if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := events.Decode(want.Subject().String(), golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			again, err := events.Encode(got)
			if err != nil {
				t.Fatal(err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, golden); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(compact.String(), string(again)); diff != "" {
				t.Errorf("encoded again (-golden +got):\n%s", diff)
			}
		})
	}
}

// TestEveryKindHasGolden keeps the folder and the examples in step.
func TestEveryKindHasGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(examples())), names); diff != "" {
		t.Errorf("examples and golden files (-examples +files):\n%s", diff)
	}
	for _, k := range kinds {
		if _, ok := examples()[string(k)]; !ok && k != events.KindRPC {
			t.Errorf("no example of kind %s", k)
		}
	}
}

// TestNewerWriter: fields that this build does not know are ignored, kinds and versions are
// counted as unknown.
func TestNewerWriter(t *testing.T) {
	for name, want := range examples() {
		data, err := events.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		more := append([]byte(`{"mood":{"good":[true]},`), data[1:]...)
		got, err := events.Decode(want.Subject().String(), more)
		if err != nil {
			t.Errorf("%s with a new field: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s with a new field (-want +got):\n%s", name, diff)
		}
		higher := bytes.Replace(data, []byte(`"version":1`), []byte(`"version":2`), 1)
		if _, err := events.Decode(want.Subject().String(), higher); !errors.Is(err, events.ErrUnknown) {
			t.Errorf("%s of version 2: %v, want %v", name, err, events.ErrUnknown)
		}
	}
}

func TestEpochOrder(t *testing.T) {
	inOrder := []events.Epoch{{}, {Region: "a"}, {Number: 1, Region: "a"}, {Number: 1, Region: "b"}, {Number: 2}, {Number: 2, Region: "a"}}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got, want := a.Compare(b), cmpInt(i, j); got != want {
				t.Errorf("%v.Compare(%v) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestStates(t *testing.T) {
	alive := map[events.State]bool{"up": true, "suspect": true, "draining": true, "down": false, "left": false}
	for s, want := range alive {
		if !s.Valid() || s.Alive() != want {
			t.Errorf("%s: valid %t, alive %t, want alive %t", s, s.Valid(), s.Alive(), want)
		}
	}
	if s := events.State("well"); s.Valid() || s.Alive() {
		t.Errorf("%s is taken for a state", s)
	}
}

func TestServerURLs(t *testing.T) {
	s := events.Server{Server: "a", Region: "r", URL: "https://a"}
	if s.Key() != "r.a" || s.Health() != "https://a/healthz" || s.Auth() != "https://a" {
		t.Errorf("key %s, health %s, auth %s", s.Key(), s.Health(), s.Auth())
	}
	s.HealthURL, s.AuthURL = "https://h", "https://t"
	if s.Health() != "https://h" || s.Auth() != "https://t" {
		t.Errorf("health %s, auth %s", s.Health(), s.Auth())
	}
}

func TestParseLocation(t *testing.T) {
	for in, want := range map[string]events.Location{
		"53.35,-6.26": {Lat: 53.35, Lon: -6.26}, " 0 , 180 ": {Lon: 180}, "-90,-180": {Lat: -90, Lon: -180},
	} {
		if got, err := events.ParseLocation(in); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", ",", "1", "1,2,3", "90.1,0", "0,181", "NaN,0", "0,Inf", "north,east"} {
		if got, err := events.ParseLocation(in); !errors.Is(err, events.ErrMalformed) {
			t.Errorf("%q is %v, %v; want %v", in, got, err, events.ErrMalformed)
		}
	}
}

// TestRevokedIsBounded fills an event with the longest ids.
func TestRevokedIsBounded(t *testing.T) {
	e := &events.Revoked{Version: 1, Region: strings.Repeat("r", events.MaxToken), At: time.Now()}
	for i := range events.MaxRevoked {
		e.Sessions = append(e.Sessions, fmt.Sprintf("%0*d", events.MaxToken, i))
	}
	data, err := events.Encode(e)
	if err != nil || len(data) >= 64<<10 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if _, err := events.Decode(e.Subject().String(), data); err != nil {
		t.Error(err)
	}
	e.Sessions = append(e.Sessions, "one-more")
	if _, err := events.Encode(e); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("one more: %v", err)
	}
}
