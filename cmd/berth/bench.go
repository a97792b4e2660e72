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
	Side     benchSideCmd     `cmd:"" hidden:"" help:"Run what is measured."`
	Load     benchLoadCmd     `cmd:"" hidden:"" help:"Run generated servers."`
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
	if c.Phase < minPhase {
		return fmt.Errorf("bench registry: phase %s: want at least %s", c.Phase, minPhase)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the berth program: %w", err)
	}
	report, err := bench.Registry(p.ctx, bench.Config{Servers: c.Servers, Full: c.Full, Phase: c.Phase, Program: self, Progress: p.stderr})
	if err != nil {
		return err
	}
	if c.JSON {
		return report.JSON(p.stdout)
	}
	return report.Table(p.stdout)
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
