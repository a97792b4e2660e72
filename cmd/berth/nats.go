package main

import (
	"fmt"

	"github.com/nats-io/jsm.go/natscontext"

	"github.com/berthhq/berth/events"
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

// dial connects for a command, which fails where a service would wait.
func (f natsFlags) dial(p *program, role string) (*jetstream.Conn, error) {
	cfg, err := f.config(p, role, "")
	if err != nil {
		return nil, err
	}
	cfg.Inbox = "operator"
	conn, err := jetstream.Dial(p.ctx, cfg)
	if err != nil && f.NATS == "" && f.Context == "" {
		return nil, fmt.Errorf("%w; is it the right one? set --nats or NATS_URL", err)
	}
	return conn, err
}

// service returns what Dial needs for a service, which waits for NATS instead of failing.
func (f natsFlags) service(p *program, role, region string) (jetstream.Config, error) {
	if err := checkName("region", region); err != nil {
		return jetstream.Config{}, err
	}
	c, err := f.config(p, role, region)
	c.Wait = true
	return c, err
}

// checkName refuses a name that cannot stand in a subject.
func checkName(what, name string) error {
	if !events.ValidToken(name) {
		return fmt.Errorf("%s %q: want 1 to %d of a-z 0-9 - _", what, name, events.MaxToken)
	}
	return nil
}
