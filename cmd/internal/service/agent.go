package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sdk/server"
)

// AgentConfig says how to run berth beside an application in any language.
type AgentConfig struct {
	// NATS is the region's; its Region is the server's.
	NATS jetstream.Config
	// Server is the server's id, Member this process's among several behind one URL. Member empty: there is just one.
	Server, Member string
	// URL is how clients reach the application, Health where it answers 2xx while it serves.
	URL, Health string
	// AuthURL is how clients reach the token paths. Empty: URL.
	AuthURL  string
	Location events.Location
	Capacity int
	// Issuer and Audience are those of the tokens. Audience empty: the issuer.
	Issuer, Audience string
	// LoadURL and LoadCommand say what the application's load is, as JSON of events.Load. Both empty: it is that of sessions
	// and processors.
	LoadURL, LoadCommand string
	// Interval is that of heartbeats. 0: 1 s.
	Interval time.Duration
	// Listen is where the proxy asks and the token paths stand, below PathPrefix; Admin where operators ask, and drain. Both
	// host:port. Admin empty: nowhere.
	Listen, PathPrefix, Admin string
	Shadow                    bool
	Limits                    server.Limits
	// Drain is how long the server goes on serving, its drain announced, when it is told to end.
	Drain time.Duration
	// Ready is called with both URLs once requests are judged.
	Ready func(url, admin string)
	Log   *slog.Logger
}

// RunAgent sends the heartbeats of a regional server while the application beside it answers, tells a proxy whether a
// request's session is locked to it, and passes the token paths on. Once ctx ends it announces a drain, waits, and says
// goodbye.
func RunAgent(ctx context.Context, c AgentConfig) (err error) {
	log := cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With(slog.String("server", c.Server))
	listener, err := Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // closed already where it was served
	c.NATS.Role, c.NATS.Server, c.NATS.Boot, c.NATS.Log = jetstream.RoleServer, c.Server, ulid.Make().String(), log
	conn, err := jetstream.Dial(ctx, c.NATS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, Close(ctx, conn)) }()
	app, metrics := newApplication(&c), prometheus.NewRegistry()
	nats := conn.Regional()
	agent, err := server.New(server.Config{
		Server: c.Server, Member: c.Member, Boot: c.NATS.Boot, Region: c.NATS.Region, URL: c.URL, HealthURL: c.Health, AuthURL: c.AuthURL,
		Location: c.Location, Capacity: c.Capacity, Interval: c.Interval, Issuer: c.Issuer, Audience: c.Audience,
		Shadow: c.Shadow, Limits: c.Limits, Load: app.report, Alive: app.alive, ClientAddress: behindProxy,
		Bus: nats, Recent: nats, Caller: nats, Watcher: nats, Log: c.Log, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	unknown := func(err error) {
		log.LogAttrs(ctx, slog.LevelWarn, "load of the application is not known", slog.String("error", err.Error()))
	}
	if err := app.look(ctx); err != nil { // so that the first heartbeat knows
		unknown(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /verify", agent.Verify())
	mux.Handle("/", agent.TokenPaths(cmp.Or(c.PathPrefix, "/")))

	// The agent outlives the listeners: its last word is that nobody is served any more.
	living, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	var g errgroup.Group
	g.Go(func() error { return agent.Run(living) })
	g.Go(func() error {
		app.watch(living, min(cmp.Or(c.Interval, time.Second), time.Second), unknown)
		return nil
	})
	g.Go(func() error {
		defer leave()
		return ServeHTTP(living, listener, mux)
	})
	g.Go(func() error {
		defer leave()
		a := admin{ready: agent.Ready, view: agent.View, fresh: agent.Subscription().Fresh, metrics: metrics, more: drains(agent)}
		return serveAdmin(living, c.Admin, a, func(admin string) {
			if await(living, agent.Ready) && c.Ready != nil {
				c.Ready(URL(listener), admin)
			}
		})
	})
	g.Go(func() error {
		defer leave()
		untilDrained(ctx, living, agent, c.Drain)
		return nil
	})
	return g.Wait()
}

// untilDrained waits until ctx ends, and then for as long as the server is to drain.
func untilDrained(ctx, living context.Context, agent *server.Agent, drain time.Duration) {
	select {
	case <-living.Done():
		return
	case <-ctx.Done():
	}
	if drain <= 0 {
		return
	}
	agent.Drain(drain)
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-living.Done():
	case <-timer.C:
	}
}

// drains serves POST /drain?after=10m for the application beside the agent.
func drains(agent *server.Agent) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		after, err := time.ParseDuration(cmp.Or(r.URL.Query().Get("after"), "0s"))
		if err != nil || after < 0 || after > registry.MaxDrain {
			http.Error(w, fmt.Sprintf("after: want a time such as 10m, at most %s", registry.MaxDrain), http.StatusBadRequest)
			return
		}
		agent.Drain(after)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"state": string(events.StateDraining)}) // the client has gone
	})
	return mux
}

// behindProxy returns the address of a client: as the proxy says that stands on this machine, else that of the connection.
func behindProxy(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return host
	}
	if lines := r.Header.Values("X-Forwarded-For"); len(lines) > 0 {
		entries := strings.Split(lines[len(lines)-1], ",")
		if last := strings.TrimSpace(entries[len(entries)-1]); net.ParseIP(last) != nil {
			return last
		}
	}
	return host
}
