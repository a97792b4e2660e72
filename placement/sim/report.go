package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/placement"
)

// Report is what several policies have done to a scenario.
type Report struct {
	Scenario string `json:"scenario"`
	Seeds    int    `json:"seeds"`
	Rows     []Row  `json:"policies"`
	// Faults are the figures that miss what the scenario expects, a sentence each.
	Faults []string `json:"faults"`
}

// Row is what a policy has done: the means over the seeds, and each run.
type Row struct {
	Policy  string  `json:"policy"`
	Figures Figures `json:"figures"`
	// Runs are in the order of their seeds. Only the first one has Busiest.
	Runs []Result `json:"runs"`
}

// Study is a comparison of policies.
type Study struct {
	Scenario Scenario
	Places   *Places
	Policies []string
	// Each policy runs with Seeds seeds, from Seed on.
	Seeds int
	Seed  uint64
	// Parallel is how many runs go on at a time; 0: one.
	Parallel int
	// Progress is called with the share of all runs that is done, never twice at a time.
	Progress func(done float64)
}

// Do runs every policy with every seed. The report depends on nothing else.
func (s Study) Do(ctx context.Context) (*Report, error) {
	r := &Report{Scenario: s.Scenario.Name, Seeds: s.Seeds, Faults: []string{}}
	names := append([]string{PolicyBound}, s.Policies...)
	for _, name := range names {
		r.Rows = append(r.Rows, Row{Policy: name, Runs: make([]Result, s.Seeds)})
	}
	progress := s.progress()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, s.Parallel))
	for i := range r.Rows {
		for j := range s.Seeds {
			group.Go(func() error {
				run := Run{Scenario: s.Scenario, Places: s.Places, Policy: names[i], Seed: s.Seed + uint64(j)}
				if i == 0 {
					run.Policy = ""
					result, err := run.Bound(ctx)
					r.Rows[i].Runs[j] = result
					return err
				}
				run.Progress = progress((i-1)*s.Seeds + j)
				result, err := run.Do(ctx)
				if j > 0 {
					result.Busiest = nil // a plot is of the first
				}
				r.Rows[i].Runs[j] = result
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range r.Rows {
		r.Rows[i].Figures = means(r.Rows[i].Runs)
	}
	r.Faults = append(r.Faults, s.Scenario.judge(r.Rows)...)
	return r, nil
}

// progress returns, for each run by its number, whom to tell how far it is.
func (s Study) progress() func(run int) func(float64) {
	var mu sync.Mutex // guards done and the calls of s.Progress
	done := make([]float64, len(s.Policies)*s.Seeds)
	return func(run int) func(float64) {
		return func(share float64) {
			if s.Progress == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			done[run] = share
			sum := 0.0
			for _, d := range done {
				sum += d
			}
			s.Progress(sum / float64(len(done)))
		}
	}
}

// means returns the mean of each figure.
func means(runs []Result) Figures {
	sums := Figures{}
	for _, r := range runs {
		for f, x := range r.Figures {
			sums[f] += x / float64(len(runs))
		}
	}
	return sums
}

// How far a figure may be from what is expected: a part of it, or an absolute amount.
const (
	tolerance = 0.10
	slack     = 0.02
	rounding  = 1e-9 // of binary fractions
)

// judge compares figures with what the scenario expects of them. Of added times only the order
// of the policies counts: they depend on where the clients are. The best policy may be better
// than expected; of the others that, too, says that the fleet is not the one that was meant.
func (s *Scenario) judge(rows []Row) (faults []string) {
	for _, row := range rows {
		for _, f := range all() {
			want, expected := s.Expect[row.Policy][f]
			got, measured := row.Figures[f]
			if !expected || f.added() {
				continue
			}
			off := math.Abs(got - want)
			if row.Policy == placement.PolicySpreadPrices {
				off = got - want
			}
			if measured && off <= max(tolerance*want, slack)+rounding {
				continue
			}
			if !measured {
				faults = append(faults, fmt.Sprintf("%s: %s: want %s, but the scenario does not measure it", row.Policy, f, f.text(want)))
				continue
			}
			faults = append(faults, fmt.Sprintf("%s: %s: %s, want %s", row.Policy, f, f.text(got), f.text(want)))
		}
	}
	for _, f := range all() {
		if f.added() {
			faults = append(faults, s.judgeOrder(rows, f)...)
		}
	}
	return faults
}

// judgeOrder reports neighbours in the expected order of a figure that stand the other way.
func (s *Scenario) judgeOrder(rows []Row, f Figure) (faults []string) {
	var ranked []Row
	for _, row := range rows {
		if _, ok := s.Expect[row.Policy][f]; ok {
			ranked = append(ranked, row)
		}
	}
	want := func(r Row) float64 { return s.Expect[r.Policy][f] }
	slices.SortStableFunc(ranked, func(a, b Row) int { return cmp.Compare(want(a), want(b)) })
	for i := 1; i < len(ranked); i++ {
		a, b := ranked[i-1], ranked[i]
		if want(a) < want(b) && a.Figures[f] > b.Figures[f] {
			faults = append(faults, fmt.Sprintf("%s: %s: %s, want less than with %s, %s", a.Policy, f, f.text(a.Figures[f]), b.Policy, f.text(b.Figures[f])))
		}
	}
	return faults
}

// text returns a value of the figure as it is shown.
func (f Figure) text(x float64) string {
	switch {
	case f.share():
		return fmt.Sprintf("%.1f %%", 100*x)
	case f.added():
		return fmt.Sprintf("%.1f", x)
	case f == FigureDrainLeft:
		return fmt.Sprintf("%.0f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// Table writes the figures side by side, a policy a line, and a line for each fault.
func (r *Report) Table(w io.Writer) error {
	var columns []Figure
	for _, f := range all() {
		if slices.ContainsFunc(r.Rows[1:], func(row Row) bool { _, ok := row.Figures[f]; return ok }) {
			columns = append(columns, f)
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "policy\t")
	for _, f := range columns {
		fmt.Fprintf(table, "%s\t", f)
	}
	fmt.Fprintln(table)
	for _, row := range r.Rows {
		fmt.Fprintf(table, "%s\t", row.Policy)
		for _, f := range columns {
			text := "-"
			if x, ok := row.Figures[f]; ok {
				text = f.text(x)
			}
			fmt.Fprintf(table, "%s\t", text)
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if len(r.Faults) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "FAIL %s\n", strings.Join(r.Faults, "\nFAIL ")); err != nil {
		return fmt.Errorf("write faults: %w", err)
	}
	return nil
}

// JSON writes the report as JSON.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
