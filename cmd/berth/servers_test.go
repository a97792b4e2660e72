package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
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

func TestServersSaysWhatCapacityCounts(t *testing.T) {
	back := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := events.Server{Capacity: 200, RejoinedAt: back}
	for after, want := range map[time.Duration]string{0: "20 of 200", 30 * time.Second: "110 of 200", time.Minute: "200"} {
		if got := capacity(&s, back.Add(after)); got != want {
			t.Errorf("%v after its return: %q, want %q", after, got, want)
		}
	}
}
