package registry_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// report returns a report of load of so many seconds after start, of some fields.
func report(server string, seconds float64, load events.Load, fields ...string) registry.LoadSeen {
	return registry.LoadSeen{Report: &events.LoadReport{
		Version: events.Version, Server: server, Region: "eu-west-1", At: at(seconds), Load: load, Fields: fields, Source: "prometheus",
	}}
}

// loading is a heartbeat's load.
func loading(l events.Load) func(*events.Heartbeat) {
	return func(h *events.Heartbeat) { h.Load = l }
}

func TestTheNewestWordOnLoadCounts(t *testing.T) {
	own := events.Load{Sessions: 100, CPU: 0.2, P99: 9, Utilisation: 0.25}
	type step struct {
		at    float64
		event registry.Event
	}
	says := func(seconds float64, seq uint64, l events.Load) step {
		return step{seconds, live(beat("eu-west-1-a", boot(1), seq, loading(l)))}
	}
	told := func(seconds float64, l events.Load, fields ...string) step {
		return step{seconds, report("eu-west-1-a", seconds, l, fields...)}
	}
	full := events.Load{Sessions: 700, InFlight: 3, MaxInFlight: 30, CPU: 0.6, P99: 40, Utilisation: 0.9}
	tests := []struct {
		name   string
		steps  []step
		want   events.Load
		source string
	}{
		{"the server's own", []step{says(0, 1, own)}, own, ""},
		{"a report after it", []step{says(0, 1, own), told(0.5, full)}, full, "prometheus"},
		{
			"the server's own after the report, but for what it does not know",
			[]step{told(0, full), says(1, 1, own)},
			events.Load{Sessions: 100, MaxInFlight: 30, CPU: 0.2, P99: 9, Utilisation: 0.25},
			"prometheus",
		},
		{"a server without load of its own", []step{told(0, full), says(1, 1, events.Load{}), says(2, 2, events.Load{P99: 7})}, full, "prometheus"},
		{
			"one field, and what it makes of the utilisation",
			[]step{says(0, 1, own), told(0.5, events.Load{CPU: 0.6}, "cpu")},
			events.Load{Sessions: 100, CPU: 0.6, P99: 9, Utilisation: 0.75},
			"prometheus",
		},
		{
			"one field that makes nothing of it",
			[]step{says(0, 1, own), told(0.5, events.Load{P99: 80}, "p99_ms")},
			events.Load{Sessions: 100, CPU: 0.2, P99: 80, Utilisation: 0.25},
			"prometheus",
		},
		{
			"sessions of a capacity of 1000",
			[]step{told(0, events.Load{Sessions: 400}, "sessions"), says(1, 1, events.Load{})},
			events.Load{Sessions: 400, Utilisation: 0.4},
			"prometheus",
		},
		{
			"requests of those it can bear",
			[]step{says(0, 1, events.Load{}), told(1, events.Load{InFlight: 9, MaxInFlight: 10}, "in_flight", "max_in_flight")},
			events.Load{InFlight: 9, MaxInFlight: 10, Utilisation: 0.9},
			"prometheus",
		},
		{
			"fields of two reports",
			[]step{says(0, 1, events.Load{}), told(1, events.Load{CPU: 0.4, Utilisation: 0.5}, "cpu", "utilisation"), told(2, events.Load{CPU: 0.8}, "cpu", "unheard_of")},
			events.Load{CPU: 0.8, Utilisation: 0.5},
			"prometheus",
		},
		{
			"a report that was overtaken",
			[]step{says(0, 1, events.Load{}), told(2, full), {2.5, report("eu-west-1-a", 1, own)}},
			full, "prometheus",
		},
		{"a report from the future", []step{says(0, 1, own), {1, report("eu-west-1-a", 6.1, full)}}, own, ""},
		{"an old report", []step{says(0, 1, own), {1, report("eu-west-1-a", -59.1, full)}}, own, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := registry.NewTable("eu-west-1", registry.Detection{})
			for _, s := range test.steps {
				table.Reduce(s.event, at(s.at))
			}
			got := server(t, table, "eu-west-1-a")
			if diff := cmp.Diff(test.want, got.Load, cmpopts.EquateApprox(0, 1e-9)); diff != "" || got.LoadSource != test.source {
				t.Errorf("load from %q, want from %q (-want +got):\n%s", got.LoadSource, test.source, diff)
			}
		})
	}
}

