package main

import (
	"cmp"
	"fmt"
	"io"
	"os"

	"github.com/berthhq/berth/policy"
)

// policyCmd groups the commands of the policy by which sessions are placed.
type policyCmd struct {
	Get   policyGetCmd   `cmd:"" help:"Print the policy in force."`
	Set   policySetCmd   `cmd:"" help:"Put a policy in force, in all regions within a second."`
	Check policyCheckCmd `cmd:"" help:"Say whether a policy is valid, and if not, in which line and why."`
	Diff  policyDiffCmd  `cmd:"" help:"Show what a policy would change of the one in force."`
}

// policyGetCmd prints the policy in force.
type policyGetCmd struct {
	natsFlags
	JSON bool `name:"json" help:"Print the token service's answer."`
}

// Run asks a token service of the region at hand.
func (c *policyGetCmd) Run(p *program) error {
	reply, err := askPolicy(p, c.natsFlags, policy.MethodGet, policy.GetRequest{})
	switch {
	case err != nil:
		return err
	case c.JSON:
		return printJSON(p, reply)
	case reply.Posted == nil:
		fmt.Fprintf(p.stderr, "no policy was ever set: the token service of %s has what it was started with\n", reply.Region)
		fmt.Fprintf(p.stdout, "version: %d\npolicy: %s\n", policy.Version, reply.Name)
	default:
		fmt.Fprintf(p.stderr, "set %s by %s; as of %s\n", date(reply.Posted.ChangedAt), cmp.Or(reply.Posted.ChangedBy, "-"), reply.Region)
		if _, err := io.WriteString(p.stdout, reply.Posted.Document); err != nil {
			return err
		}
	}
	return warn(p, reply.Warnings)
}

// policySetCmd puts a policy in force.
type policySetCmd struct {
	natsFlags
	File string `arg:"" help:"The policy in YAML or JSON; -: standard input."`
	JSON bool   `name:"json" help:"Print the token service's answer."`
}

// Help says what the flags do not.
func (*policySetCmd) Help() string {
	return "The change is made in the primary region, whichever region's NATS this is, and is in force in the others within a second; in one that cannot be reached, once it can. A policy that is not valid changes nothing."
}

// Run asks a token service of the region at hand, which passes it on to the primary.
func (c *policySetCmd) Run(p *program) error {
	document, _, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	reply, err := askPolicy(p, c.natsFlags, policy.MethodSet, policy.SetRequest{Document: string(document), By: self()})
	switch {
	case err != nil:
		return err
	case c.JSON:
		return printJSON(p, reply)
	case reply.Changed:
		_, err = fmt.Fprintf(p.stdout, "policy is %s\n", reply.Summary)
	default:
		_, err = fmt.Fprintf(p.stdout, "policy was already %s\n", reply.Summary)
	}
	if err != nil {
		return err
	}
	return warn(p, reply.Warnings)
}

// policyCheckCmd says whether a policy is valid.
type policyCheckCmd struct {
	File string `arg:"" help:"The policy in YAML or JSON; -: standard input."`
}

// Run asks nobody.
func (c *policyCheckCmd) Run(p *program) error {
	_, plan, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "valid: %s\n", plan.String())
	return err
}

// policyDiffCmd shows what a policy would change.
type policyDiffCmd struct {
	natsFlags
	File string `arg:"" help:"The policy in YAML or JSON; -: standard input."`
	JSON bool   `name:"json" help:"Print the differences as JSON."`
}

// Run compares with what a token service of the region at hand says.
func (c *policyDiffCmd) Run(p *program) error {
	_, to, err := readPolicy(p, c.File)
	if err != nil {
		return err
	}
	reply, err := askPolicy(p, c.natsFlags, policy.MethodGet, policy.GetRequest{})
	if err != nil {
		return err
	}
	from := policy.Named(reply.Name)
	if reply.Posted != nil {
		if from, err = policy.Parse([]byte(reply.Posted.Document)); err != nil {
			return fmt.Errorf("the policy in force cannot be compared with: %w", err)
		}
	}
	list := policy.Diff(&from, &to)
	if c.JSON {
		return printJSON(p, list)
	}
	if len(list) == 0 {
		fmt.Fprintln(p.stdout, "nothing would change")
	}
	for _, d := range list {
		fmt.Fprintf(p.stdout, "%s: %s -> %s\n", d.Field, cmp.Or(d.From, "none"), cmp.Or(d.To, "none"))
	}
	return warn(p, reply.Warnings)
}

// readPolicy reads a policy from a file, or from standard input.
func readPolicy(p *program, name string) ([]byte, policy.Plan, error) {
	in := p.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, policy.Plan{}, fmt.Errorf("read policy: %w", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, policy.MaxSize+1))
	if err != nil {
		return nil, policy.Plan{}, fmt.Errorf("read policy: %w", err)
	}
	plan, err := policy.Parse(data)
	return data, plan, err
}

// askPolicy asks a token service of the region at hand.
func askPolicy(p *program, f natsFlags, method string, request any) (policy.Reply, error) {
	conn, err := f.dial(p, "policy")
	if err != nil {
		return policy.Reply{}, err
	}
	defer closeConn(p, conn)
	return askDocuments[policy.Reply](p.ctx, conn, policy.Subject(conn.Region(), method), request)
}
