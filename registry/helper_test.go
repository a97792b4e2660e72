package registry_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// start is when the histories of these tests begin.
var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// at returns the time so many seconds, to the millisecond, after start.
func at(seconds float64) time.Time {
	return start.Add(time.Duration(math.Round(seconds*1000)) * time.Millisecond)
}

// boot returns the ULID of the n-th boot.
func boot(n int) string { return fmt.Sprintf("01JB%022d", n) }

// beat returns a heartbeat of a healthy server.
func beat(server string, boot string, seq uint64, change ...func(*events.Heartbeat)) *events.Heartbeat {
	h := &events.Heartbeat{
		Version: events.Version, Server: server, Region: "eu-west-1", URL: "https://" + server + ".example.com",
		Boot: boot, Seq: seq, At: start, IntervalMS: 1000, State: events.StateUp, Capacity: 1000,
		Load:     events.Load{Sessions: 100, Utilisation: 0.1},
		Location: events.Location{Lat: 53.3, Lon: -6.2},
	}
	for _, c := range change {
		c(h)
	}
	return h
}

func saying(s events.State) func(*events.Heartbeat) {
	return func(h *events.Heartbeat) { h.State = s }
}

func member(name string) func(*events.Heartbeat) {
	return func(h *events.Heartbeat) { h.Member = name }
}

func utilised(u float64) func(*events.Heartbeat) {
	return func(h *events.Heartbeat) { h.Load.Utilisation = u }
}

// live and stored are heartbeats as events.
func live(h *events.Heartbeat) registry.Event { return registry.HeartbeatSeen{Heartbeat: h} }

func stored(h *events.Heartbeat) registry.Event {
	return registry.HeartbeatSeen{Heartbeat: h, Stored: true}
}

// viewOf returns the view of a table.
func viewOf(t *registry.Table) *registry.View { return viewAt(t, start.Add(time.Hour)) }

// viewAt returns the view of a table at a time.
func viewAt(t *registry.Table, now time.Time) *registry.View {
	seqs := map[string]uint64{}
	servers := t.Servers()
	for _, s := range servers {
		seqs[s.Region] = max(seqs[s.Region], s.Seq)
	}
	return registry.NewView(servers, seqs, new(atomic.Int64), now)
}

// server returns a server of the table, which must be there.
func server(t testing.TB, table *registry.Table, id string) events.Server {
	t.Helper()
	s, ok := viewOf(table).Server(id)
	if !ok {
		t.Fatalf("no server %s", id)
	}
	return s
}

func checkState(t testing.TB, table *registry.Table, id string, want events.State) {
	t.Helper()
	if got := server(t, table, id); got.State != want {
		t.Errorf("%s is %s (%s), want %s", id, got.State, got.Reason, want)
	}
}

// words writes effects as short lines: a state as "up<suspect heartbeat".
func words(effects []registry.Effect) []string {
	var lines []string
	for _, e := range effects {
		switch e := e.(type) {
		case registry.StateChanged:
			lines = append(lines, fmt.Sprintf("%s<%s %s", e.State.State, e.State.Previous, e.State.Reason))
		case registry.RegionChanged:
			lines = append(lines, e.State.Region+" "+e.State.State)
		case registry.ProbeDue:
			lines = append(lines, "probe "+e.URL)
		case registry.UpdateMissed:
			lines = append(lines, "missed "+e.Region)
		case registry.ViewDue:
			lines = append(lines, "ask "+e.Region)
		case registry.WitnessDue:
			lines = append(lines, fmt.Sprintf("witnesses for %s: %s", e.Server, strings.Join(e.Regions, " ")))
		case registry.SurveyDue:
			lines = append(lines, fmt.Sprintf("survey of %d in %s with %s", len(e.Servers), e.Region, strings.Join(e.Ask, " ")))
		case registry.Skipped:
			lines = append(lines, "skipped "+e.Reason)
		}
	}
	return lines
}

func checkWords(t testing.TB, what string, got []registry.Effect, want ...string) {
	t.Helper()
	lines := words(got)
	if !slices.Equal(lines, want) {
		t.Errorf("%s (-want +got):\n%s", what, cmp.Diff(want, lines))
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