func TestReportsThatStopAreForgotten(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	var seen []string
	last := ""
	for i := range 150 {
		now := float64(i)
		if i < 30 && i%5 == 0 {
			table.Reduce(report("eu-west-1-a", now, events.Load{Utilisation: 0.7}, "utilisation"), at(now))
		}
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), loading(events.Load{}))), at(now))
		table.Reduce(registry.Ticked{}, at(now))
		s := server(t, table, "eu-west-1-a")
		if is := fmt.Sprintf("%.1f %q", s.Load.Utilisation, s.LoadSource); is != last {
			seen = append(seen, fmt.Sprintf("%d: %s", i, is))
			last = is
		}
	}
	if diff := cmp.Diff([]string{`0: 0.7 "prometheus"`, `85: 0.0 ""`}, seen); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}
}

func TestAReportOfACellIsOfAllItsMembers(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i, name := range []string{"m1", "m2"} {
		table.Reduce(live(beat("eu-west-1-a", boot(1+i), 1, member(name), loading(events.Load{}))), at(0))
	}
	table.Reduce(report("eu-west-1-a", 1, events.Load{Sessions: 500}, "sessions"), at(1))
	got := server(t, table, "eu-west-1-a")
	if want := (events.Load{Sessions: 500, Utilisation: 0.25}); got.Load != want || got.Capacity != 2000 {
		t.Errorf("%+v of %d, want %+v of 2000", got.Load, got.Capacity, want)
	}
}

func TestReportsOfUnknownServers(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{MaxServers: 2})
	load := events.Load{Utilisation: 0.5}
	checkWords(t, "of one that is heard next", table.Reduce(report("eu-west-1-a", 0, load), at(0)))
	checkWords(t, "of one that never is", table.Reduce(report("eu-west-1-b", 0, load), at(0)))
	checkWords(t, "of one too many", table.Reduce(report("eu-west-1-c", 0, load), at(0)), "skipped report_of_unknown_server")
	if got := len(table.Servers()); got != 0 {
		t.Errorf("%d servers are made of reports, want none", got)
	}
	table.Reduce(live(beat("eu-west-1-a", boot(1), 1, loading(events.Load{}))), at(1))
	if got := server(t, table, "eu-west-1-a"); got.Load != load || got.LoadSource != "prometheus" {
		t.Errorf("%+v from %q, want what was reported before it was heard", got.Load, got.LoadSource)
	}
	if effects := words(table.Reduce(registry.Ticked{}, at(60))); !slices.Contains(effects, "skipped report_of_unknown_server") {
		t.Errorf("%v after a minute, want the report of the one that was never heard to be counted", effects)
	}
	foreign := report("eu-west-1-a", 60, load)
	foreign.Report.Region = "us-east-1"
	checkWords(t, "of another region", table.Reduce(foreign, at(60)), "skipped foreign_region")
}

// TestARestartKeepsCentralLoad: until the next report a server that says nothing of its load
// does not look idle.
func TestARestartKeepsCentralLoad(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	load := events.Load{Sessions: 900, Utilisation: 0.9}
	table.Reduce(registry.Restored{Servers: []events.Server{{
		Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://a.example.com", Boot: boot(1), State: events.StateUp,
		Since: start, IntervalMS: 1000, Capacity: 1000, Load: load, LoadSource: "prometheus", Seq: 7,
	}}}, at(0))
	table.Reduce(live(beat("eu-west-1-a", boot(1), 9, loading(events.Load{}))), at(1))
	if got := server(t, table, "eu-west-1-a"); got.Load != load || got.LoadSource != "prometheus" {
		t.Errorf("%+v from %q after a restart, want %+v", got.Load, got.LoadSource, load)
	}
	table.Reduce(report("eu-west-1-a", 2, events.Load{Sessions: 10, Utilisation: 0.1}), at(2))
	if got := server(t, table, "eu-west-1-a"); got.Load.Sessions != 10 {
		t.Errorf("%+v, want the first report after the restart", got.Load)
	}
}

// TestTheSourceIsToldWithTheRefresh: a server that reports its load itself and is reported too
// changes its source all the time; that alone is not worth a write.
func TestTheSourceIsToldWithTheRefresh(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	load := events.Load{Utilisation: 0.5}
	table.Reduce(live(beat("eu-west-1-a", boot(1), 1, loading(load))), at(0))
	table.Tell(at(0))
	table.Reduce(report("eu-west-1-a", 1, load), at(1))
	if told := table.Tell(at(1.5)); len(told.Updates) == 0 || len(told.Values) != 0 {
		t.Errorf("told %+v for its source alone", told.Values)
	}
	told := table.Tell(at(31.5))
	if len(told.Values) != 1 || told.Values[0].LoadSource != "prometheus" {
		t.Errorf("told %+v, want the server with its source", told.Values)
	}
}
