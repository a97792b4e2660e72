package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
)

// orgCmd groups the commands of organizations.
type orgCmd struct {
	Set    orgSetCmd    `cmd:"" help:"Change what holds for an organization, in all regions."`
	Get    orgGetCmd    `cmd:"" help:"Show what holds for an organization, as of the region at hand."`
	List   orgListCmd   `cmd:"" help:"List the organizations of which something is set."`
	Delete orgDeleteCmd `cmd:"" help:"Remove what is set of an organization: the defaults hold again."`
	Import orgImportCmd `cmd:"" help:"Change many organizations, from a CSV or JSON file."`
}

// orgSetCmd changes an organization.
type orgSetCmd struct {
	natsFlags
	Org          string   `arg:"" help:"Organization."`
	Takeover     string   `placeholder:"HOW" help:"available: a fallback region goes on within seconds with the sessions of a region out of reach, which may still serve them. strict: never two at once; regions that are cut off stop."`
	Allowed      []string `placeholder:"a,b" help:"Regions where sessions may be; all: every one. Fewer need a jurisdiction that holds no other region."`
	Home         string   `placeholder:"REGION" help:"Region where sessions are while it can take them, wherever their clients are; none: the closest to the client."`
	Fallbacks    []string `placeholder:"b,c" help:"Regions that stand in first, in this order; none: the closest."`
	Jurisdiction string   `placeholder:"NAME" help:"Set of regions that sessions, and copies of them, never leave, as the token services define them (--jurisdictions); global: all."`
	JSON         bool     `name:"json" help:"Print the token service's answer."`
}

// Help says what the flags do not.
func (*orgSetCmd) Help() string {
	return "What is not given stays as it is. The change is made in the primary region, whichever region's NATS this is, and is known in the others within a second; in one that cannot be reached, once it can. Make an organization strict while all regions see each other."
}

// Words for what is not limited.
const (
	allRegions = "all"
	noRegion   = "none"
)

// request returns the change, or what is wrong with it.
func (c *orgSetCmd) request() (residency.SetRequest, error) {
	q := residency.SetRequest{Org: c.Org, Takeover: residency.Takeover(c.Takeover), Jurisdiction: c.Jurisdiction, By: self()}
	if err := checkName("organization", c.Org); err != nil {
		return q, err
	}
	if c.Allowed != nil {
		q.Allowed = listOf(c.Allowed, allRegions)
	}
	if c.Fallbacks != nil {
		q.Fallbacks = listOf(c.Fallbacks, noRegion)
	}
	if c.Home != "" {
		home := strings.TrimPrefix(c.Home, noRegion)
		q.Home = &home
	}
	if q.Takeover == "" && q.Allowed == nil && q.Home == nil && q.Fallbacks == nil && q.Jurisdiction == "" {
		return q, errors.New("nothing to set: give --takeover, --allowed, --home, --fallbacks or --jurisdiction")
	}
	// What stays as it is fits whatever is set, as far as that can be said here.
	return q, q.Apply(residency.Default(c.Org)).Validate()
}

// listOf returns regions as a request has them, for which the one word none stands for an empty list.
func listOf(regions []string, none string) *[]string {
	if len(regions) == 1 && regions[0] == none {
		regions = []string{}
	}
	return &regions
}

// Run asks a token service of the region at hand, which passes it on to the primary.
func (c *orgSetCmd) Run(p *program) error {
	q, err := c.request()
	if err != nil {
		return err
	}
	return operateOrgs(p, c.natsFlags, residency.MethodSet, q, c.JSON, func(reply residency.Reply) error {
		if !reply.Changed {
			_, err := fmt.Fprintf(p.stdout, "%s was already so: %s\n", c.Org, describeOrg(*reply.Org))
			return err
		}
		before := residency.Default(c.Org)
		if reply.Before != nil {
			before = *reply.Before
		}
		_, err := fmt.Fprintf(p.stdout, "%s: %s\n", c.Org, cmp.Or(orgDiff(before, *reply.Org), "set to the defaults"))
		return err
	})
}

// orgDeleteCmd removes an organization's document.
type orgDeleteCmd struct {
	natsFlags
	Org  string `arg:"" help:"Organization."`
	JSON bool   `name:"json" help:"Print the token service's answer."`
}

// Help says what the flags do not.
func (*orgDeleteCmd) Help() string {
	return "Sessions of an organization of which nothing is set may be in all regions. Those that have begun keep their jurisdiction until they end."
}

// Run asks a token service of the region at hand, which passes it on to the primary.
func (c *orgDeleteCmd) Run(p *program) error {
	if err := checkName("organization", c.Org); err != nil {
		return err
	}
	q := residency.DeleteRequest{Org: c.Org, By: self()}
	return operateOrgs(p, c.natsFlags, residency.MethodDelete, q, c.JSON, func(reply residency.Reply) error {
		how := "is deleted"
		if !reply.Changed {
			how = "was not set"
		}
		_, err := fmt.Fprintf(p.stdout, "%s %s\n", c.Org, how)
		return err
	})
}

// orgGetCmd shows an organization.
type orgGetCmd struct {
	natsFlags
	Org  string `arg:"" help:"Organization."`
	JSON bool   `name:"json" help:"Print the token service's answer."`
}

