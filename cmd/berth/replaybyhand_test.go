package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
)

// candidate checks what another policy would change of the decisions in a file: the decisions that come
// out otherwise when each is made by it on what the file says, with nothing of berth's but Decide.
func candidate(t *testing.T, file, name string) {
	t.Helper()
	stdout, stderr, code := here(t, "", "replay", "--from", file, "--policy", name, "--json")
	if code != 0 {
		t.Fatalf("replay --policy %s: exit code %d\n%s", name, code, stderr)
	}
	var got []string
	report := readReport(t, stdout)
	for _, d := range report.Candidate.Differences {
		got = append(got, fmt.Sprint(d.Session, d.Generation, d.At, d.Was, d.Is))
	}
	want := otherwise(t, file, name)
	slices.Sort(got)
	slices.Sort(want)
	t.Logf("%s: %s would change %d of %d decisions", filepath.Base(file), name, len(want), report.Decisions)
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("%s: changes by %s (-want +got):\n%s", file, name, diff)
	}
}

// otherwise decides by hand.
func otherwise(t *testing.T, file, name string) (changes []string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var decisions []*events.Decision
	var sights []*events.Sight
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var line struct {
			Subject string          `json:"subject"`
			Event   json.RawMessage `json:"event"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		switch e, err := events.Decode(line.Subject, line.Event); e := e.(type) {
		case *events.Decision:
			decisions = append(decisions, e)
		case *events.Sight:
			sights = append(sights, e)
		default:
			t.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	views := byHand(sights)
	for _, e := range decisions {
		if e.Reason == "store_unavailable" {
			continue
		}
		f := e.Facts
		r := placement.Request{
			Session: e.Session, Generation: e.Generation, Server: e.From, Arrived: f.Arrived, ClosestServer: f.ClosestServer, Location: f.Location,
			Critical: f.Critical, Dead: f.Dead, Unreachable: f.Unreachable, Stale: f.Stale, Home: f.Home, Allowed: f.Allowed,
		}
		if f.CriticalSince != nil {
			r.CriticalSince = *f.CriticalSince
		}
		if f.MovedAt != nil {
			r.MovedAt = *f.MovedAt
		}
		for id, ms := range f.RTTMs {
			r.RTT = append(r.RTT, placement.RTT{ServerID: id, MS: ms})
		}
		was := replay.Outcome{Verdict: e.Verdict, Reason: e.Reason, To: e.To}
		if d := e.Decided; d != nil {
			was = replay.Outcome{Verdict: d.Verdict, Reason: d.Reason, To: d.To}
		}
		seen, ok := views[e.Sight]
		if !ok {
			t.Fatalf("no sight %d", e.Sight)
		}
		view := seen.view(e)
		d := placement.Decide(r, &view, placement.Policy{Name: name}, e.At)
		is := replay.Outcome{Verdict: string(d.Verdict), Reason: string(d.Reason), To: d.Server}
		if is != was {
			changes = append(changes, fmt.Sprint(e.Session, e.Generation, e.At, was, is))
		}
	}
	return changes
}

// seenByHand is what was seen, put together by hand.
type seenByHand struct {
	servers  map[string]placement.Server
	settings []placement.Setting
}

// view is what a decision went by.
func (s seenByHand) view(e *events.Decision) placement.View {
	var servers []placement.Server
	for _, server := range s.servers {
		server.Utilisation = max(0, server.Utilisation+e.Added[server.ID])
		servers = append(servers, server)
	}
	view := placement.NewView(servers, s.settings...)
	return view.WithPrices(e.Prices)
}

// byHand follows what one token service has seen.
func byHand(sights []*events.Sight) map[uint64]seenByHand {
	slices.SortStableFunc(sights, func(a, b *events.Sight) int { return int(a.Number) - int(b.Number) })
	views := map[uint64]seenByHand{}
	servers := map[string]placement.Server{}
	for _, s := range sights {
		if s.Whole {
			clear(servers)
		}
		for _, e := range s.Servers {
			servers[e.Server] = placement.Server{
				ID: e.Server, Region: e.Region, State: e.State, Capacity: e.Capacity, Utilisation: e.Utilisation, Location: e.Location,
				DrainingSince: e.DrainingSince, DrainUntil: e.DrainUntil, RejoinedAt: e.RejoinedAt,
			}
		}
		for id, u := range s.Utilisation {
			e := servers[id]
			e.Utilisation = u
			servers[id] = e
		}
		for _, id := range s.Gone {
			delete(servers, id)
		}
		var settings []placement.Setting
		for _, r := range s.Regions {
			settings = append(settings, placement.Setting{Region: r.Region, Role: r.Role, Weight: r.Weight})
		}
		views[s.Number] = seenByHand{maps.Clone(servers), settings}
	}
	return views
}
