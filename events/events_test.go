package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
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

// TestDecodeRefuses changes one field of a good message at a time.
func TestDecodeRefuses(t *testing.T) {
	tests := []struct {
		name, example string
		old, replaced string
	}{
		{"no version", "heartbeat", `"version":1`, `"version":0`},
		{"negative version", "report", `"version":1`, `"version":-1`},
		{"version is a string", "report", `"version":1`, `"version":"1"`},
		{"no time", "session", `"at":"2026-11-21T10:30:00.25Z",`, ``},
		{"time is not RFC 3339", "session", `2026-11-21T10:30:00.25Z`, `21.11.2026 10:30`},
		{"another server", "heartbeat", `"server":"eu-west-1-a"`, `"server":"eu-west-1-b"`},
		{"another region", "heartbeat", `"region":"eu-west-1"`, `"region":"eu-west-2"`},
		{"another region", "view_sparse", `"region":"eu-west-1"`, `"region":"eu-west-2"`},
		{"another state", "server", `"state":"down"`, `"state":"up"`},
		{"another state", "region", `"state":"unreachable"`, `"state":"down"`},
		{"another kind", "session", `"kind":"moved"`, `"kind":"revoked"`},
		{"another reason", "decision", `"reason":"server_down"`, `"reason":"login"`},
		{"another server", "lock", `"server":"eu-west-1-a"`, `"server":"eu-west-1-c"`},
		{"server with dots", "heartbeat", `"server":"eu-west-1-a"`, `"server":"eu.west"`},
		{"server in capitals", "report", `"server":"eu-west-1-a"`, `"server":"EU"`},
		{"server is empty", "report", `"server":"eu-west-1-a"`, `"server":""`},
		{"session with a wildcard", "session", `01k9zj4q8r5t6v7w8x9y0z1a2c`, `*`},
		{"session too long", "lock", `01k9zj4q8r5t6v7w8x9y0z1a2c`, strings.Repeat("a", events.MaxToken+1)},
		{"one session of many", "revoked", `01k9zj4q8r5t6v7w8x9y0z1a2d`, `>`},
		{"member with a space", "heartbeat", `"member":"m2"`, `"member":"m 2"`},
		{"epoch without region", "lock", `"region":"eu-west-1"},"to"`, `"region":""},"to"`},
		{"boot is no ULID", "heartbeat", boot, "1"},
		{"seq 0", "heartbeat", `"seq":91`, `"seq":0`},
		{"negative seq", "heartbeat", `"seq":91`, `"seq":-1`},
		{"interval too short", "heartbeat", `"interval_ms":1000`, `"interval_ms":99`},
		{"interval too long", "heartbeat", `"interval_ms":1000`, `"interval_ms":60001`},
		{"a server cannot be suspect to itself", "heartbeat", `"state":"up"`, `"state":"suspect"`},
		{"unknown state", "heartbeat", `"state":"up"`, `"state":"well"`},
		{"unknown state in a view", "view", `"state":"suspect"`, `"state":"ill"`},
		{"unknown kind", "session", `"kind":"moved"`, `"kind":"lost"`},
		{"unknown verdict", "decision", `"verdict":"move"`, `"verdict":"wait"`},
		{"no capacity", "heartbeat", `"capacity":5000`, `"capacity":0`},
		{"endless capacity", "heartbeat", `"capacity":5000`, `"capacity":10000001`},
		{"negative sessions", "heartbeat", `"sessions":1200`, `"sessions":-1`},
		{"negative in flight", "heartbeat", `"in_flight":17`, `"in_flight":-1`},
		{"negative bound", "heartbeat", `"max_in_flight":200`, `"max_in_flight":-1`},
		{"negative cpu", "load", `"cpu":0.31`, `"cpu":-0.01`},
		{"negative p99", "load", `"p99_ms":42.5`, `"p99_ms":-1`},
		{"negative utilisation", "view", `"utilisation":0.3875`, `"utilisation":-0.1`},
		{"load is no number", "load", `"cpu":0.31`, `"cpu":NaN`},
		{"load overflows", "load", `"cpu":0.31`, `"cpu":1e999`},
		{"latitude", "heartbeat", `"lat":53.35`, `"lat":90.01`},
		{"longitude", "heartbeat", `"lon":-6.26`, `"lon":-180.5`},
		{"latitude in a view", "view", `"lat":53.35`, `"lat":-91`},
		{"url is not http", "heartbeat", `"url":"https://a.eu.example.com"`, `"url":"ftp://a.eu.example.com"`},
		{"url is a script", "heartbeat", `"url":"https://a.eu.example.com"`, `"url":"javascript:alert(1)"`},
		{"url without host", "heartbeat", `"url":"https://a.eu.example.com"`, `"url":"https:///x"`},
		{"url with a password", "heartbeat", `"url":"https://a.eu.example.com"`, `"url":"https://u:p@a.eu.example.com"`},
		{"no url", "heartbeat_sparse", `"url":"http://127.0.0.1:8080"`, `"url":""`},
		{"health url", "heartbeat", `"health_url":"https:`, `"health_url":"file:`},
		{"auth url", "heartbeat", `"auth_url":"https:`, `"auth_url":"nats:`},
		{"url in a view", "view", `"url":"https:`, `"url":"gopher:`},
		{"view update 0", "view", `"seq":412`, `"seq":0`},
		{"part 0", "view", `"part":1`, `"part":0`},
		{"part beyond the last", "view", `"part":1`, `"part":3`},
		{"server of another region", "view", `"region":"eu-west-1","url"`, `"region":"us-east-1","url"`},
		{"weight beyond the full", "view_draining", `"weight":0`, `"weight":101`},
		{"weight below 0", "view_draining", `"region_weight":40`, `"region_weight":-1`},
		{"role", "view_draining", `"role":"standby"`, `"role":"spare"`},
		{"role in a server", "view_draining", `"region_role":"active"`, `"region_role":"?"`},
		{"sight 0", "sight_sparse", `"sight":1`, `"sight":0`},
		{"sight since itself", "sight", `"since":29`, `"since":31`},
		{"part of none", "sight", `"of":2`, `"of":0`},
		{"too many parts", "sight", `"of":2`, `"of":5000`},
		{"another instance", "sight", instance, `other`},
		{"unknown state in a sight", "sight", `"state":"draining"`, `"state":"ill"`},
		{"negative capacity", "sight", `"capacity":500.5`, `"capacity":-1`},
		{"negative utilisation", "sight", `"eu-west-1-b":0.4`, `"eu-west-1-b":-0.4`},
		{"place in a sight", "sight", `"lat":53.35`, `"lat":91`},
		{"weight in a sight", "sight", `"weight":40`, `"weight":101`},
		{"server of a sight", "sight", `"gone":["eu-west-1-c"]`, `"gone":["*"]`},
		{"truncated", "view", `}`, ``},
		{"two values", "report", `{"version"`, `{} {"version"`},
	}
	for _, test := range tests {
		t.Run(test.example+"/"+test.name, func(t *testing.T) {
			e := examples()[test.example]
			data, err := events.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(data, []byte(test.old)) {
				t.Fatalf("the example has no %s: %s", test.old, data)
			}
			data = bytes.Replace(data, []byte(test.old), []byte(test.replaced), 1)
			if got, err := events.Decode(e.Subject().String(), data); !errors.Is(err, events.ErrMalformed) {
				t.Errorf("decoded to %v, %v; want %v", got, err, events.ErrMalformed)
			}
		})
	}
}

