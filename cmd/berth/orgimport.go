package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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
}

// Run reads the file, checks it, and asks for each change.
func (c *orgImportCmd) Run(p *program) error {
	rows, err := c.read(p)
	if err != nil {
		return err
	}
	return reachOrgs(p, c.natsFlags, func(o orgs) error {
		known, err := o.all(p.ctx)
		if err != nil {
			return err
		}
		plan, err := planImport(rows, known.Orgs)
		if err != nil {
			return fmt.Errorf("%s: %w; nothing was changed", c.File, err)
		}
		plan.DryRun = c.DryRun
		if err := o.check(p, plan.Changes); err != nil {
			return fmt.Errorf("%s: %w; nothing was changed", c.File, err)
		}
		if !c.DryRun {
			if err := o.change(p, plan.Changes); err != nil {
				return err
			}
		}
		if err := plan.print(p, c.JSON); err != nil {
			return err
		}
		return warn(p, known.Warnings)
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

// planImport compares rows with what is known.
func planImport(rows []orgRow, known []residency.Org) (orgImport, error) {
	plan, faults := orgImport{Changes: []orgChange{}}, rowFaults{}
	now := make(map[string]*residency.Org, len(known))
	for i := range known {
		now[known[i].Org] = &known[i]
	}
	for _, row := range rows {
		before := residency.Default(row.Org)
		was := now[row.Org]
		if was != nil {
			before = *was
		}
		after := row.Apply(before)
		if err := after.Validate(); err != nil {
			faults.add(row.line, "%v", err)
			continue
		}
		switch {
		case was == nil:
			plan.Added++
		case after.Equal(before):
			plan.Unchanged++
			continue
		default:
			plan.Changed++
		}
		row.By = self()
		plan.Changes = append(plan.Changes, orgChange{row.Org, row.line, was, &after, row.SetRequest})
	}
	return plan, faults.err()
}

// check has the primary region try every change.
func (o orgs) check(p *program, changes []orgChange) error {
	var faults rowFaults
	bar := newProgressBar(p.stderr)
	defer bar.clear()
	for i, change := range changes {
		q := change.request
		q.Check = true
		_, err := o.ask(p.ctx, residency.MethodSet, q)
		if refused := (*primary.Refusal)(nil); errors.As(err, &refused) && refused.Code == 400 {
			faults.add(change.Line, "%v", refused)
		} else if err != nil {
			return err
		}
		bar.show(float64(i+1) / float64(len(changes)))
	}
	return faults.err()
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
