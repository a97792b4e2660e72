package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/cmd/internal/geoip"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TokensConfig says how to run a region's token service.
type TokensConfig struct {
	// NATS is the region's; its Region is the service's.
	NATS     jetstream.Config
	Topology jetstream.Topology
	// Listen is where clients are served, Admin where operators are (empty: nowhere).
	Listen, Admin string
	// Issuer and Audience are the claims iss and aud; the audience empty: the issuer.
	Issuer, Audience string
	// KeyFile holds the region's private keys, UsersFile the users (empty: none).
	KeyFile, UsersFile string
	// AccessTTL and RefreshTTL are the tokens' lives; 0: 2 min and 14 days.
	AccessTTL, RefreshTTL time.Duration
	// Policy names the policy of placement until one is posted; empty: the default.
	Policy string
	// ViewBound is the age from which the view of the servers is stale. 0: 30 s.
	ViewBound time.Duration
	// TrustLocation honours the client's own word of where it is: for dev only.
	TrustLocation bool
	// GeoIP is the file of a database that says where addresses are; empty: none.
	GeoIP string
	// TrustedProxies are the networks of load balancers that say for whom they ask.
	TrustedProxies []netip.Prefix
	// Jurisdictions are the named sets of regions, the same in all of them.
	Jurisdictions residency.Jurisdictions
	// Ready is called with the URLs of both listeners once the service can answer.
	Ready func(url, admin string)
	Log   *slog.Logger
}

// RunTokens serves until ctx ends.
func RunTokens(ctx context.Context, c TokensConfig) (err error) {
	cfg, places, err := c.configure()
	if err != nil {
		return err
	}
	l, err := Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // closed already where it was served
	c.NATS.Role = "tokens"
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, Close(ctx, conn)) }()
	metrics := prometheus.NewRegistry()
	servers, err := registry.Subscribe(registry.SubscriptionConfig{Watcher: conn, Bound: c.ViewBound, Log: c.Log, Metrics: metrics})
	if err != nil {
		return err
	}
	cfg.Stale = func() bool { return servers.Fresh(time.Now()) != nil }
	records := conn.Records()
	cfg.View, cfg.Store, cfg.Ledger, cfg.Recent = servers.View, records, records, conn.Regional()
	cfg.Bus, cfg.Caller, cfg.Keyshare = conn, conn.Caller(), conn.Keys()
	cfg.Peers = conn.Caller()
	copies := conn.Copies(jetstream.CopiesConfig{Log: c.Log, Metrics: metrics})
	cfg.Copies, cfg.Arrivals = copies, copies
	if cfg.Edges, err = edges(ctx, conn); err != nil {
		return err
	}
	cfg.Prober, cfg.Metrics = registry.NewProber(registry.ProberConfig{}), metrics
	clocks := &clock{skew: conn.Skew, log: c.log()}
	cfg.Clock = clocks.ready
	documents, err := newDocuments(ctx, conn, &c, cfg.Edges == nil)
	if err != nil {
		return err
	}
	cfg.Complete, cfg.CaughtUp = copies.Ready, copies.CaughtUp
	cfg.Orgs, cfg.Policies = documents.orgs.directory, documents.policies.board
	service, err := tokens.New(cfg)
	if err != nil {
		return err
	}
	// What serves requests ends first; what it relies on ends after it.
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	base, inner := errgroup.WithContext(inner)
	base.Go(func() error { return servers.Run(inner) })
	base.Go(func() error { return service.Run(inner) })
	base.Go(func() error { return conn.Serve(inner, keysService(c.NATS.Region, service.KeyMethods())) })
	base.Go(func() error { return copies.Run(inner) })
	base.Go(func() error { return documents.run(inner, conn) })
	base.Go(func() error { clocks.run(inner); return nil })
	base.Go(func() error { return places.Run(inner) })
	outer, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(inner, cancel)()
	ready := func() error {
		return cmp.Or(service.Ready(), clocks.ready(), copies.Ready(), documents.orgs.directory.Ready())
	}
	err = c.serve(outer, conn, l, service, cfg.Instance, admin{ready: ready, view: servers.View, fresh: servers.Fresh, metrics: metrics})
	stopInner()
	return errors.Join(err, base.Wait())
}

// connect connects, and makes the streams.
func (c *TokensConfig) connect(ctx context.Context) (conn *jetstream.Conn, err error) {
	if c.Topology.Edges, err = c.edges(); err != nil {
		return nil, err
	}
	return connect(ctx, c.NATS, c.Topology)
}

// edges returns the edges with their jurisdictions: where none are said, all that both regions are in.
func (c *TokensConfig) edges() ([]jetstream.Edge, error) {
	list := slices.Clone(c.Topology.Edges)
	for i := range list {
		e := &list[i]
		if len(e.Jurisdictions) == 0 {
			e.Jurisdictions = c.Jurisdictions.Shared(c.NATS.Region, e.Region)
		}
		for _, j := range e.Jurisdictions {
			for _, region := range []string{c.NATS.Region, e.Region} {
				if !c.Jurisdictions.Has(j, region) {
					return nil, fmt.Errorf("configure tokens: edge %s: region %s is not in jurisdiction %s: see --jurisdictions", e.Region, region, j)
				}
			}
		}
	}
	return list, nil
}

