package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/registry/telemetry"
)

// TelemetryConfig says how to report the load of a region's servers from a Prometheus.
type TelemetryConfig struct {
	// NATS is the region's; its Region is that of the servers.
	NATS       jetstream.Config
	Prometheus telemetry.PrometheusConfig
	Queries    []telemetry.Query
	// Source and Interval are those of telemetry.Config.
	Source   string
	Interval time.Duration
	// Admin is where /readyz, /metrics and the view are served. Empty: nowhere.
	Admin string
	// Listening is called with the admin URL once it is served, empty if Admin is. Ready is called
	// later, once load is reported. nil: nobody is told.
	Listening func(admin string)
	Ready     func()
	Log       *slog.Logger
}

// RunTelemetry reports until ctx ends.
func RunTelemetry(ctx context.Context, c TelemetryConfig) (err error) {
	system, err := telemetry.NewPrometheus(c.Prometheus)
	if err != nil {
		return err
	}
	c.NATS.Role = "telemetry"
	metrics := prometheus.NewRegistry()
	cfg := telemetry.Config{
		Region: c.NATS.Region, Source: c.Source, Queries: c.Queries, Interval: c.Interval,
		System: system, Log: c.Log, Metrics: metrics,
	}
	if err := cfg.Validate(); err != nil { // before it waits for NATS
		return err
	}
	conn, err := jetstream.Dial(ctx, c.NATS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, Close(ctx, conn)) }()
	servers, err := registry.Subscribe(registry.SubscriptionConfig{Watcher: conn, Log: c.Log, Metrics: metrics})
	if err != nil {
		return err
	}
	cfg.Bus, cfg.View = conn, servers.View
	bridge, err := telemetry.New(cfg)
	if err != nil {
		return err
	}
	// A registry refuses reports that are dated by a wrong clock.
	clocks := &clock{skew: conn.Skew, log: cmp.Or(c.Log, slog.New(slog.DiscardHandler))}
	ready := func() error { return cmp.Or(bridge.Ready(), clocks.ready()) }
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { clocks.run(ctx); return nil })
	g.Go(func() error { return servers.Run(ctx) })
	g.Go(func() error { return bridge.Run(ctx) })
	g.Go(func() error {
		a := admin{ready: ready, view: servers.View, fresh: servers.Fresh, metrics: metrics}
		return serveAdmin(ctx, c.Admin, a, func(url string) {
			if c.Listening != nil {
				c.Listening(url)
			}
			if await(ctx, ready) && c.Ready != nil {
				c.Ready()
			}
		})
	})
	return g.Wait()
}
