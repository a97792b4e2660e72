package main

import (
	"fmt"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/jetstream"
)

// registryCmd runs a region's registry.
type registryCmd struct {
	natsFlags
	Region   string   `required:"" placeholder:"NAME" help:"Region to watch; the JetStream domain of its NATS."`
	Admin    string   `default:"127.0.0.1:9201" placeholder:"HOST:PORT" help:"Where /readyz, /metrics and the view are served to operators; empty: nowhere (default: ${default})."`
	Users    []string `name:"server-user" placeholder:"USER" help:"NATS user that may send any heartbeat of the region, beside users named as their servers are: its lost connections count as its servers' (repeatable)."`
	Replicas int      `placeholder:"N" help:"NATS nodes that hold each stream: 1, 3 or 5 (default: what is there, else 1)."`
}

// Run serves until Ctrl-C.
func (c *registryCmd) Run(p *program) error {
	cfg, err := c.service(p, "registry", c.Region)
	if err != nil {
		return err
	}
	return service.RunRegistry(p.ctx, service.RegistryConfig{
		NATS: cfg, Topology: jetstream.Topology{Replicas: c.Replicas}, Admin: c.Admin, ServerUsers: c.Users, Log: p.log,
		Ready: func(admin string) {
			if admin != "" {
				fmt.Fprintf(p.stdout, "admin on %s\n", admin)
			}
			fmt.Fprintf(p.stdout, "watching %s\n", c.Region)
		},
	})
}
