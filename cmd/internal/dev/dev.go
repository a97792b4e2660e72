// Package dev runs a whole fleet on one machine: a hub and a NATS domain per region, the
// registries and token services, a front that plays the geo-DNS, and demo servers as child
// processes that end with their parent. Everything listens on loopback only.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/residency"
)

// Config says what fleet to run.
type Config struct {
	// Regions are the names of the regions, at least one of those that places knows.
	Regions []string
	// Servers is how many demo servers a region has, 1 to 50.
	Servers int
	// Jurisdictions are the named sets of regions that sessions can be bound to.
	Jurisdictions residency.Jurisdictions
	// GeoIP is the file of a database that says where addresses are; empty: none.
	GeoIP string
	// BasePort is the first port: the front's. 0: any free ports.
	BasePort int
	// Dir keeps the state. Empty: a temporary directory, removed at the end.
	Dir string
	// ReadyFile is written once everything serves. Empty: none.
	ReadyFile string
	// Restart is how long after its death a demo server is started again. 0: never.
	Restart time.Duration
	// Drain is how long a demo server goes on serving when it is told to end.
	Drain time.Duration
	// Program and Args start a demo server: the berth binary and its demo command; flags
	// follow.
	Program string
	Args    []string
	// Stdout gets the table, Stderr the children's logs.
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

// maxServers is how many demo servers a region may have: each is a process.
const maxServers = 50

func (c *Config) validate() error {
	switch {
	case len(c.Regions) == 0:
		return errors.New("no region")
	case c.Servers < 1 || c.Servers > maxServers:
		return fmt.Errorf("servers %d: want 1 to %d", c.Servers, maxServers)
	case c.BasePort < 0 || c.BasePort+c.ports() > 65_536:
		return fmt.Errorf("base port %d: want 0, or a port with room for %d", c.BasePort, c.ports())
	case c.jurisdictionFault() != nil:
		return c.jurisdictionFault()
	case c.Restart < 0:
		return fmt.Errorf("restart %s: want at least 0", c.Restart)
	case c.Drain < 0 || c.Drain > registry.MaxDrain:
		return fmt.Errorf("drain %s: want 0 to %s", c.Drain, registry.MaxDrain)
	case c.ReadyFile != "":
		// Said now, not once the whole fleet is up.
		if info, err := os.Stat(filepath.Dir(c.ReadyFile)); err != nil || !info.IsDir() {
			return fmt.Errorf("ready file %s: its directory does not exist", c.ReadyFile)
		}
	}
	return nil
}

// jurisdictionFault returns the first region of a jurisdiction that is not run.
func (c *Config) jurisdictionFault() error {
	for name, regions := range c.Jurisdictions {
		for _, region := range regions {
			if !slices.Contains(c.Regions, region) {
				return fmt.Errorf("--jurisdictions: jurisdiction %s: region %s is none of %s", name, region, strings.Join(c.Regions, ", "))
			}
		}
	}
	return nil
}

// The ports from the base port on: the front, the hub, then for each region NATS, the token
// service, its admin listener, the registry's, and the servers.
const (
	portFront = iota
	portHub
	portRegions
)

// The offsets of a region's ports in its block.
const (
	offsetNATS = iota
	offsetTokens
	offsetTokensAdmin
	offsetRegistryAdmin
	offsetServers
)

func (c *Config) ports() int { return portRegions + len(c.Regions)*(offsetServers+c.Servers) }

// port returns the i-th port, 0 for any free one.
func (c *Config) port(i int) int {
	if c.BasePort == 0 {
		return 0
	}
	return c.BasePort + i
}

func (c *Config) regionPort(region, offset int) int {
	return c.port(portRegions + region*(offsetServers+c.Servers) + offset)
}

func (c *Config) address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// fleet is a running fleet.
type fleet struct {
	cfg     Config
	places  []place
	dir     string
	users   string
	front   net.Listener
	regions []*region
}

// region is one region of a running fleet.
type region struct {
	place
	nats *embedded.Region
	// tokens and admin are the URLs of the token service and of its admin listener.
	tokens, admin string
	// registry is the URL of the registry's admin listener.
	registry string
	servers  []*child
}

// Run starts the fleet, prints its table, and serves until ctx ends; then it drains. It
// returns an error only if the fleet could not start or a part of it failed.
func Run(ctx context.Context, c Config) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	places, err := findPlaces(c.Regions)
	if err != nil {
		return err
	}
	f := &fleet{cfg: c, places: places, dir: c.Dir}
	if f.dir == "" {
		if f.dir, err = os.MkdirTemp("", "berth-dev-"); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	}
	if f.users, err = writeUsers(f.dir); err != nil {
		return err
	}
	// The front's port is held from the start: its URL is the issuer of every token.
	if f.front, err = service.Listen(ctx, c.address(c.port(portFront))); err != nil {
		return fmt.Errorf("%w; another port: --base-port, 0 for any free ones", err)
	}
	defer func() { _ = f.front.Close() }() // closed already where it was served
	hub, err := f.startNATS(ctx)
	defer func() { err = errors.Join(err, f.stopNATS(hub)) }()
	if err != nil {
		return err
	}
	return f.run(ctx)
}
