package main

import (
	"fmt"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/registry/telemetry"
)

// telemetryCmd reports servers' load from a central telemetry system.
type telemetryCmd struct {
	natsFlags
	Region      string        `required:"" placeholder:"NAME" help:"Region of the servers; the JetStream domain of its NATS."`
	Prometheus  string        `required:"" placeholder:"URL" help:"Prometheus, or what speaks its HTTP API, such as http://127.0.0.1:9090."`
	Query       []string      `required:"" sep:"none" placeholder:"FIELD=PROMQL" help:"What gives a field of the load, for each server one series: sessions, in_flight, max_in_flight, cpu (0 to 1), p99_ms or utilisation (1: full). Repeat it for each field."`
	ServerLabel string        `default:"server" placeholder:"NAME" help:"Label of the series that holds the server's id (default: ${default})."`
	Interval    time.Duration `default:"5s" placeholder:"5s" help:"Time between two reports, 1s to 30s."`
	TokenFile   string        `placeholder:"FILE" type:"existingfile" help:"Bearer token for Prometheus, read anew for each request."`
	CAFile      string        `name:"ca-file" placeholder:"FILE" type:"existingfile" help:"Certificates, as PEM, that Prometheus's must descend from (default: the machine's)."`
	Source      string        `default:"prometheus" placeholder:"NAME" help:"Name under which the load is shown (default: ${default})."`
	Admin       string        `default:"127.0.0.1:9401" placeholder:"HOST:PORT" help:"Where /readyz, /metrics and the view are served to operators; empty: nowhere (default: ${default})."`
}

// Run reports until Ctrl-C.
func (c *telemetryCmd) Run(p *program) error {
	queries := make([]telemetry.Query, len(c.Query))
	for i, text := range c.Query {
		var err error
		if queries[i], err = telemetry.ParseQuery(text); err != nil {
			return err
		}
	}
	cfg, err := c.service(p, "telemetry", c.Region)
	if err != nil {
		return err
	}
	return service.RunTelemetry(p.ctx, service.TelemetryConfig{
		NATS: cfg, Queries: queries, Source: c.Source, Interval: c.Interval, Admin: c.Admin, Log: p.log,
		Prometheus: telemetry.PrometheusConfig{URL: c.Prometheus, ServerLabel: c.ServerLabel, TokenFile: c.TokenFile, CAFile: c.CAFile},
		Listening: func(admin string) {
			if admin != "" {
				fmt.Fprintf(p.stdout, "admin on %s\n", admin)
			}
		},
		Ready: func() { fmt.Fprintf(p.stdout, "reporting %s\n", c.Region) },
	})
}
