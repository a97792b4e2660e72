package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/sim"
)

// simulateCmd asks what placement policies would do to a fleet.
type simulateCmd struct {
	Scenario string   `arg:"" help:"A scenario that is shipped (small, medium, large, slow-reports, region-loss, drain, flash-crowd), or a YAML file."`
	Policy   []string `placeholder:"NAME,…" help:"Policies to compare: literal, lowest-load, p2c, spread, spread+levels, spread+prices (default: all)."`
	Seeds    int      `default:"1" placeholder:"N" help:"Runs of each policy, whose figures are averaged (default: ${default})."`
	Seed     uint64   `default:"1" placeholder:"S" help:"Seed of the first run; the others follow (default: ${default})."`
	RTT      string   `name:"rtt" type:"path" placeholder:"FILE" help:"Round-trip times in milliseconds as CSV: a row for each place, a column for each region (default: 86 cities)."`
	JSON     bool     `name:"json" help:"Print JSON."`
	SVG      string   `name:"svg" type:"path" placeholder:"FILE" help:"Also plot utilisation over time."`
}

// maxSeeds bounds what is kept of runs: the figures of each and how many decisions had which
// reason, some kilobytes; points to plot of the first alone.
const maxSeeds = 1000

// Run prints the figures of each policy. It fails if the scenario expects others.
func (c *simulateCmd) Run(p *program) error {
	study, err := c.study()
	if err != nil {
		return err
	}
	bar := newProgressBar(p.stderr)
	study.Progress = bar.show
	report, err := study.Do(p.ctx)
	bar.clear()
	if p.ctx.Err() != nil {
		return fmt.Errorf("simulate %s: interrupted", c.Scenario)
	}
	if err != nil {
		return err
	}
	if c.SVG != "" {
		if err := c.plot(report); err != nil {
			return err
		}
	}
	print := report.Table
	if c.JSON {
		print = report.JSON
	}
	if err := print(p.stdout); err != nil {
		return err
	}
	if n := len(report.Faults); n > 0 {
		return fmt.Errorf("simulate %s: figures that are not as the scenario expects: %d", c.Scenario, n)
	}
	return nil
}

// study makes of the flags what is to be run.
func (c *simulateCmd) study() (sim.Study, error) {
	if c.Seeds < 1 || c.Seeds > maxSeeds {
		return sim.Study{}, fmt.Errorf("simulate: seeds %d: want 1 to %d", c.Seeds, maxSeeds)
	}
	s := sim.Study{Policies: c.Policy, Seeds: c.Seeds, Seed: c.Seed, Parallel: runtime.GOMAXPROCS(0)}
	if len(s.Policies) == 0 {
		s.Policies = placement.Policies()
	}
	for _, name := range s.Policies {
		if err := (placement.Policy{Name: name}).Validate(); err != nil {
			return sim.Study{}, fmt.Errorf("simulate: %w", err)
		}
	}
	var err error
	if s.Scenario, err = c.scenario(); err != nil {
		return sim.Study{}, err
	}
	s.Places, err = c.places()
	return s, err
}

func (c *simulateCmd) scenario() (sim.Scenario, error) {
	if slices.Contains(sim.Names(), c.Scenario) {
		s, err := sim.Shipped(c.Scenario)
		if err != nil {
			return s, fmt.Errorf("simulate %s: %w", c.Scenario, err)
		}
		return s, nil
	}
	data, err := os.ReadFile(c.Scenario)
	if errors.Is(err, os.ErrNotExist) {
		return sim.Scenario{}, fmt.Errorf("simulate: %s is no file, nor a scenario that is shipped: %s", c.Scenario, strings.Join(sim.Names(), ", "))
	}
	if err != nil {
		return sim.Scenario{}, fmt.Errorf("simulate: %w", err)
	}
	s, err := sim.Parse(data)
	if err != nil {
		return s, fmt.Errorf("simulate %s: %w", c.Scenario, err)
	}
	return s, nil
}

func (c *simulateCmd) places() (*sim.Places, error) {
	if c.RTT == "" {
		return sim.Cities()
	}
	f, err := os.Open(c.RTT)
	if err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	defer f.Close()
	places, err := sim.ReadRTT(f)
	if err != nil {
		return nil, fmt.Errorf("simulate: %s: %w", c.RTT, err)
	}
	return places, nil
}

// plot writes the SVG file.
func (c *simulateCmd) plot(report *sim.Report) error {
	f, err := os.Create(c.SVG)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	if err := errors.Join(report.SVG(f), f.Close()); err != nil {
		return fmt.Errorf("simulate: %s: %w", c.SVG, err)
	}
	return nil
}

// progressBar shows progress on a terminal, and nothing elsewhere.
type progressBar struct{ w io.Writer }

func newProgressBar(w io.Writer) progressBar {
	f, ok := w.(*os.File)
	if !ok {
		return progressBar{}
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return progressBar{}
	}
	return progressBar{w: w}
}

// show draws the share that is done.
func (b progressBar) show(done float64) {
	const width = 40
	if b.w != nil {
		full := int(done * width)
		fmt.Fprintf(b.w, "\r[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*done)
	}
}

// clear takes the bar off the line.
func (b progressBar) clear() {
	if b.w != nil {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
