package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// drainCmd has sessions leave a server or a region.
type drainCmd struct {
	natsFlags
	Target   string        `arg:"" name:"server|region" help:"Server, or region, that its sessions are to leave."`
	Deadline time.Duration `default:"10m" placeholder:"DURATION" help:"Time until sessions that have reached no safe point move regardless, at most 168h (default: ${default})."`
	JSON     bool          `name:"json" help:"Print the registry's answer."`
}

// Run asks the registry of the target's region.
func (c *drainCmd) Run(p *program) error {
	if c.Deadline <= 0 || c.Deadline > registry.MaxDrain {
		return fmt.Errorf("deadline %s: want more than 0 and at most %s", c.Deadline, registry.MaxDrain)
	}
	return operate(p, c.natsFlags, "drain", func(ctx context.Context, o *operator) error {
		reply, err := o.drain(ctx, "drain", c.Target, c.Deadline.String())
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(p, reply)
		}
		fmt.Fprintf(p.stdout, "%s drains until %s: %s at their next safe points, all by then\n",
			c.Target, clock(reply.Until, time.Now()), concerned(reply))
		return warn(p, reply.Warnings)
	})
}

// undrainCmd takes a drain back.
type undrainCmd struct {
	natsFlags
	Target string `arg:"" name:"server|region" help:"Server, or region, that is to take sessions again."`
	JSON   bool   `name:"json" help:"Print the registry's answer."`
}

// Run asks the registry of the target's region.
func (c *undrainCmd) Run(p *program) error {
	return operate(p, c.natsFlags, "undrain", func(ctx context.Context, o *operator) error {
		reply, err := o.drain(ctx, "undrain", c.Target, "")
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(p, reply)
		case reply.Changed:
			fmt.Fprintf(p.stdout, "%s takes sessions again; %s there now\n", c.Target, concerned(reply))
		default:
			fmt.Fprintf(p.stdout, "%s was not drained by an operator\n", c.Target)
		}
		return warn(p, reply.Warnings)
	})
}

// concerned says how many sessions a reply is about.
func concerned(r registry.DrainReply) string {
	if r.Server != "" {
		return count(r.Sessions, "session")
	}
	return count(r.Sessions, "session") + " on " + count(r.Servers, "server")
}

// operator is a connection by which registries are asked.
type operator struct{ conn *jetstream.Conn }

// operate connects to a region's NATS for one command.
func operate(p *program, f natsFlags, role string, fn func(context.Context, *operator) error) error {
	conn, err := f.dial(p, role)
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	defer cancel()
	return fn(ctx, &operator{conn})
}

// drain asks for a drain or its end. What is asked for is looked up in the view of the region
// at hand: a server in it, else a region.
func (o *operator) drain(ctx context.Context, method, target, deadline string) (reply registry.DrainReply, err error) {
	q := registry.DrainRequest{Deadline: deadline, By: self()}
	list, err := (&serversCmd{}).read(ctx, o.conn)
	if err != nil {
		return reply, err
	}
	region := ""
	var names []string
	for _, s := range list {
		names = append(names, s.Server)
		if s.Server == target {
			region, q.Server = s.Region, s.Server
		}
	}
	regions := regionsOf(list)
	if region == "" && slices.Contains(regions, target) {
		region = target
	}
	if region == "" {
		return reply, fmt.Errorf("no server or region %q in the view of %s%s", target, o.conn.Region(), registry.Suggest(target, append(names, regions...)))
	}
	return reply, o.ask(ctx, region, method, q, &reply)
}

// regionsOf returns the regions of a list of servers sorted by region.
func regionsOf(list []events.Server) (regions []string) {
	for _, s := range list {
		regions = append(regions, s.Region)
	}
	return slices.Compact(regions)
}

// ask calls a method of a region's registries.
func (o *operator) ask(ctx context.Context, region, method string, request, reply any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	answer, err := o.conn.Call(ctx, service.RegistryMethod(region, method), nil, data)
	var refused *jetstream.ServiceError
	switch {
	case errors.As(err, &refused):
		return errors.New(refused.Description)
	case errors.Is(err, jetstream.ErrNoResponders):
		return fmt.Errorf("no registry of region %s can be reached from %s", region, o.conn.Region())
	case err != nil:
		return err
	}
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return fmt.Errorf("read answer of the registry of %s: %w", region, err)
	}
	return nil
}

// self says who runs the command, for the record.
func self() string {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		who += "@" + host
	}
	return who[:min(len(who), 128)]
}

func printJSON(p *program, v any) error {
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// warn prints what a registry warns of, beside its answer.
func warn(p *program, warnings []string) error {
	for _, w := range warnings {
		if _, err := fmt.Fprintln(p.stderr, "warning: "+w); err != nil {
			return err
		}
	}
	return nil
}
