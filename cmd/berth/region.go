package main

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// regionCmd looks at regions and sets how they take sessions.
type regionCmd struct {
	List   regionListCmd   `cmd:"" default:"withargs" help:"List the regions as a region's registry sees them."`
	Weight regionWeightCmd `cmd:"" help:"Set the share of the sessions not yet there that may come to a region."`
	Role   regionRoleCmd   `cmd:"" help:"Make a region active or a standby."`
}

// regionListCmd lists regions.
type regionListCmd struct {
	natsFlags
	JSON bool `name:"json" help:"Print a JSON array."`
}

// Run prints the regions as the registry at hand sees them.
func (c *regionListCmd) Run(p *program) error {
	return operate(p, c.natsFlags, "region", func(ctx context.Context, o *operator) error {
		list := []registry.RegionStatus{}
		if err := o.ask(ctx, o.conn.Region(), "regions", struct{}{}, &list); err != nil {
			return err
		}
		if c.JSON {
			return printJSON(p, list)
		}
		return regionTable(p, o.conn.Region(), list)
	})
}

func regionTable(p *program, from string, list []registry.RegionStatus) error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "REGION\tROLE\tWEIGHT\tUP\tSUSPECT\tDRAINING\tDOWN\tSESSIONS\tCAPACITY\tUTILISATION\tREACHABLE\tHEARD\n")
	for _, r := range list {
		reachable, heard := "yes", whole(time.Duration(r.AgeMS)*time.Millisecond)+" ago"
		if !r.Reachable {
			reachable = "no"
		}
		switch {
		case r.Region == from:
			heard = "here"
		case r.AgeMS < 0:
			heard = "never"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f %%\t%s\t%s\n", r.Region, r.Role, r.Weight,
			r.Up, r.Suspect, r.Draining, r.Down, r.Sessions, r.Capacity, 100*r.Utilisation, reachable, heard)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.stdout, "%s in the view of %s\n", count(len(list), "region"), from)
	return err
}

// regionWeightCmd sets a region's weight.
type regionWeightCmd struct {
	natsFlags
	Region string `arg:"" help:"Region."`
	Weight int    `arg:"" help:"0 to 100: the share in percent of the sessions not yet there, new logins included, that may come to it; the others come, too, while no other region can take them."`
	JSON   bool   `name:"json" help:"Print the registry's answer."`
}

// Run asks the region's registry.
func (c *regionWeightCmd) Run(p *program) error {
	if c.Weight < 0 || c.Weight > events.FullWeight {
		return fmt.Errorf("weight %d: want 0 to %d", c.Weight, events.FullWeight)
	}
	return setRegion(p, c.natsFlags, c.Region, registry.RegionRequest{Weight: &c.Weight}, c.JSON)
}

// regionRoleCmd sets a region's role.
type regionRoleCmd struct {
	natsFlags
	Region string `arg:"" help:"Region."`
	Role   string `arg:"" enum:"active,standby" help:"active, or standby: it takes sessions not yet there only while no active region can."`
	JSON   bool   `name:"json" help:"Print the registry's answer."`
}

// Run asks the region's registry.
func (c *regionRoleCmd) Run(p *program) error {
	return setRegion(p, c.natsFlags, c.Region, registry.RegionRequest{Role: events.Role(c.Role)}, c.JSON)
}

func setRegion(p *program, f natsFlags, region string, q registry.RegionRequest, asJSON bool) error {
	q.By = self()
	return operate(p, f, "region", func(ctx context.Context, o *operator) error {
		list, err := (&serversCmd{}).read(ctx, o.conn)
		if err != nil {
			return err
		}
		if regions := regionsOf(list); !slices.Contains(regions, region) {
			return fmt.Errorf("no region %q in the view of %s%s", region, o.conn.Region(), registry.Suggest(region, regions))
		}
		var reply registry.RegionReply
		if err := o.ask(ctx, region, "region", q, &reply); err != nil {
			return err
		}
		if asJSON {
			return printJSON(p, reply)
		}
		fmt.Fprintf(p.stdout, "%s is %s with weight %d\n", reply.Region, reply.Role, reply.Weight)
		return warn(p, reply.Warnings)
	})
}
