package demo

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/sdk/server"
)

// Config says which demo server to run.
type Config struct {
	// NATS is the region's; its Region is the server's.
	NATS jetstream.Config
	// Server is the server's id.
	Server string
	// Listen is host:port; URL is how clients reach it. URL empty: http://Listen.
	Listen, URL string
	// PathPrefix is where the token paths stand. Empty: "/".
	PathPrefix string
	Location   events.Location
	// Capacity is how many sessions the server says it can hold. 0: 1000.
	Capacity int
	// Issuer is the claim iss of the access tokens.
	Issuer string
	// Drain is how long the server goes on serving, its drain announced, when it is told to
	// end. Abandoned, once closed, ends that: nobody is there any more. nil: never.
	Drain     time.Duration
	Abandoned <-chan struct{}
	// Ready is called with the server's URL once it serves. nil: nobody is told.
	Ready func(url string)
	Log   *slog.Logger
}

// Run serves until ctx ends; then it drains, finishes what is in flight and says goodbye.
func Run(ctx context.Context, c Config) (err error) {
	// Many servers share a terminal: each line says whose it is. The agent sees to that itself.
	log := cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With(slog.String("server", c.Server))
	c.NATS.Log = log
	listener, err := service.Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // closed already where it was served
	c.URL = cmp.Or(c.URL, service.URL(listener))
	c.NATS.Role, c.NATS.Server, c.NATS.Boot = jetstream.RoleServer, c.Server, ulid.Make().String()
	conn, err := jetstream.Dial(ctx, c.NATS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close(ctx, conn)) }()
	orders, err := openOrders(ctx, conn.JetStream())
	if err != nil {
		return err
	}
	nats := conn.Regional()
	capacity := cmp.Or(c.Capacity, 1000)
	agent, err := server.New(server.Config{
		Server: c.Server, Boot: c.NATS.Boot, Region: c.NATS.Region, URL: c.URL, Location: c.Location,
		Capacity: capacity, Issuer: c.Issuer,
		// The servers of a demo share a machine, whose processors say nothing of one of them.
		Load: func(l events.Load) events.Load {
			l.CPU = 0
			l.Utilisation = server.Utilisation(l, capacity)
			return l
		},
		Bus: nats, Recent: nats, Caller: nats, Watcher: nats, Log: c.Log,
	})
	if err != nil {
		return err
	}
	shop := &shop{server: c.Server, region: c.NATS.Region, orders: orders, log: log}
	mux := http.NewServeMux()
	mux.Handle("/api/", agent.Lock(shop.routes()))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.Handle("/", agent.TokenPaths(cmp.Or(c.PathPrefix, "/")))
	// The agent outlives the listener: its last word is that nobody is served any more.
	living, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	serving, end := context.WithCancel(living)
	defer end()
	var g errgroup.Group
	g.Go(func() error { return agent.Run(living) })
	g.Go(func() error {
		defer leave()
		return service.ServeHTTP(serving, listener, mux)
	})
	g.Go(func() error {
		defer end()
		c.untilDrained(ctx, serving, agent)
		return nil
	})
	if c.Ready != nil {
		c.Ready(c.URL)
	}
	return g.Wait()
}

// untilDrained waits until ctx ends, and then for as long as the server is to drain; not when
// it is abandoned, or has failed, which ends serving.
func (c *Config) untilDrained(ctx, serving context.Context, agent *server.Agent) {
	select {
	case <-serving.Done():
		return
	case <-c.Abandoned:
		return
	case <-ctx.Done():
	}
	if c.Drain <= 0 {
		return
	}
	agent.Drain(c.Drain)
	select {
	case <-serving.Done():
	case <-c.Abandoned:
	case <-time.After(c.Drain):
	}
}
