package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// closeTimeout bounds the flush of a connection at the end.
const closeTimeout = time.Second

// RegistryConfig says how to run a region's registry.
type RegistryConfig struct {
	// NATS is the region's; its Region is the registry's.
	NATS     jetstream.Config
	Topology jetstream.Topology
	// Admin is where /readyz, /metrics and the view are served. Empty: nowhere.
	Admin string
	// ServerUsers are NATS users that may send any heartbeat of the region, beside those named as
	// their servers are.
	ServerUsers []string
	// Ready is called with the admin URL once the registry has a view. nil: nobody is told.
	Ready func(admin string)
	Log   *slog.Logger
}

// RunRegistry serves until ctx ends.
func RunRegistry(ctx context.Context, c RegistryConfig) (err error) {
	c.NATS.Role = "registry"
	conn, err := connect(ctx, c.NATS, c.Topology)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, Close(ctx, conn)) }()
	metrics := prometheus.NewRegistry()
	name := strings.ToLower(ulid.Make().String())
	heartbeats, err := conn.Heartbeats(name)
	if err != nil {
		return err
	}
	r, err := registry.New(registry.Config{
		Region: c.NATS.Region, Bus: conn, Heartbeats: heartbeats, Store: conn.Servers(),
		Lease: conn.Lease(), Name: name, Wishes: conn.Wishes(), Disconnects: conn.Disconnects(c.ServerUsers...), Caller: conn.Caller(),
		Prober: registry.NewProber(registry.ProberConfig{}), Log: c.Log, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Run(ctx) })
	able := func() error {
		if r.View() == nil {
			return errors.New("the view is not read yet")
		}
		return nil
	}
	var serving atomic.Bool
	ready := func() error {
		if !serving.Load() {
			return cmp.Or(able(), errors.New("requests over NATS are not served yet"))
		}
		return nil
	}
	g.Go(func() error {
		// The registries of a region share requests, so one that knows nothing yet takes none.
		if !await(ctx, able) {
			return nil
		}
		endpoints := registryService(c.NATS.Region, r.Methods())
		endpoints.Started = func() { serving.Store(true) }
		return conn.Serve(ctx, endpoints)
	})
	g.Go(func() error {
		return serveAdmin(ctx, c.Admin, admin{ready: ready, view: r.View, metrics: metrics}, func(url string) {
			if await(ctx, ready) && c.Ready != nil {
				c.Ready(url)
			}
		})
	})
	return g.Wait()
}

// connect dials and makes the region's streams and buckets. What is wrong with the topology it says before it waits for
// NATS.
func connect(ctx context.Context, c jetstream.Config, t jetstream.Topology) (*jetstream.Conn, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("configure streams: %w", err)
	}
	conn, err := jetstream.Dial(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := conn.Provision(ctx, t); err != nil {
		return nil, errors.Join(err, Close(ctx, conn))
	}
	return conn, nil
}

// Close flushes and ends a connection, for which it does not take long, whether ctx has ended or not.
func Close(ctx context.Context, conn *jetstream.Conn) error {
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return conn.Close(stop)
}

// await polls until ready, and reports false if ctx ends first.
func await(ctx context.Context, ready func() error) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ready() != nil {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
