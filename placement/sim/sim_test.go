package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/sim"
)

func small(t *testing.T) (sim.Scenario, *sim.Places) {
	t.Helper()
	s, err := sim.Shipped("small")
	if err != nil {
		t.Fatal(err)
	}
	p, err := sim.Cities()
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// TestRunIsDeterministic: the same seed gives the same figures, another one others.
func TestRunIsDeterministic(t *testing.T) {
	s, p := small(t)
	var results []sim.Result
	for _, seed := range []uint64{1, 1, 2} {
		r, err := sim.Run{Scenario: s, Places: p, Policy: placement.PolicySpreadPrices, Seed: seed}.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	if diff := cmp.Diff(results[0], results[1]); diff != "" {
		t.Errorf("two runs of one seed differ:\n%s", diff)
	}
	if cmp.Equal(results[0].Figures, results[2].Figures) {
		t.Error("another seed gives the same figures")
	}
}

// TestPoliciesDiffer: literal herds where spread does not, prices keep what a lost region leaves
// from overrunning the next one, and all is as the shipped scenario expects it.
func TestPoliciesDiffer(t *testing.T) {
	s, p := small(t)
	report, err := sim.Study{
		Scenario: s, Places: p, Policies: placement.Policies(), Seeds: 1, Seed: 1, Parallel: 2,
	}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Expect) != len(report.Rows) || len(report.Faults) > 0 {
		t.Errorf("of %d policies figures are expected, these miss: %q", len(s.Expect), report.Faults)
	}
	figures := map[string]sim.Figures{}
	for _, row := range report.Rows {
		figures[row.Policy] = row.Figures
	}
	if l, s := figures[placement.PolicyLiteral][sim.FigureMoves], figures[placement.PolicySpread][sim.FigureMoves]; l < 20*s {
		t.Errorf("literal moves %.2f a client-hour, spread %.2f", l, s)
	}
	plain, priced := figures[placement.PolicySpread]["loss_peak"], figures[placement.PolicySpreadPrices]["loss_peak"]
	if plain < priced {
		t.Errorf("peak after the loss of a region: %.2f without prices, %.2f with", plain, priced)
	}
	if bound := figures[sim.PolicyBound]["loss_peak"]; priced < bound {
		t.Errorf("peak %.2f is better than the bound %.2f", priced, bound)
	}
	for _, row := range report.Rows[1:] {
		if row.Runs[0].Reasons[placement.ReasonHomeRestored] == 0 {
			t.Errorf("%s: no session returns to the region that it had to leave", row.Policy)
		}
	}
	var table, svg bytes.Buffer
	if err := report.Table(&table); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(table.String(), "\n"); lines != 8 {
		t.Errorf("table of %d lines:\n%s", lines, table.String())
	}
	if err := report.SVG(&svg); err != nil || strings.Count(svg.String(), "<polyline") != 6*3 {
		t.Errorf("plot of %d lines, %v", strings.Count(svg.String(), "<polyline"), err)
	}
}

// TestRunStopsWhenTold: a run whose context has ended says so, within a step of a large fleet too.
func TestRunStopsWhenTold(t *testing.T) {
	s, p := small(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	run := sim.Run{Scenario: s, Places: p, Policy: placement.PolicySpread}
	if _, err := run.Do(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v, want canceled", err)
	}
	if _, err := run.Bound(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("bound: err %v, want canceled", err)
	}
	for name, change := range map[string]func(*sim.Scenario){
		"while it is laid out": func(s *sim.Scenario) { s.Clients, s.Refresh, s.Life = 1_000_000, time.Hour, 0 },
		"in a burst": func(s *sim.Scenario) {
			s.Clients, s.Events = 100_000, []sim.Event{{For: time.Hour, Burst: 10}}
		},
		"in a step": func(s *sim.Scenario) { s.Clients, s.Refresh, s.Reconnect = 200_000, time.Second, 0 },
	} {
		large := run
		change(&large.Scenario)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		_, err := large.Do(ctx)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Second {
			t.Errorf("%s: err %v after %s", name, err, took)
		}
		cancel()
	}
}

// TestFleetsThatCannotBe: regions without clients, or unknown to the round-trip times, are named.
func TestFleetsThatCannotBe(t *testing.T) {
	const fleet = "name: x\nregions:\n  - {name: us-east-1, servers: 2%s}\n  - {name: %s, servers: 2%[1]s}\n"
	const burst = "events: [{at: 5m, for: 1m, burst: 0.1, in: far}]\n"
	const times = "place,weight,us-east-1,near,far\na,1,10,20,90\nb,1,20,10,90\nc,0,90,90,10\n"
	for _, test := range []struct{ text, want string }{
		{fmt.Sprintf(fleet, "", "eu-wset-1"), "region eu-wset-1: no place has a round-trip time to it: want one of far, near, us-east-1"},
		{fmt.Sprintf(fleet, "", "far") + burst, "event 1: in far: no place that has clients is closest to that region"},
		{fmt.Sprintf(fleet, ", share: 1", "far"), "region far: a share of the clients, but no place that has any is closest to it"},
		{fmt.Sprintf(fleet, ", share: 1", "near"), ""},
		{fmt.Sprintf(fleet, "", "far"), ""},
	} {
		s, err := sim.Parse([]byte(test.text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := sim.ReadRTT(strings.NewReader(times))
		if err != nil {
			t.Fatal(err)
		}
		_, err = sim.Run{Scenario: s, Places: p}.Bound(t.Context())
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q, of:\n%s", err, test.want, test.text)
		}
	}
}

// TestBurstComesFromItsRegion: the clients of a burst in a region are of places that are closest
// to it, however small its share is.
func TestBurstComesFromItsRegion(t *testing.T) {
	s, p := small(t)
	s.Regions[0].Share, s.Regions[1].Share, s.Regions[2].Share = 1, 1e-300, 1
	s.Warmup, s.Life, s.Events = 0, 0, []sim.Event{{At: 5 * time.Minute, For: 25 * time.Minute, Burst: 0.01, In: s.Regions[1].Name}}
	r, err := sim.Run{Scenario: s, Places: p, Policy: placement.PolicySpread}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	busiest := r.Busiest[s.Regions[1].Name]
	if before, after := busiest[4*12], busiest[20*12]; before > 0 || after == 0 {
		t.Errorf("utilisation %v before the burst, %v in it", before, after)
	}
}

// TestOnlyTheFirstRunIsPlotted: points are kept of the first seed alone, and a bounded number.
func TestOnlyTheFirstRunIsPlotted(t *testing.T) {
	s, p := small(t)
	s.Clients, s.Duration, s.Refresh, s.Life = 50, 10*time.Hour, time.Hour, 0
	report, err := sim.Study{Scenario: s, Places: p, Policies: []string{placement.PolicySpread}, Seeds: 2, Parallel: 2}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	runs := report.Rows[1].Runs
	if n := len(runs[0].Busiest["us-east-1"]); n < 1000 || n > 2000 || runs[1].Busiest != nil {
		t.Errorf("%d points of the first seed, %d regions of the second", n, len(runs[1].Busiest))
	}
}

// TestExpectationsAreJudged: figures far from what is expected are named, near ones not.
func TestExpectationsAreJudged(t *testing.T) {
	s, p := small(t)
	s.Expect = map[string]sim.Figures{placement.PolicySpread: {sim.FigureOver: 0, sim.FigureMoves: 40, "drain_left": 0}}
	report, err := sim.Study{Scenario: s, Places: p, Policies: []string{placement.PolicySpread}, Seeds: 1}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Faults) != 2 || !strings.Contains(report.Faults[0], "moves") || !strings.Contains(report.Faults[1], "drain_left") {
		t.Errorf("faults %q", report.Faults)
	}
}

// TestBurstComesAsSlowlyAsItIsTold: its clients come evenly over a time that is much longer than
// that between refreshes, and have gone when it ends.
func TestBurstComesAsSlowlyAsItIsTold(t *testing.T) {
	s, p := small(t)
	s.Regions, s.Life, s.Warmup, s.Duration = []sim.Region{{Name: "us-east-1", Servers: 1}}, 0, 0, 40*time.Minute
	s.Events = []sim.Event{{At: 10 * time.Minute, For: 25 * time.Minute, Burst: 1, Over: 20 * time.Minute}}
	for _, policy := range []string{placement.PolicySpread, placement.PolicySpreadPrices} {
		r, err := sim.Run{Scenario: s, Places: p, Policy: policy}.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for minute, want := range map[int]float64{9: 1, 15: 1.25, 20: 1.5, 25: 1.75, 32: 2, 37: 1} {
			got := r.Busiest["us-east-1"][minute*12] / s.Utilisation
			if math.Abs(got-want) > 0.05 {
				t.Errorf("%s: %.2f times the load at minute %d, want %.2f", policy, got, minute, want)
			}
		}
	}
}
