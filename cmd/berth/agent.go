package main

import (
	"fmt"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/sdk/server"
)

// agentCmd runs berth beside an application.
type agentCmd struct {
	natsFlags
	serverFlags
	Member            string        `placeholder:"ID" help:"Name of this process among several behind one URL (default: there is just one)."`
	URL               string        `name:"url" required:"" placeholder:"URL" help:"How clients reach the application."`
	Health            string        `required:"" placeholder:"URL" help:"Where the application answers 2xx while it serves: asked each second, and by the registry when heartbeats stay away."`
	AuthURL           string        `name:"auth-url" placeholder:"URL" help:"How clients reach the token paths (default: --url)."`
	Audience          string        `placeholder:"NAME" help:"Claim aud of the tokens (default: the issuer)."`
	LoadURL           string        `name:"load-url" xor:"load" placeholder:"URL" help:"Where the application says what its load is, as JSON: in_flight, max_in_flight, cpu, p99_ms, utilisation (default: it is worked out of sessions and processors)."`
	LoadCommand       string        `xor:"load" placeholder:"COMMAND" help:"Command of the shell that prints it."`
	Interval          time.Duration `default:"1s" placeholder:"1s" help:"Time between heartbeats, 100ms to 1m."`
	Listen            string        `default:"127.0.0.1:9500" placeholder:"HOST:PORT" help:"Where the proxy asks /verify, and passes the token paths on to (default: ${default})."`
	PathPrefix        string        `default:"/" placeholder:"PATH" help:"Where the token paths stand (default: ${default})."`
	Admin             string        `default:"127.0.0.1:9501" placeholder:"HOST:PORT" help:"Where /readyz, /metrics, the view and POST /drain are served to operators; empty: nowhere (default: ${default})."`
	Enforce           bool          `default:"true" negatable:"" help:"Refuse requests; --no-enforce only counts and logs those that would be."`
	RegionLimit       float64       `placeholder:"N" help:"Requests a second of the whole region, of which this server lets its part through (default: no limit)."`
	OrganizationLimit float64       `placeholder:"N" help:"Likewise of each organization."`
	Drain             time.Duration `default:"30s" placeholder:"DURATION" help:"Time to go on serving on SIGTERM, while sessions leave; 0: none (default: ${default})."`
}

// Run goes on until Ctrl-C.
func (c *agentCmd) Run(p *program) error {
	at, err := c.check(c.Drain)
	if err != nil {
		return err
	}
	cfg, err := c.service(p, "server", c.Region)
	if err != nil {
		return err
	}
	return service.RunAgent(p.ctx, service.AgentConfig{
		NATS: cfg, Server: c.Server, Member: c.Member, URL: c.URL, Health: c.Health, AuthURL: c.AuthURL, Location: at, Capacity: c.Capacity,
		Issuer: c.Issuer, Audience: c.Audience, LoadURL: c.LoadURL, LoadCommand: c.LoadCommand, Interval: c.Interval,
		Listen: c.Listen, PathPrefix: c.PathPrefix, Admin: c.Admin, Shadow: !c.Enforce,
		Limits: server.Limits{Region: c.RegionLimit, Organization: c.OrganizationLimit}, Drain: c.Drain, Log: p.log,
		Ready: func(url, admin string) {
			if admin != "" {
				fmt.Fprintf(p.stdout, "admin on %s\n", admin)
			}
			fmt.Fprintf(p.stdout, "judging on %s\n", url)
		},
	})
}
