package dev

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/tokens"
)

// startNATS starts the hub, if there is more than one region, and each region's NATS.
func (f *fleet) startNATS(ctx context.Context) (*embedded.Hub, error) {
	var hub *embedded.Hub
	var hubs []string
	if len(f.places) > 1 {
		var err error
		if hub, err = embedded.NewHub(embedded.HubConfig{LeafPort: f.cfg.port(portHub), Log: f.cfg.Log}); err != nil {
			return nil, err
		}
		if err := hub.Start(ctx); err != nil {
			return nil, fmt.Errorf("start hub: %w", err)
		}
		hubs = []string{hub.LeafURL()}
	}
	for i, p := range f.places {
		nats, err := embedded.NewRegion(embedded.RegionConfig{
			Region: p.name, Port: f.cfg.regionPort(i, offsetNATS), Hubs: hubs, Log: f.cfg.Log,
			StoreDir: filepath.Join(f.dir, p.name), MaxStore: maxStore, MaxMemory: maxMemory, Foreign: f.cfg.Jurisdictions.Foreign(p.name),
		})
		if err != nil {
			return hub, err
		}
		if err := nats.Start(ctx); err != nil {
			return hub, err
		}
		f.regions = append(f.regions, &region{place: p, nats: nats})
	}
	return hub, nil
}

// Bounds of a region's streams in bytes: a laptop's, not a fleet's.
const (
	maxStore  = 4 << 30
	maxMemory = 1 << 30
	// eventBytes, viewBytes, copyBytes and keptBytes bound the streams that would otherwise reserve
	// what a production region has.
	eventBytes = 512 << 20
	viewBytes  = 256 << 20
	copyBytes  = 256 << 20
	keptBytes  = 128 << 20
)

func (f *fleet) stopNATS(hub *embedded.Hub) error {
	var errs []error
	for _, r := range f.regions {
		errs = append(errs, r.nats.Shutdown())
	}
	if hub != nil {
		errs = append(errs, hub.Shutdown())
	}
	return errors.Join(errs...)
}

// run serves until ctx ends. Stopping goes from the outside in: the front, the servers, then
// what they need.
func (f *fleet) run(ctx context.Context) error {
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	services, inner := errgroup.WithContext(inner)
	err := f.startServices(ctx, inner, services)
	var outer errgroup.Group
	supervised, stopOuter := context.WithCancel(ctx)
	defer stopOuter()
	if err == nil {
		err = f.startServers(supervised, inner, &outer)
	}
	if err == nil {
		err = f.serveFront(supervised, inner)
	}
	stopOuter()
	for _, r := range f.regions {
		for _, s := range r.servers {
			s.stop()
		}
	}
	err = errors.Join(err, outer.Wait())
	stopInner()
	err = errors.Join(err, services.Wait())
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// startServices starts each region's registry and token service and waits until they are
// ready.
func (f *fleet) startServices(ctx, inner context.Context, g *errgroup.Group) error {
	topology := jetstream.Topology{
		EventBytes: eventBytes, ViewBytes: viewBytes, CopyBytes: copyBytes, Primary: f.places[0].name,
		IdempotencyBytes: keptBytes, IdempotencyCopyBytes: keptBytes,
	}
	for _, r := range f.regions {
		if err := r.provision(ctx, topology); err != nil {
			return err
		}
	}
	for i, r := range f.regions {
		topology.Edges = f.edges(r.name)
		connect := jetstream.Config{URL: r.nats.ClientURL(), Region: r.name, Wait: true, Log: f.cfg.Log}
		key := filepath.Join(f.dir, r.name+".key")
		if err := ensureKey(key); err != nil {
			return err
		}
		registryReady, tokensReady := make(chan string, 1), make(chan string, 1)
		g.Go(func() error {
			return service.RunRegistry(inner, service.RegistryConfig{
				NATS: connect, Topology: topology, Admin: f.cfg.address(f.cfg.regionPort(i, offsetRegistryAdmin)),
				Ready: func(admin string) { registryReady <- admin }, Log: f.cfg.Log,
			})
		})
		g.Go(func() error {
			return service.RunTokens(inner, service.TokensConfig{
				NATS: connect, Topology: topology, Listen: f.cfg.address(f.cfg.regionPort(i, offsetTokens)),
				Admin: f.cfg.address(f.cfg.regionPort(i, offsetTokensAdmin)), Issuer: service.URL(f.front),
				KeyFile: key, UsersFile: f.users, TrustLocation: true, Jurisdictions: f.cfg.Jurisdictions,
				GeoIP: f.cfg.GeoIP, TrustedProxies: frontAlone(),
				Ready: func(url, admin string) { r.admin = admin; tokensReady <- url }, Log: f.cfg.Log,
			})
		})
		var err error
		if r.registry, err = await(ctx, inner, registryReady); err != nil {
			return fmt.Errorf("start registry of %s: %w", r.name, err)
		}
		if r.tokens, err = await(ctx, inner, tokensReady); err != nil {
			return fmt.Errorf("start token service of %s: %w", r.name, err)
		}
	}
	return nil
}

// frontAlone returns the address that the front asks from.
func frontAlone() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 32)}
}

