package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
)

func TestServersSaysWhatProtects(t *testing.T) {
	list := []events.Server{
		{Server: "a-1", Region: "a", Protection: events.Protected},
		{Server: "a-2", Region: "a", Protection: events.FailOpen},
		{Server: "a-3", Region: "a", Protection: events.Protected},
		{Server: "b-1", Region: "b"},
	}
	want := []string{"region a: 2 of 3 servers are marked protected", "region a: 1 of 3 servers are marked fail_open"}
	if diff := cmp.Diff(want, protections(list)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestServersSaysWhichRegionsAreOut(t *testing.T) {
	list := []events.Server{
		{Region: "a", Reason: "heartbeat"},
		{Region: "b", Reason: "region_down"},
		{Region: "b", Reason: "region_down"},
		{Region: "b", Reason: "missed_heartbeats"},
		{Region: "c", Reason: "region_unreachable"},
		{Region: "c", Reason: "announced"},
	}
	want := []string{"region b is down: 2 of 3 servers are down for that", "region c is out of reach: 1 of 2 servers are suspect for that"}
	if diff := cmp.Diff(want, outages(list)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestServersSaysHowOldCopiesAre(t *testing.T) {
	lags := []jetstream.Lag{
		{Region: "a", Known: true, Behind: 12_345 * time.Microsecond}, {Region: "b", Known: true, Behind: 90 * time.Second}, {Region: "c"},
	}
	want := []string{
		"region a: copies of its sessions are 12ms behind",
		"region b: no copies of its sessions have arrived for 1m30s",
		"region c: no copies of its sessions arrive, or none have for a day",
	}
	if diff := cmp.Diff(want, copyLags(lags, "")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(want[1:2], copyLags(lags, "b")); diff != "" {
		t.Errorf("of b alone (-want +got):\n%s", diff)
	}
	var got []map[string]any
	data, err := json.Marshal(rows([]events.Server{{Server: "a-1", Region: "a"}, {Server: "c-1", Region: "c"}, {Server: "d-1", Region: "d"}}, lags))
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []any{12.0, nil, nil} {
		if got[i]["copies_lag_ms"] != want || got[i]["server"] == nil {
			t.Errorf("row %d: %v, want copies_lag_ms %v", i, got[i], want)
		}
	}
}

func TestServersSaysWhatCapacityCounts(t *testing.T) {
	back := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := events.Server{Capacity: 200, RejoinedAt: back}
	for after, want := range map[time.Duration]string{0: "20 of 200", 30 * time.Second: "110 of 200", time.Minute: "200"} {
		if got := capacity(&s, back.Add(after)); got != want {
			t.Errorf("%v after its return: %q, want %q", after, got, want)
		}
	}
}