func TestDecodeRefusesWhole(t *testing.T) {
	good, err := events.Encode(sparseHeartbeat())
	if err != nil {
		t.Fatal(err)
	}
	subject := sparseHeartbeat().Subject().String()
	padded := func(n int) []byte { return append(slices.Clone(good), bytes.Repeat([]byte(" "), n-len(good))...) }
	if _, err := events.Decode(subject, padded(events.MaxHeartbeat)); err != nil {
		t.Errorf("the largest heartbeat: %v", err)
	}
	view, err := events.Encode(examples()["view"])
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, subject string
		data          []byte
		want          error
	}{
		{"heartbeat too large", subject, padded(events.MaxHeartbeat + 1), events.ErrMalformed},
		{"view too large", "berth.v1.view.eu-west-1", append(view, bytes.Repeat([]byte(" "), events.MaxSize)...), events.ErrMalformed},
		{"empty", subject, nil, events.ErrMalformed},
		{"null", subject, []byte("null"), events.ErrMalformed},
		{"array", subject, []byte("[]"), events.ErrMalformed},
		{"other kind's payload", "berth.v1.view.eu-west-1", good, events.ErrMalformed},
		{"unknown kind", "berth.v1.weather.eu-west-1", good, events.ErrUnknown},
		{"later major version", "berth.v2.heartbeat.eu-west-1.eu-west-1-a", good, events.ErrUnknown},
		{"request", "berth.v1.rpc.tokens.global.eu-west-1.refresh", good, events.ErrUnknown},
		{"lock taken", "berth.v1.lock.eu-west-1.eu-west-1-a.taken", good, events.ErrUnknown},
	}
	for _, test := range tests {
		if got, err := events.Decode(test.subject, test.data); !errors.Is(err, test.want) {
			t.Errorf("%s: decoded to %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

// TestEncodeRefuses: a writer learns of what its readers would skip.
func TestEncodeRefuses(t *testing.T) {
	wrong := map[string]func(h *events.Heartbeat){
		"NaN load":          func(h *events.Heartbeat) { h.Load.CPU = math.NaN() },
		"infinite load":     func(h *events.Heartbeat) { h.Load.Utilisation = math.Inf(1) },
		"NaN latitude":      func(h *events.Heartbeat) { h.Location.Lat = math.NaN() },
		"version":           func(h *events.Heartbeat) { h.Version = 0 },
		"region":            func(h *events.Heartbeat) { h.Region = "EU" },
		"year five figures": func(h *events.Heartbeat) { h.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"too large": func(h *events.Heartbeat) {
			h.Replication = map[string]string{"us-east-1": strings.Repeat("x", events.MaxHeartbeat)}
		},
	}
	for name, change := range wrong {
		h := heartbeat()
		change(h)
		if data, err := events.Encode(h); !errors.Is(err, events.ErrMalformed) {
			t.Errorf("%s: %d bytes, %v; want %v", name, len(data), err, events.ErrMalformed)
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
