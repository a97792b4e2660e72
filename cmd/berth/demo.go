package main

import (
	"fmt"
	"io"
	"time"

	"github.com/berthhq/berth/cmd/internal/demo"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// demoCmd runs one demo server.
type demoCmd struct {
	natsFlags
	Region     string        `required:"" placeholder:"NAME" help:"Region of the server."`
	Server     string        `required:"" placeholder:"ID" help:"Id of the server, unique in the fleet."`
	Listen     string        `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where to listen (default: ${default})."`
	URL        string        `name:"url" placeholder:"URL" help:"How clients reach the server (default: the listening address)."`
	PathPrefix string        `default:"/" placeholder:"PATH" help:"Where the token paths stand (default: ${default})."`
	Location   string        `default:"0,0" placeholder:"LAT,LON" help:"Place of the server in degrees (default: ${default})."`
	Capacity   int           `default:"1000" help:"Sessions that the server can hold."`
	Issuer     string        `required:"" placeholder:"URL" help:"The global URL: claim iss of the tokens."`
	Drain      time.Duration `default:"10s" placeholder:"DURATION" help:"Time to go on serving on SIGTERM, while sessions leave; 0: none (default: ${default})."`
	WithParent bool          `hidden:"" help:"End when standard input does."`
}

// Run serves until Ctrl-C, or until the parent has ended.
func (c *demoCmd) Run(p *program) error {
	if err := checkName("server", c.Server); err != nil {
		return err
	}
	at, err := events.ParseLocation(c.Location)
	if err != nil {
		return fmt.Errorf("location %q: want latitude,longitude in degrees, -90 to 90 and -180 to 180", c.Location)
	}
	cfg, err := c.service(p, "server", c.Region)
	if err != nil {
		return err
	}
	if c.Drain < 0 || c.Drain > registry.MaxDrain {
		return fmt.Errorf("drain %s: want 0 to %s", c.Drain, registry.MaxDrain)
	}
	abandoned := make(chan struct{})
	if c.WithParent {
		go func() {
			_, _ = io.Copy(io.Discard, p.stdin) // its end is the parent's
			close(abandoned)
		}()
	}
	return demo.Run(p.ctx, demo.Config{
		NATS: cfg, Server: c.Server, Listen: c.Listen, URL: c.URL, PathPrefix: c.PathPrefix,
		Location: at, Capacity: c.Capacity, Issuer: c.Issuer, Log: p.log,
		Drain: c.Drain, Abandoned: abandoned,
		Ready: func(url string) { fmt.Fprintln(p.stdout, "serving on "+url) },
	})
}