// provision makes a region's streams before any other region asks for its sessions: what is asked for in vain is asked for
// again only later, with a warning.
func (r *region) provision(ctx context.Context, topology jetstream.Topology) error {
	conn, err := jetstream.Dial(ctx, jetstream.Config{URL: r.nats.ClientURL(), Region: r.name, Role: "dev"})
	if err != nil {
		return err
	}
	return errors.Join(conn.Provision(ctx, topology), service.Close(ctx, conn))
}

// edges returns those of a region: to every other.
func (f *fleet) edges(own string) []jetstream.Edge {
	edges := []jetstream.Edge{}
	for _, p := range f.places {
		if p.name != own {
			edges = append(edges, jetstream.Edge{Region: p.name, Jurisdictions: f.cfg.Jurisdictions.Shared(own, p.name)})
		}
	}
	return edges
}

// await returns what ready brings, or why it will not.
func await(ctx, inner context.Context, ready <-chan string) (string, error) {
	select {
	case url := <-ready:
		return url, nil
	case <-ctx.Done():
		return "", ctx.Err()
	case <-inner.Done():
		return "", context.Cause(inner)
	}
}

// startServers starts the demo servers and waits until each region's registry has seen its
// own.
func (f *fleet) startServers(ctx, inner context.Context, g *errgroup.Group) error {
	for i, r := range f.regions {
		for k := range f.cfg.Servers {
			s := &child{fleet: f, region: r, id: serverID(r.name, k), port: f.cfg.regionPort(i, offsetServers+k)}
			if err := s.start(ctx); err != nil {
				return fmt.Errorf("start server %s: %w", s.id, err)
			}
			r.servers = append(r.servers, s)
			g.Go(func() error { return s.supervise(ctx) })
		}
	}
	for _, r := range f.regions {
		for _, s := range r.servers {
			if err := s.await(ctx, inner); err != nil {
				return fmt.Errorf("start server %s: %w", s.id, err)
			}
		}
	}
	return f.awaitView(ctx)
}

// serverID returns the id of a region's k-th server: a to z, then aa and on.
func serverID(region string, k int) string {
	suffix := ""
	for ; ; k = k/26 - 1 {
		suffix = string(rune('a'+k%26)) + suffix
		if k < 26 {
			return region + "-" + suffix
		}
	}
}

// serveFront says that the fleet is ready and plays the geo-DNS until ctx ends or a part of
// the fleet has failed.
func (f *fleet) serveFront(ctx, inner context.Context) error {
	ways := make([]Way, len(f.regions))
	for i, r := range f.regions {
		ways[i] = Way{Region: r.name, URL: r.tokens, Admin: r.admin}
	}
	if err := f.announce(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(inner, cancel)()
	return service.ServeHTTP(ctx, f.front, NewFront(ways))
}

func ensureKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return tokens.GenerateKey(path)
}
