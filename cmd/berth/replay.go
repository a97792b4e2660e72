package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
	"github.com/berthhq/berth/policy"
)

// replayCmd makes recorded decisions again.
type replayCmd struct {
	natsFlags
	Since  string `placeholder:"TIME" help:"Decisions since then: a time such as 2026-11-21T10:30:00Z, or so long ago, such as 30m (default: 1h; of a file: all)."`
	Count  int    `default:"100000" placeholder:"N" help:"At most so many decisions, the oldest (default: ${default})."`
	From   string `type:"existingfile" placeholder:"FILE" help:"Read a file that --save or berth events --json has written, instead of the region's streams."`
	Save   string `type:"path" placeholder:"FILE" help:"Also write what was read to a file, for --from."`
	Policy string `placeholder:"NAME|FILE" help:"Say what another policy would change: one by its name, or a document as of berth policy."`
	Diff   bool   `help:"With --policy: print each decision that would change."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help says what the flags do not.
func (*replayCmd) Help() string {
	return "Reads the decisions that the token services of the region at hand have recorded, with the views of the servers that they were made by, and makes them again. Each must come out as it was, else the command prints FAIL with each and exits with 1. docs/replay.md says what the columns mean."
}

const (
	// maxReplayed bounds what is held at a time: some 2 KB of each decision.
	maxReplayed = 1_000_000
	// sightsBefore is how long before a decision it can begin what tells of the view that it saw: views
	// are recorded as a whole every 30 s.
	sightsBefore = 2 * time.Minute
)

// Run prints what comes of the decisions. It fails if any comes out otherwise.
func (c *replayCmd) Run(p *program) error {
	cfg, plan, err := c.candidate(p)
	if err != nil {
		return err
	}
	source, done, err := c.open(p)
	if err != nil {
		return err
	}
	defer done()
	run := replaying{replay: replay.New(cfg), bar: newProgressBar(p.stderr), most: c.Count}
	if c.Save != "" {
		if run.save, err = newRecordingFile(c.Save); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	err = run.do(p.ctx, source)
	run.bar.clear()
	if run.save != nil {
		err = errors.Join(err, run.save.close())
	}
	switch {
	case p.ctx.Err() != nil:
		return errors.New("replay: interrupted")
	case err != nil:
		return fmt.Errorf("replay: %w", err)
	}
	return c.print(p, &run, plan)
}

// candidate reads what the flags ask to compare with.
func (c *replayCmd) candidate(p *program) (cfg replay.Config, plan policy.Plan, err error) {
	switch {
	case c.Count < 1 || c.Count > maxReplayed:
		return cfg, plan, fmt.Errorf("replay: count %d: want 1 to %d", c.Count, maxReplayed)
	case c.From != "" && c.From == c.Save:
		return cfg, plan, errors.New("replay: --save would overwrite the file of --from")
	case c.Policy == "" && c.Diff:
		return cfg, plan, errors.New("replay: --diff wants --policy")
	case c.Policy == "":
		return cfg, plan, nil
	case slices.Contains(placement.Policies(), c.Policy):
		plan = policy.Named(c.Policy)
	default:
		if _, plan, err = readPolicy(p, c.Policy); errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("replay: %s is no file, nor a policy", c.Policy)
		}
	}
	return replay.Config{Candidate: plan.For}, plan, err
}

// open returns where to read from.
func (c *replayCmd) open(p *program) (source recording, done func(), err error) {
	since, err := c.since(time.Now())
	if err != nil {
		return nil, nil, err
	}
	if c.From != "" {
		return &recordingFile{name: c.From, since: since}, func() {}, nil
	}
	conn, err := c.dial(p, "replay")
	if err != nil {
		return nil, nil, err
	}
	if since.IsZero() {
		since = time.Now().Add(-time.Hour)
	}
	return &recordingStreams{conn: conn, since: since}, func() { closeConn(p, conn) }, nil
}

// since returns the time of the flag, zero if there is none.
func (c *replayCmd) since(now time.Time) (time.Time, error) {
	if c.Since == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(c.Since); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, c.Since)
	if err != nil {
		return t, fmt.Errorf("replay: since %q: want a time such as 2026-11-21T10:30:00Z, or so long ago as 30m", c.Since)
	}
	return t, nil
}

// print prints the report, and fails if it has to.
func (c *replayCmd) print(p *program, run *replaying, plan policy.Plan) error {
	report := run.replay.Report()
	if report.Decisions == 0 {
		return errors.New("replay: no decision is recorded there")
	}
	if report.Candidate != nil {
		report.Candidate.Policy = plan.String()
	}
	if run.skipped > 0 {
		fmt.Fprintf(p.stderr, "berth: skipped %d messages that are no events of this version\n", run.skipped)
	}
	if run.full {
		fmt.Fprintf(p.stderr, "berth: there are more decisions; go on with --since %s\n", report.To.UTC().Format(time.RFC3339Nano))
	}
	var err error
	if c.JSON {
		err = report.JSON(p.stdout)
	} else {
		err = report.Table(p.stdout, c.Diff)
	}
	switch n := len(report.Differences); {
	case err != nil:
		return err
	case n > 0:
		return fmt.Errorf("replay: %d of %d decisions come out otherwise than they did", n, report.Decisions)
	case report.Agree == 0:
		return fmt.Errorf("replay: none of %d decisions can be made again", report.Decisions)
	}
	return nil
}

// replaying is a replay of what is read.
type replaying struct {
	replay *replay.Replay
	bar    progressBar
	save   *recordingWriter
	// most is how many decisions are read, full says that there are more.
	most    int
	full    bool
	skipped int
	// shown is how many percent the bar shows.
	shown int
}

// show shows how far it is, where that has changed.
func (r *replaying) show(done float64) {
	if percent := int(100 * done); percent != r.shown {
		r.shown = percent
		r.bar.show(done)
	}
}

// do reads the decisions, and then the sights that they name.
func (r *replaying) do(ctx context.Context, source recording) error {
	var first time.Time
	read, fault := 0, error(nil)
	err := source.decisions(ctx, func(m recorded, done float64) bool {
		e, ok := r.decode(m).(*events.Decision)
		if !ok {
			return true
		}
		if r.full = read == r.most; r.full {
			return false
		}
		r.replay.Decision(e)
		if read++; first.IsZero() || e.At.Before(first) {
			first = e.At
		}
		r.show(done / 2)
		fault = r.keep(m)
		return fault == nil
	})
	if err = cmp.Or(fault, err); err != nil || read == 0 {
		return err
	}
	err = source.sights(ctx, first.Add(-sightsBefore), func(m recorded, done float64) bool {
		e, ok := r.decode(m).(*events.Sight)
		if !ok {
			return true
		}
		if fault = r.keep(m); fault != nil {
			return false
		}
		r.show((1 + done) / 2)
		return r.replay.Sight(e)
	})
	return cmp.Or(fault, err)
}

// decode returns the event of a message, nil and counted if it is none.
func (r *replaying) decode(m recorded) events.Event {
	e, err := events.Decode(m.Subject, m.Event)
	if err != nil {
		r.skipped++
		return nil
	}
	return e
}

// keep writes a message where what is read is to be kept.
func (r *replaying) keep(m recorded) error {
	if r.save == nil {
		return nil
	}
	return r.save.write(m)
}
