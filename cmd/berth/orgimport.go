package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

// orgImportCmd changes many organizations.
type orgImportCmd struct {
	natsFlags
	File   string `arg:"" help:"Organizations as CSV with a header of org,takeover,allowed,home,fallbacks,jurisdiction, or as JSON; -: standard input."`
	DryRun bool   `help:"Print what would change, and change nothing."`
	JSON   bool   `name:"json" help:"Print the changes as JSON."`
}

// Help says what the flags do not.
func (*orgImportCmd) Help() string {
	return "A column, or field, that is absent stays as it is; an empty cell, or list, stands for nothing set. Regions in a cell are separated by blanks, semicolons or plus signs. Organizations that are not in the file stay. Every row is checked, also by the primary region, before the first is changed. JSON is an array of objects, or what org list --json prints."
}

// orgChange is what becomes of one organization.
type orgChange struct {
	Org  string `json:"org"`
	Line int    `json:"line"`
	// Before is nil where nothing was set.
	Before *residency.Org `json:"before,omitempty"`
	After  *residency.Org `json:"after"`

	request residency.SetRequest
}

// orgImport is what a file changes.
type orgImport struct {
	DryRun    bool        `json:"dry_run"`
	Added     int         `json:"added"`
	Changed   int         `json:"changed"`
	Unchanged int         `json:"unchanged"`
	Changes   []orgChange `json:"changes"`

	warnings []string
}

// Run reads the file, checks it, and asks for each change.
func (c *orgImportCmd) Run(p *program) error {
	rows, err := c.read(p)
	if err != nil {
		return err
	}
	return reachOrgs(p, c.natsFlags, func(o orgs) error {
		plan, err := o.plan(p, rows)
		if err != nil {
			return fmt.Errorf("%s: %w; nothing was changed", c.File, err)
		}
		plan.DryRun = c.DryRun
		if !c.DryRun {
			if err := o.change(p, plan.Changes); err != nil {
				return err
			}
		}
		if err := plan.print(p, c.JSON); err != nil {
			return err
		}
		return warn(p, plan.warnings)
	})
}

func (c *orgImportCmd) read(p *program) ([]orgRow, error) {
	in := p.stdin
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return nil, fmt.Errorf("read organizations: %w", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxOrgFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read organizations: %w", err)
	case len(data) > maxOrgFile:
		return nil, fmt.Errorf("%s: more than %d MiB", c.File, maxOrgFile>>20)
	}
	rows, err := readOrgRows(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; nothing was changed", c.File, err)
	}
	return rows, nil
}

// tries is how many rows are tried at once.
const tries = 8

// plan has the primary region try every row.
func (o orgs) plan(p *program, rows []orgRow) (orgImport, error) {
	bar := newProgressBar(p.stderr)
	defer bar.clear()
	replies, refusals := make([]residency.Reply, len(rows)), make([]error, len(rows))
	g, ctx := errgroup.WithContext(p.ctx)
	g.SetLimit(tries)
	for i, row := range rows {
		g.Go(func() (err error) {
			row.Check, row.By = true, self()
			replies[i], err = o.ask(ctx, residency.MethodSet, row.SetRequest)
			if refused := (*primary.Refusal)(nil); errors.As(err, &refused) && refused.Code == http.StatusBadRequest {
				refusals[i], err = refused, nil
			}
			return err
		})
		bar.show(float64(i+1) / float64(len(rows)))
	}
	if err := g.Wait(); err != nil {
		return orgImport{}, err
	}
	plan, faults := orgImport{Changes: []orgChange{}}, rowFaults{}
	for i, row := range rows {
		reply := &replies[i]
		switch {
		case refusals[i] != nil:
			faults.add(row.line, "%v", refusals[i])
			continue
		case !reply.Changed:
			plan.Unchanged++
			continue
		case reply.Before == nil:
			plan.Added++
		default:
			plan.Changed++
		}
		row.By = self()
		plan.Changes = append(plan.Changes, orgChange{row.Org, row.line, reply.Before, reply.Org, row.SetRequest})
		plan.warn(reply.Warnings)
	}
	return plan, faults.err()
}

// warn keeps what the primary region warns of, but no page after page of it.
func (plan *orgImport) warn(warnings []string) {
	for _, w := range warnings {
		switch {
		case len(plan.warnings) < maxFaults:
			plan.warnings = append(plan.warnings, w)
		case len(plan.warnings) == maxFaults:
			plan.warnings = append(plan.warnings, "likewise of others")
		}
	}
}

// change makes every change. When one fails the rest stays as it is; the file can be given again.
func (o orgs) change(p *program, changes []orgChange) error {
	bar := newProgressBar(p.stderr)
	defer bar.clear()
	for i, change := range changes {
		if _, err := o.ask(p.ctx, residency.MethodSet, change.request); err != nil {
			if errors.Is(err, context.Canceled) {
				err = errors.New("it was stopped")
			}
			return fmt.Errorf("%d of %s changed, then organization %s (line %d) failed: %w; give the file again",
				i, count(len(changes), "organization"), change.Org, change.Line, err)
		}
		bar.show(float64(i+1) / float64(len(changes)))
	}
	return nil
}

// print prints the differences.
func (plan orgImport) print(p *program, asJSON bool) error {
	if asJSON {
		return printJSON(p, plan)
	}
	for _, c := range plan.Changes {
		line := "+ " + c.Org + ": " + describeOrg(*c.After)
		if c.Before != nil {
			line = "~ " + c.Org + ": " + orgDiff(*c.Before, *c.After)
		}
		if _, err := fmt.Fprintln(p.stdout, line); err != nil {
			return err
		}
	}
	how := ""
	if plan.DryRun {
		how = " (dry run: nothing was changed)"
	}
	_, err := fmt.Fprintf(p.stdout, "%d added, %d changed, %d unchanged%s\n", plan.Added, plan.Changed, plan.Unchanged, how)
	return err
}
