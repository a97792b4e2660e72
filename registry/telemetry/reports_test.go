package telemetry_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry/telemetry"
)

var asked = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// knows returns what says of these ids that they are servers.
func knows(ids ...string) func(string) bool {
	return func(id string) bool { return slices.Contains(ids, id) }
}

func TestAnswersBecomeReports(t *testing.T) {
	answers := []telemetry.Answer{
		{Field: "cpu", Samples: []telemetry.Sample{{"b", 0.5}, {"a", 0.25}, {"d", 0.1}, {"d", 0.9}}},
		{Field: "sessions", Samples: []telemetry.Sample{{"a", 41.9}, {"", 5}, {"EU West", 5}, {"stranger", 5}, {"c", math.NaN()}}},
		{Field: "p99_ms", Samples: []telemetry.Sample{{"c", math.Inf(1)}, {"a", math.Copysign(0, -1)}, {"b", -1}, {strings.Repeat("ä", 100), 1}, {"d", 2e9}}},
		{Field: "utilisation"},
	}
	reports, doubts := telemetry.Reports("eu-west-1", "prometheus", answers, knows("a", "b", "c", "d"), asked)
	of := func(id string, load events.Load, fields ...string) *events.LoadReport {
		return &events.LoadReport{Version: events.Version, Server: id, Region: "eu-west-1", At: asked, Load: load, Fields: fields, Source: "prometheus"}
	}
	want := []*events.LoadReport{
		of("a", events.Load{CPU: 0.25, Sessions: 41}, "cpu", "sessions", "p99_ms"),
		of("b", events.Load{CPU: 0.5}, "cpu"),
	}
	if diff := cmp.Diff(want, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	for _, r := range reports {
		if _, err := events.Encode(r); err != nil {
			t.Error(err)
		}
	}
	wantDoubts := []telemetry.Doubt{
		{"cpu", "d", telemetry.DoubtTwice},
		{"cpu", "d", telemetry.DoubtTwice},
		{"sessions", "", telemetry.DoubtUnlabelled},
		{"sessions", "EU West", telemetry.DoubtID},
		{"sessions", "stranger", telemetry.DoubtUnknown},
		{"sessions", "c", telemetry.DoubtValue},
		{"p99_ms", "c", telemetry.DoubtValue},
		{"p99_ms", "b", telemetry.DoubtValue},
		{"p99_ms", strings.Repeat("ä", 32) + "…", telemetry.DoubtID},
		{"p99_ms", "d", telemetry.DoubtValue},
	}
	if diff := cmp.Diff(wantDoubts, doubts); diff != "" {
		t.Errorf("doubts (-want +got):\n%s", diff)
	}
}

func TestParseQuery(t *testing.T) {
	got, err := telemetry.ParseQuery(` cpu = avg by (server) (rate(x{a="b",c!="d"}[1m]))`)
	if want := (telemetry.Query{Field: "cpu", PromQL: `avg by (server) (rate(x{a="b",c!="d"}[1m]))`}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for text, want := range map[string]string{
		"up":         "want FIELD=PROMQL",
		"memory=up":  "want one of sessions, in_flight",
		"sessions= ": "is empty",
	} {
		if _, err := telemetry.ParseQuery(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
