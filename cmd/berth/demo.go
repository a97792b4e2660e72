package main

import (
	"context"
	"fmt"
	"io"

	"github.com/berthhq/berth/cmd/internal/demo"
	"github.com/berthhq/berth/events"
)

// demoCmd runs one demo server.
type demoCmd struct {
	natsFlags
	Region     string `required:"" placeholder:"NAME" help:"Region of the server."`
	Server     string `required:"" placeholder:"ID" help:"Id of the server, unique in the fleet."`
	Listen     string `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where to listen (default: ${default})."`
	URL        string `name:"url" placeholder:"URL" help:"How clients reach the server (default: the listening address)."`
	PathPrefix string `default:"/" placeholder:"PATH" help:"Where the token paths stand (default: ${default})."`
	Location   string `default:"0,0" placeholder:"LAT,LON" help:"Place of the server in degrees (default: ${default})."`
	Capacity   int    `default:"1000" help:"Sessions that the server can hold."`
	Issuer     string `required:"" placeholder:"URL" help:"The global URL: claim iss of the tokens."`
	WithParent bool   `hidden:"" help:"End when standard input does."`
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
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	if c.WithParent {
		go func() {
			_, _ = io.Copy(io.Discard, p.stdin) // its end is the parent's
			cancel()
		}()
	}
	return demo.Run(ctx, demo.Config{
		NATS: cfg, Server: c.Server, Listen: c.Listen, URL: c.URL, PathPrefix: c.PathPrefix,
		Location: at, Capacity: c.Capacity, Issuer: c.Issuer, Log: p.log,
		Ready: func(url string) { fmt.Fprintln(p.stdout, "serving on "+url) },
	})
}
