package main

import (
	"fmt"
	"os"
	"time"

	"github.com/berthhq/berth/cmd/internal/bench"
)

// benchCmd measures.
type benchCmd struct {
	Registry benchRegistryCmd `cmd:"" help:"Heartbeats, the view and memory of a registry, each beside its floor."`
	Refresh  benchRefreshCmd  `cmd:"" help:"Refreshes of a token service, beside an HTTP echo and the signatures."`
	Side     benchSideCmd     `cmd:"" hidden:"" help:"Run what is measured."`
	Load     benchLoadCmd     `cmd:"" hidden:"" help:"Run generated servers."`
	Grants   benchGrantsCmd   `cmd:"" hidden:"" help:"Run a token service with sessions."`
	Echo     benchEchoCmd     `cmd:"" hidden:"" help:"Run the floor of a token service."`
	Clients  benchClientsCmd  `cmd:"" hidden:"" help:"Run clients that refresh."`
}

// benchRegistryCmd measures a registry.
type benchRegistryCmd struct {
	Servers int           `default:"10000" placeholder:"N" help:"Size of the fleet (default: ${default})."`
	Full    bool          `help:"Also measure a connection for each server, which takes longer and some 2 GB of memory."`
	Phase   time.Duration `default:"2s" help:"How long each measurement takes, at least 500ms (default: ${default})."`
	JSON    bool          `name:"json" help:"Print JSON."`
}

// minPhase is the shortest that gives figures worth reading.
const minPhase = 500 * time.Millisecond

// Run prints each figure beside its floor. A goal that is missed is no fault.
func (c *benchRegistryCmd) Run(p *program) error {
	setup, err := benchSetup(p, c.Phase)
	if err != nil {
		return fmt.Errorf("bench registry: %w", err)
	}
	report, err := bench.Registry(p.ctx, bench.Config{Setup: setup, Servers: c.Servers, Full: c.Full})
	if err != nil {
		return err
	}
	return printBench(p, report, c.JSON)
}

// benchSetup says how to measure.
func benchSetup(p *program, phase time.Duration) (bench.Setup, error) {
	if phase < minPhase {
		return bench.Setup{}, fmt.Errorf("phase %s: want at least %s", phase, minPhase)
	}
	self, err := os.Executable()
	if err != nil {
		return bench.Setup{}, fmt.Errorf("find the berth program: %w", err)
	}
	return bench.Setup{Phase: phase, Program: self, Progress: p.stderr}, nil
}

// printBench prints what was found, as JSON or as a table.
func printBench(p *program, report bench.Report, asJSON bool) error {
	if asJSON {
		return report.JSON(p.stdout)
	}
	return report.Table(p.stdout)
}

// benchRefreshCmd measures a token service.
type benchRefreshCmd struct {
	Sessions int           `default:"100000" placeholder:"N" help:"Sessions, each refreshed once over 64 connections (default: ${default})."`
	Phase    time.Duration `default:"4s" help:"How long they are refreshed over 1 and over 16 connections afterwards, at least 500ms (default: ${default})."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run prints each figure beside its floor. A goal that is missed is no fault.
func (c *benchRefreshCmd) Run(p *program) error {
	setup, err := benchSetup(p, c.Phase)
	if err != nil {
		return fmt.Errorf("bench refresh: %w", err)
	}
	report, err := bench.Refresh(p.ctx, bench.RefreshConfig{Setup: setup, Sessions: c.Sessions})
	if err != nil {
		return err
	}
	return printBench(p, report, c.JSON)
}

// benchSideCmd is a child of a bench: NATS and what is measured.
type benchSideCmd struct {
	Dir   string `required:"" type:"path" help:"Store of NATS."`
	Floor bool   `help:"Only count."`
}

// Run serves until standard input ends.
func (c *benchSideCmd) Run(p *program) error {
	return bench.Side(p.ctx, bench.SideConfig{Dir: c.Dir, Floor: c.Floor}, p.stdin, p.stdout)
}

// benchLoadCmd is a child of a bench: the fleet.
type benchLoadCmd struct {
	Address     string `required:"" help:"NATS server."`
	Servers     int    `required:"" help:"Size of the fleet."`
	Connections int    `required:"" help:"Connections of the fleet."`
}

// Run sends as it is told until standard input ends.
func (c *benchLoadCmd) Run(p *program) error {
	return bench.Load(p.ctx, bench.LoadConfig{
		Address: c.Address, Servers: c.Servers, Connections: c.Connections,
	}, p.stdin, p.stdout)
}

// benchGrantsCmd is a child of a bench: NATS and a token service with sessions.
type benchGrantsCmd struct {
	Dir      string `required:"" type:"path" help:"Where everything is stored."`
	Tokens   string `required:"" type:"path" help:"File for the refresh tokens."`
	Sessions int    `required:"" help:"How many are started."`
}

// Run serves until standard input ends.
func (c *benchGrantsCmd) Run(p *program) error {
	return bench.Grants(p.ctx, bench.GrantsConfig{Dir: c.Dir, Tokens: c.Tokens, Sessions: c.Sessions}, p.stdin, p.stdout)
}

// benchEchoCmd is a child of a bench: the floor.
type benchEchoCmd struct{}

// Run serves until standard input ends.
func (*benchEchoCmd) Run(p *program) error { return bench.Echo(p.ctx, p.stdin, p.stdout) }

// benchClientsCmd is a child of a bench: those who refresh.
type benchClientsCmd struct {
	URL    string `required:"" help:"Where they post."`
	Tokens string `required:"" type:"path" help:"File of refresh tokens."`
}

// Run refreshes as it is told until standard input ends.
func (c *benchClientsCmd) Run(p *program) error {
	return bench.Clients(p.ctx, bench.ClientsConfig{URL: c.URL, Tokens: c.Tokens}, p.stdin, p.stdout)
}
