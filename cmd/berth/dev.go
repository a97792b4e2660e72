package main

import (
	"fmt"
	"os"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/residency"
)

// devCmd runs a whole fleet.
type devCmd struct {
	Regions       []string      `default:"us-east-1,eu-west-1,ap-southeast-1" placeholder:"a,b,c" help:"Regions to run; one alone needs no hub (default: ${default})."`
	Servers       int           `default:"2" help:"Demo servers in each region."`
	BasePort      int           `default:"7070" help:"First of the ports on loopback; 0: any free ones."`
	Dir           string        `type:"path" placeholder:"DIR" help:"Directory that keeps the state (default: a temporary one, removed at the end)."`
	ReadyFile     string        `type:"path" placeholder:"FILE" help:"Write the fleet's URLs, pids and users here as JSON once it serves."`
	Jurisdictions []string      `placeholder:"NAME=a+b" help:"Named sets of regions that sessions can be bound to (default: none but global, all regions)."`
	GeoIP         string        `name:"geoip" type:"path" placeholder:"FILE" help:"Database in the MaxMind DB format that says where network addresses are, of cities or countries (default: none)."`
	Restart       time.Duration `placeholder:"5s" help:"Start killed demo servers again after this time (default: never)."`
	Drain         time.Duration `default:"500ms" placeholder:"DURATION" help:"Time that demo servers go on serving on SIGTERM, while sessions leave (default: ${default})."`
}

// Run serves until Ctrl-C.
func (c *devCmd) Run(p *program) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the berth program: %w", err)
	}
	jurisdictions, err := residency.ParseJurisdictions(c.Jurisdictions)
	if err != nil {
		return fmt.Errorf("--jurisdictions: %w", err)
	}
	return dev.Run(p.ctx, dev.Config{
		Jurisdictions: jurisdictions, GeoIP: c.GeoIP,
		Regions: c.Regions, Servers: c.Servers, BasePort: c.BasePort, Dir: c.Dir, ReadyFile: c.ReadyFile,
		Restart: c.Restart, Drain: c.Drain, Program: self, Args: []string{"demo"}, Stdout: p.stdout, Stderr: p.stderr, Log: p.log,
	})
}
