package main

import (
	"fmt"
	"io"
	"time"

	"github.com/berthhq/berth/cmd/internal/demo"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// serverFlags say which regional server a command is, or stands beside.
type serverFlags struct {
	Region   string `required:"" placeholder:"NAME" help:"Region of the server; the JetStream domain of its NATS."`
	Server   string `required:"" placeholder:"ID" help:"Id of the server, unique in the fleet."`
	Location string `default:"0,0" placeholder:"LAT,LON" help:"Place of the server in degrees (default: ${default})."`
	Capacity int    `default:"1000" help:"Sessions that the server can hold."`
	Issuer   string `required:"" placeholder:"URL" help:"The global URL: claim iss of the tokens."`
}

// check returns the server's place, or the first fault of the flags and of how long it drains at its end.
func (f *serverFlags) check(drain time.Duration) (events.Location, error) {
	if err := checkName("server", f.Server); err != nil {
		return events.Location{}, err
	}
	at, err := events.ParseLocation(f.Location)
	if err != nil {
		return at, fmt.Errorf("location %q: want latitude,longitude in degrees, -90 to 90 and -180 to 180", f.Location)
	}
	if drain < 0 || drain > registry.MaxDrain {
		return at, fmt.Errorf("drain %s: want 0 to %s", drain, registry.MaxDrain)
	}
	return at, nil
}

// demoCmd runs one demo server.
type demoCmd struct {
	natsFlags
	serverFlags
	Listen     string        `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where to listen (default: ${default})."`
	URL        string        `name:"url" placeholder:"URL" help:"How clients reach the server (default: the listening address)."`
	PathPrefix string        `default:"/" placeholder:"PATH" help:"Where the token paths stand (default: ${default})."`
	Drain      time.Duration `default:"10s" placeholder:"DURATION" help:"Time to go on serving on SIGTERM, while sessions leave; 0: none (default: ${default})."`
	WithParent bool          `hidden:"" help:"End when standard input does."`
}

// Run serves until Ctrl-C, or until the parent has ended.
func (c *demoCmd) Run(p *program) error {
	at, err := c.check(c.Drain)
	if err != nil {
		return err
	}
	cfg, err := c.service(p, "server", c.Region)
	if err != nil {
		return err
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
