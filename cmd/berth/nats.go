package main

import (
	"fmt"

	"github.com/nats-io/jsm.go/natscontext"

	"github.com/berthhq/berth/jetstream"
)

// natsFlags say which NATS to use.
type natsFlags struct {
	NATS        string `name:"nats" env:"BERTH_NATS,NATS_URL" placeholder:"URL" help:"NATS server, or several of one region by commas (default: nats://127.0.0.1:4222)."`
	Context     string `placeholder:"NAME" help:"Context of the nats CLI to take the server and credentials from."`
	Credentials string `placeholder:"FILE" type:"existingfile" help:"NATS credentials file."`
}

// config returns what Dial needs; a URL given beside a context goes before it.
func (f natsFlags) config(p *program, role, region string) (jetstream.Config, error) {
	c := jetstream.Config{URL: f.NATS, Credentials: f.Credentials, Region: region, Role: role, Log: p.log}
	if f.Context == "" {
		return c, nil
	}
	known, err := natscontext.New(f.Context, true)
	if err != nil {
		return c, fmt.Errorf("nats context %q: %w", f.Context, err)
	}
	if c.Options, err = known.NATSOptions(); err != nil {
		return c, fmt.Errorf("nats context %q: %w", f.Context, err)
	}
	if c.URL == "" {
		c.URL = known.ServerURL()
	}
	return c, nil
}
