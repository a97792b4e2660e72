package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
)

// orgCmd groups the commands of organizations.
type orgCmd struct {
	Set  orgSetCmd  `cmd:"" help:"Change what holds for an organization, in all regions."`
	Get  orgGetCmd  `cmd:"" help:"Show what holds for an organization, as of the region at hand."`
	List orgListCmd `cmd:"" help:"List the organizations of which something is set."`
}

// orgSetCmd changes an organization.
type orgSetCmd struct {
	natsFlags
	Org      string `arg:"" help:"Organization."`
	Takeover string `required:"" enum:"available,strict" placeholder:"HOW" help:"available: a fallback region goes on within seconds with the sessions of a region out of reach, which may still serve them. strict: never two at once; regions that are cut off stop."`
	JSON     bool   `name:"json" help:"Print the token service's answer."`
}

// Help says what the flags do not.
func (*orgSetCmd) Help() string {
	return "The change is made in the primary region, whichever region's NATS this is, and is known in the others within a second; in one that cannot be reached, once it can. Make an organization strict while all regions see each other."
}

// Run asks a token service of the region at hand, which passes it on to the primary.
func (c *orgSetCmd) Run(p *program) error {
	if err := checkName("organization", c.Org); err != nil {
		return err
	}
	q := residency.SetRequest{Org: c.Org, Takeover: residency.Takeover(c.Takeover), By: self()}
	return operateOrgs(p, c.natsFlags, residency.MethodSet, q, c.JSON, func(reply residency.Reply) error {
		how := "is"
		if !reply.Changed {
			how = "was already"
		}
		_, err := fmt.Fprintf(p.stdout, "takeover of %s %s %s\n", reply.Org.Org, how, reply.Org.Takeover)
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

// Run asks the token services of the region at hand, page by page.
func (c *orgListCmd) Run(p *program) error {
	return reachOrgs(p, c.natsFlags, func(o orgs) error {
		var all residency.Reply
		for q, more := (residency.ListRequest{}), true; more; q.After = all.Next {
			page, err := o.ask(p.ctx, residency.MethodList, q)
			if err != nil {
				return err
			}
			if more = page.Next != ""; more && page.Next <= q.After {
				return fmt.Errorf("read answer of the token service of %s: its list goes back from %q to %q", o.region(), q.After, page.Next)
			}
			all = joined(all, page)
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
	fmt.Fprintln(t, "ORGANIZATION\tTAKEOVER\tCHANGED\tBY")
	for _, o := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", o.Org, o.Takeover, date(o.ChangedAt), cmp.Or(o.ChangedBy, "-"))
	}
	return t.Flush()
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