// Run asks a token service of the region at hand.
func (c *orgGetCmd) Run(p *program) error {
	if err := checkName("organization", c.Org); err != nil {
		return err
	}
	return operateOrgs(p, c.natsFlags, residency.MethodGet, residency.GetRequest{Org: c.Org}, c.JSON, func(reply residency.Reply) error {
		if !reply.Set {
			fmt.Fprintf(p.stderr, "nothing is set of %s; this holds for every such organization\n", c.Org)
		}
		return orgTable(p, []residency.Org{*reply.Org})
	})
}

// orgListCmd lists organizations.
type orgListCmd struct {
	natsFlags
	JSON bool `name:"json" help:"Print the token service's answer."`
}

// all returns all organizations of which something is set, page by page.
func (o orgs) all(ctx context.Context) (all residency.Reply, err error) {
	for q, more := (residency.ListRequest{}), true; more; q.After = all.Next {
		page, err := o.ask(ctx, residency.MethodList, q)
		if err != nil {
			return all, err
		}
		if more = page.Next != ""; more && page.Next <= q.After {
			return all, fmt.Errorf("read answer of the token service of %s: its list goes back from %q to %q", o.region(), q.After, page.Next)
		}
		all = joined(all, page)
	}
	return all, nil
}

// Run asks the token services of the region at hand.
func (c *orgListCmd) Run(p *program) error {
	return reachOrgs(p, c.natsFlags, func(o orgs) error {
		all, err := o.all(p.ctx)
		if err != nil {
			return err
		}
		return o.print(p, all, c.JSON, func(reply residency.Reply) error {
			if err := orgTable(p, reply.Orgs); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stdout, "%s as of %s; they are changed in %s\n", count(len(reply.Orgs), "organization"), reply.Region, cmp.Or(reply.Primary, "no region"))
			return err
		})
	})
}

// joined returns what a list's pages say together: they are as old as the oldest.
func joined(all, page residency.Reply) residency.Reply {
	if all.Region != "" {
		if all.AgeMS < 0 || page.AgeMS >= 0 && all.AgeMS > page.AgeMS {
			page.AgeMS = all.AgeMS
		}
		for _, w := range page.Warnings {
			if !slices.Contains(all.Warnings, w) {
				all.Warnings = append(all.Warnings, w)
			}
		}
		page.Orgs, page.Warnings = append(all.Orgs, page.Orgs...), all.Warnings
	}
	return page
}

func orgTable(p *program, list []residency.Org) error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ORGANIZATION\tTAKEOVER\tALLOWED\tHOME\tFALLBACKS\tJURISDICTION\tCHANGED\tBY")
	for _, o := range list {
		fmt.Fprint(t, o.Org)
		for _, f := range orgFields() {
			fmt.Fprint(t, "\t", f.of(o))
		}
		fmt.Fprintf(t, "\t%s\t%s\n", date(o.ChangedAt), cmp.Or(o.ChangedBy, "-"))
	}
	return t.Flush()
}

// orgField is one thing that is set of organizations.
type orgField struct {
	name string
	of   func(residency.Org) string
}

func orgFields() []orgField {
	return []orgField{
		{"takeover", func(o residency.Org) string { return string(o.Takeover) }},
		{"allowed", func(o residency.Org) string { return cmp.Or(strings.Join(o.Allowed, ","), allRegions) }},
		{"home", func(o residency.Org) string { return cmp.Or(o.Home, noRegion) }},
		{"fallbacks", func(o residency.Org) string { return cmp.Or(strings.Join(o.Fallbacks, ","), noRegion) }},
		{"jurisdiction", func(o residency.Org) string { return cmp.Or(o.Jurisdiction, events.GlobalJurisdiction) }},
	}
}

// describeOrg says what holds for an organization, in one line.
func describeOrg(o residency.Org) string {
	var parts []string
	for _, f := range orgFields() {
		parts = append(parts, f.name+" "+f.of(o))
	}
	return strings.Join(parts, ", ")
}

// orgDiff says what differs, empty if nothing does.
func orgDiff(before, after residency.Org) string {
	var parts []string
	for _, f := range orgFields() {
		if was, is := f.of(before), f.of(after); was != is {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", f.name, was, is))
		}
	}
	return strings.Join(parts, ", ")
}

// orgs is a connection by which the token services of the region at hand are asked about organizations.
type orgs struct{ conn *jetstream.Conn }

// reachOrgs connects for one command.
func reachOrgs(p *program, f natsFlags, fn func(orgs) error) error {
	conn, err := f.dial(p, "org")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	return fn(orgs{conn})
}

func (o orgs) region() string { return o.conn.Region() }

// ask asks once.
func (o orgs) ask(ctx context.Context, method string, request any) (residency.Reply, error) {
	reply, err := askDocuments[residency.Reply](ctx, o.conn, residency.Subject(o.region(), method), request)
	if err == nil && method != residency.MethodList && reply.Org == nil {
		err = fmt.Errorf("read answer of the token service of %s: it names no organization", o.region())
	}
	return reply, err
}

// print prints an answer, and what it warns of.
func (orgs) print(p *program, reply residency.Reply, asJSON bool, show func(residency.Reply) error) error {
	if asJSON {
		show = func(reply residency.Reply) error { return printJSON(p, reply) }
	}
	if err := show(reply); err != nil {
		return err
	}
	return warn(p, reply.Warnings)
}

// operateOrgs asks a token service of the region at hand and has its answer printed.
func operateOrgs(p *program, f natsFlags, method string, request any, asJSON bool, show func(residency.Reply) error) error {
	return reachOrgs(p, f, func(o orgs) error {
		reply, err := o.ask(p.ctx, method, request)
		if err != nil {
			return err
		}
		return o.print(p, reply, asJSON, show)
	})
}
