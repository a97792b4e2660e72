package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
)

// tokensCmd runs a region's token service.
type tokensCmd struct {
	natsFlags
	Region         string        `required:"" placeholder:"NAME" help:"Region to serve; the JetStream domain of its NATS."`
	Listen         string        `default:"127.0.0.1:9300" placeholder:"HOST:PORT" help:"Where clients are served (default: ${default})."`
	Admin          string        `default:"127.0.0.1:9301" placeholder:"HOST:PORT" help:"Where /readyz, /metrics and the view are served to operators; empty: nowhere (default: ${default})."`
	Issuer         string        `required:"" placeholder:"URL" help:"The global URL, the same in all regions: claim iss of the tokens."`
	Audience       string        `placeholder:"NAME" help:"Claim aud of the tokens (default: the issuer)."`
	KeyFile        string        `required:"" placeholder:"FILE" help:"Private keys of the region (make one with: berth keys generate); mode 0600."`
	UsersFile      string        `placeholder:"FILE" help:"Users that may log in with a password (default: none)."`
	AccessTTL      time.Duration `default:"2m" placeholder:"2m" help:"Life of access tokens, 1 to 5 min."`
	RefreshTTL     time.Duration `default:"336h" placeholder:"336h" help:"Life of refresh tokens, 7 to 30 days: 168h to 720h."`
	Policy         string        `default:"spread+prices" placeholder:"NAME" help:"Placement policy: literal, lowest-load, p2c, spread, spread+levels or spread+prices (default: ${default})."`
	Replicas       int           `placeholder:"N" help:"NATS nodes that hold each stream: 1, 3 or 5 (default: what is there, else 1)."`
	Edges          []string      `placeholder:"a,b" help:"Other regions to exchange copies of sessions with, each as REGION or REGION=JURISDICTION+JURISDICTION; none: no region (default: what is there)."`
	PrimaryRegion  string        `placeholder:"NAME" help:"Region in which organizations and the policy are changed, the same in all regions; that region itself needs it at each start (default: where the copy here comes from; a region without edges is its own)."`
	Jurisdictions  []string      `placeholder:"NAME=a+b" help:"Named sets of regions that sessions can be bound to, the same in all regions (default: none but global, all regions)."`
	GeoIP          string        `name:"geoip" type:"path" placeholder:"FILE" help:"Database in the MaxMind DB format that says where network addresses are, of cities or countries; read again when it is replaced (default: none)."`
	TrustedProxies []string      `placeholder:"a/8,b/32" help:"Networks of the load balancers before this service, whose header X-Forwarded-For is believed (default: none)."`
	TrustLocation  bool          `help:"Believe the header X-Berth-Client-Location, which anybody can write: for development."`
}

// Run serves until Ctrl-C.
func (c *tokensCmd) Run(p *program) error {
	cfg, err := c.service(p, "tokens", c.Region)
	if err != nil {
		return err
	}
	edges, err := jetstream.ParseEdges(c.Edges)
	if err != nil {
		return fmt.Errorf("--edges: %w", err)
	}
	if c.PrimaryRegion != "" {
		if err := checkName("primary region", c.PrimaryRegion); err != nil {
			return err
		}
	}
	jurisdictions, err := residency.ParseJurisdictions(c.Jurisdictions)
	if err != nil {
		return fmt.Errorf("--jurisdictions: %w", err)
	}
	proxies, err := parseNetworks(c.TrustedProxies)
	if err != nil {
		return fmt.Errorf("--trusted-proxies: %w", err)
	}
	return service.RunTokens(p.ctx, service.TokensConfig{
		NATS: cfg, Topology: jetstream.Topology{Replicas: c.Replicas, Edges: edges, Primary: c.PrimaryRegion}, Listen: c.Listen, Admin: c.Admin,
		Issuer: c.Issuer, Audience: c.Audience, KeyFile: c.KeyFile, UsersFile: c.UsersFile,
		AccessTTL: c.AccessTTL, RefreshTTL: c.RefreshTTL, Policy: c.Policy, TrustLocation: c.TrustLocation, GeoIP: c.GeoIP, TrustedProxies: proxies, Jurisdictions: jurisdictions, Log: p.log,
		Ready: func(url, admin string) {
			if admin != "" {
				fmt.Fprintf(p.stdout, "admin on %s\n", admin)
			}
			fmt.Fprintf(p.stdout, "serving on %s\n", url)
		},
	})
}

// parseNetworks reads networks such as 10.0.0.0/8, or single addresses.
func parseNetworks(list []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range list {
		network, err := netip.ParsePrefix(text)
		if address, single := netip.ParseAddr(text); single == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%q: want a network such as 10.0.0.0/8 or an address", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}
