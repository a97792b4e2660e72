package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Run asks a token service of the region at hand.
func (c *orgListCmd) Run(p *program) error {
	return operateOrgs(p, c.natsFlags, residency.MethodList, struct{}{}, c.JSON, func(reply residency.Reply) error {
		if err := orgTable(p, reply.Orgs); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%s as of %s; they are changed in %s\n", count(len(reply.Orgs), "organization"), reply.Region, cmp.Or(reply.Primary, "no region"))
		return err
	})
}

func orgTable(p *program, list []residency.Org) error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ORGANIZATION\tTAKEOVER\tCHANGED\tBY")
	for _, o := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", o.Org, o.Takeover, date(o.ChangedAt), cmp.Or(o.ChangedBy, "-"))
	}
	return t.Flush()
}

// operateOrgs asks a token service of the region at hand and has its answer printed.
func operateOrgs(p *program, f natsFlags, method string, request any, asJSON bool, show func(residency.Reply) error) error {
	conn, err := f.dial(p, "org")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	defer cancel()
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	region := conn.Region()
	answer, err := conn.OrgCaller().Call(ctx, residency.Subject(region, method), data)
	refused := (*residency.Refusal)(nil)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, jetstream.ErrNoResponders):
		return fmt.Errorf("no token service of region %s can be reached", region)
	case err != nil:
		return err
	}
	var reply residency.Reply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return fmt.Errorf("read answer of the token service of %s: %w", region, err)
	}
	if method != residency.MethodList && reply.Org == nil {
		return fmt.Errorf("read answer of the token service of %s: it names no organization", region)
	}
	if asJSON {
		if err := printJSON(p, reply); err != nil {
			return err
		}
	} else if err := show(reply); err != nil {
		return err
	}
	return warn(p, reply.Warnings)
}
