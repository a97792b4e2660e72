package tokens_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// TestMeasuredTimesAreRemembered: what a client has measured goes on counting at refreshes that do not tell it again, in the
// region that it moved to as well, and where it asks for the closest server; not once it calls a server closest of whose
// region it told nothing.
func TestMeasuredTimesAreRemembered(t *testing.T) {
	r := newRegions(t, dublin, virginia, singapore)
	first := login(t, r.services[dublin])
	if first.Server.Region != dublin {
		t.Fatalf("the login is on %+v", first.Server)
	}
	busy := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{
		RefreshToken: first.RefreshToken, CriticalTaskInProgress: true,
		RTTMs: map[string]float64{dublin + "-a": 91.26, virginia + "-a": 12, "unknown": 1, singapore + "-a": -3},
	})
	if busy.Server.Region != dublin || busy.Reason != "critical_task" {
		t.Fatalf("%s %s to %+v", busy.Decision, busy.Reason, busy.Server)
	}
	told := r.fleets[dublin].record(first.SessionID).Measured
	want := []sessions.RegionTime{{Region: virginia, MS: 12}, {Region: dublin, MS: 91.3}}
	if told == nil || cmp.Diff(want, told.Regions) != "" {
		t.Fatalf("remembered: %+v", told)
	}
	show := []string{"Authorization", "Bearer " + busy.AccessToken}
	if got := closestFrom(t, r.services[dublin], "203.0.113.9:1", show...); got.Region != virginia || got.Basis != "rtt" || len(got.Candidates) != 3 {
		t.Errorf("closest by what it has measured: %+v", got)
	}
	for name, header := range map[string][]string{"nobody": nil, "a liar": {"Authorization", "Bearer " + tampered(t, busy.AccessToken)[0]}} {
		if got := closestFrom(t, r.services[dublin], "203.0.113.9:1", header...); got.Region != dublin || got.Basis != "region" {
			t.Errorf("closest to %s: %+v", name, got)
		}
	}
	if got := closestFrom(t, r.services[singapore], "203.0.113.9:1", show...); got.Region != singapore || got.Basis != "region" {
		t.Errorf("closest where it has not measured: %+v", got)
	}

	moved := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: busy.RefreshToken})
	if moved.Server.Region != virginia || moved.Reason != "closer_region" {
		t.Fatalf("%s %s to %+v", moved.Decision, moved.Reason, moved.Server)
	}
	r.await(t, virginia, first.SessionID, sessions.StateActive)
	if diff := cmp.Diff(told, r.fleets[virginia].record(first.SessionID).Measured); diff != "" {
		t.Errorf("remembered in the next region: -want +got\n%s", diff)
	}
	granted(t, r.services[virginia], "/v1/refresh", api.RefreshRequest{RefreshToken: moved.RefreshToken, ClosestServerID: singapore + "-a"})
	replayed(t, r.fleets[dublin].conn, 3)
	replayed(t, r.fleets[virginia].conn, 1)
	byRegion := map[string]float64{dublin + "-a": 91.3, virginia + "-a": 12}
	for region, want := range map[string][]map[string]float64{
		dublin:   {nil, {dublin + "-a": 91.26, virginia + "-a": 12, "unknown": 1}, byRegion},
		virginia: {nil},
	} {
		var got []map[string]float64
		for _, d := range stored[*events.Decision](t, r.fleets[region].conn, jetstream.StreamEvents, events.KindDecision) {
			got = append(got, d.Facts.RTTMs)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the times by which %s decided: -want +got\n%s", region, diff)
		}
	}
}
