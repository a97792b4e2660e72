package sim_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

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

// TestPoliciesDiffer: with slow reports lowest-load herds where spread does not, and levels
// keep what a lost region leaves from overrunning the next one.
func TestPoliciesDiffer(t *testing.T) {
	s, p := small(t)
	report, err := sim.Study{
		Scenario: s, Places: p, Policies: placement.Policies(), Seeds: 1, Seed: 3, Parallel: 2,
	}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
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

// TestRunStopsWhenTold: a run whose context has ended says so.
func TestRunStopsWhenTold(t *testing.T) {
	s, p := small(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (sim.Run{Scenario: s, Places: p, Policy: placement.PolicySpread}).Do(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v, want canceled", err)
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