// edges returns what tells the regions that copies flow from, nil where there are none: what
// needs to know takes every region for one then.
func edges(ctx context.Context, conn *jetstream.Conn) (func() []string, error) {
	list, err := conn.Edges(ctx)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Region
	}
	return func() []string { return names }, nil
}

// serve answers clients on l and over NATS, and operators, until ctx ends. The instances of a
// region share the requests that come over NATS, so one that cannot answer yet takes none.
func (c *TokensConfig) serve(ctx context.Context, conn *jetstream.Conn, l net.Listener, service *tokens.Service, instance string, a admin) error {
	var serving atomic.Int32 // how many of the two services
	able := a.ready
	a.ready = func() error {
		if err := able(); err != nil {
			return err
		}
		if serving.Load() < 2 {
			return errors.New("requests over NATS are not served yet")
		}
		return nil
	}
	front, ctx := errgroup.WithContext(ctx)
	for _, cfg := range []jetstream.ServiceConfig{c.endpoints(service, instance), c.operatorEndpoints(service)} {
		cfg.Started = func() { serving.Add(1) }
		front.Go(func() error {
			if !await(ctx, able) {
				return nil
			}
			return conn.Serve(ctx, cfg)
		})
	}
	front.Go(func() error { return ServeHTTP(ctx, l, service.Handler()) })
	front.Go(func() error {
		return serveAdmin(ctx, c.Admin, a, func(url string) {
			if await(ctx, a.ready) && c.Ready != nil {
				c.Ready(URL(l), url)
			}
		})
	})
	return front.Wait()
}

// log returns Log, or one that discards.
func (c *TokensConfig) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

// configure returns what is configured, checked before anything is connected to, and the database of addresses.
func (c *TokensConfig) configure() (cfg tokens.Config, places *geoip.DB, err error) {
	keys, err := tokens.OpenKeyFile(c.KeyFile, c.NATS.Region)
	if err != nil {
		return cfg, nil, err
	}
	var users *tokens.Users
	if c.UsersFile != "" {
		if users, err = tokens.LoadUsers(c.UsersFile); err != nil {
			return cfg, nil, err
		}
	}
	if err := (placement.Policy{Name: c.Policy}).Validate(); err != nil {
		return cfg, nil, fmt.Errorf("configure tokens: %w", err)
	}
	cfg = c.tokens(keys, users)
	cfg.Instance = strings.ToLower(ulid.Make().String())
	if places, err = geoip.Open(geoip.Config{Path: c.GeoIP, Log: c.Log}); err != nil {
		return cfg, nil, err
	}
	if c.GeoIP != "" {
		cfg.GeoIP = places
	}
	return cfg, places, cfg.Validate()
}

// tokens returns the part of the service's configuration that needs no connection.
func (c *TokensConfig) tokens(keys tokens.Signer, users *tokens.Users) tokens.Config {
	return tokens.Config{
		Region: c.NATS.Region, Issuer: c.Issuer, Audience: cmp.Or(c.Audience, c.Issuer),
		AccessTTL: c.AccessTTL, RefreshTTL: c.RefreshTTL, Keys: keys, Users: users,
		TrustLocation: c.TrustLocation, TrustedProxies: c.TrustedProxies, Jurisdictions: c.Jurisdictions, Log: c.Log,
	}
}

// endpoints are the methods of rpc.tokens in the jurisdictions of the region.
func (c *TokensConfig) endpoints(service *tokens.Service, instance string) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_tokens", Version: "1.0.0", Description: fmt.Sprintf("Token service of region %s", c.NATS.Region),
	}
	for _, jurisdiction := range c.Jurisdictions.Of(c.NATS.Region) {
		for _, method := range tokens.Methods() {
			handler := func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				header, data := service.Serve(ctx, method, r.Header, r.Data)
				return jetstream.Reply{Header: header, Data: data}
			}
			subject, name := TokensMethod(jurisdiction, c.NATS.Region, method), endpointName(method, jurisdiction)
			cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{Name: name, Subject: subject, Handler: handler})
			if api.Affine(method) {
				cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
					Name: name + "-here", Subject: api.InstanceSubject(subject, instance), Every: true, Handler: handler,
				})
			}
		}
	}
	return cfg
}

// endpointName returns the name of a method's endpoint in a jurisdiction.
func endpointName(method, jurisdiction string) string {
	if jurisdiction == events.GlobalJurisdiction {
		return method
	}
	return method + "-" + jurisdiction
}

// maxOperators is how many requests of operators a token service handles at once; others wait, and
// keep nobody else from being served.
const maxOperators = 16

// operatorEndpoints are the methods of rpc.tokens that are for operators: a service of its own.
func (c *TokensConfig) operatorEndpoints(service *tokens.Service) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_sessions", Version: "1.0.0", Description: fmt.Sprintf("Sessions of region %s, for operators", c.NATS.Region),
		Concurrency: maxOperators,
	}
	for _, jurisdiction := range c.Jurisdictions.Of(c.NATS.Region) {
		for _, method := range tokens.OperatorMethods() {
			cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
				Name: endpointName(method, jurisdiction), Subject: TokensMethod(jurisdiction, c.NATS.Region, method),
				Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
					header, data := service.ServeOperator(ctx, jurisdiction, method, r.Header, r.Data)
					return jetstream.Reply{Header: header, Data: data}
				},
			})
		}
	}
	return cfg
}

// TokensMethod returns the subject of a method of a region's token services.
func TokensMethod(jurisdiction, region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: jurisdiction, Region: region, Method: method,
	}.String()
}
