package events_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
)

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
