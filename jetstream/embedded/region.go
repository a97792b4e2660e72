package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/berthhq/berth/events"
)

// RegionConfig says how a region's NATS server runs.
type RegionConfig struct {
	// Region names the region, which is also its JetStream domain. Required.
	Region string
	// Host is the address to listen on. Empty: loopback.
	Host string
	// Port is where clients connect. 0 or -1: any free port, kept over a restart.
	Port int
	// NoListen opens no socket at all: clients of the same process connect through InProcessConn.
	NoListen bool
	// StoreDir is the directory for streams; it is made if missing and is used by one process at a time. Required.
	StoreDir string
	// SyncAlways makes every stored write reach the disk before it is acknowledged. False: it does within two minutes,
	// so that an acknowledged write survives the death of the process but not a loss of power. It costs a factor of 20.
	SyncAlways bool
	// MaxMemory and MaxStore bound JetStream in bytes. 0: three quarters of the memory, and of the free disk.
	MaxMemory, MaxStore int64
	// Hubs are the URLs, or host:port addresses, of the hub's nodes: the region is joined to one of them at a time.
	// Empty: the region stands alone, which is a complete fleet; hubs may be added at any later start.
	Hubs []string
	// Foreign are the jurisdictions that this region is no member of: nothing of theirs crosses its leaf connection.
	Foreign []string
	// Cluster makes this server one node of the region's cluster. Nil: it stands alone.
	Cluster *Cluster
	// Log gets the server's warnings. Nil: none are kept.
	Log *slog.Logger
	// Adjust may change the server's options last, for what this Config does not cover, such as accounts. Nil: unchanged.
	Adjust func(*server.Options)
}

func (c *RegionConfig) validate() error {
	if !events.ValidToken(c.Region) {
		return fmt.Errorf("region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	}
	if c.StoreDir == "" {
		return errors.New("no store directory")
	}
	if c.MaxMemory < 0 || c.MaxStore < 0 {
		return fmt.Errorf("JetStream limits %d and %d bytes: want at least 0", c.MaxMemory, c.MaxStore)
	}
	if err := checkPort("port", c.Port); err != nil {
		return err
	}
	for _, hub := range c.Hubs {
		if _, err := hubURL(hub); err != nil {
			return err
		}
	}
	for _, j := range c.Foreign {
		if !events.ValidToken(j) {
			return fmt.Errorf("jurisdiction %q: want 1 to %d of a-z 0-9 - _", j, events.MaxToken)
		}
	}
	if c.Cluster != nil {
		return c.Cluster.validate()
	}
	return nil
}

// hubURL accepts a URL of any scheme or a bare host:port.
func hubURL(hub string) (*url.URL, error) {
	if !strings.Contains(hub, "://") {
		hub = "nats-leaf://" + hub
	}
	u, err := url.Parse(hub)
	if err != nil || u.Hostname() == "" || u.Port() == "" {
		return nil, fmt.Errorf("hub %q: want nats-leaf://host:port", hub)
	}
	return u, nil
}

// Region is a region's NATS server.
type Region struct {
	cfg  RegionConfig
	node node
}

// NewRegion returns a server that is not running yet, or the first fault of cfg.
func NewRegion(cfg RegionConfig) (*Region, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure nats of region: %w", err)
	}
	r := &Region{cfg: cfg}
	r.node.log = logOrNone(cfg.Log)
	r.node.build, r.node.prepare = r.options, tellOfDisconnects
	return r, nil
}

func (r *Region) options() (*server.Options, error) {
	o := options(r.cfg.Region, r.cfg.Host, r.cfg.Port)
	o.DontListen = r.cfg.NoListen
	o.JetStream = true
	o.JetStreamDomain = r.cfg.Region
	o.JetStreamMaxMemory, o.JetStreamMaxStore = r.cfg.MaxMemory, r.cfg.MaxStore
	o.StoreDir = r.cfg.StoreDir
	o.SyncAlways = r.cfg.SyncAlways
	if len(r.cfg.Hubs) > 0 {
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{r.remote()}
	}
	if r.cfg.Cluster != nil {
		if err := r.cfg.Cluster.apply(o, r.cfg.Region); err != nil {
			return nil, err
		}
	}
	if r.cfg.Adjust != nil {
		r.cfg.Adjust(o)
	}
	if o.SystemAccount == "" {
		nameSystemAccount(o)
	}
	return o, nil
}

// anybody is the user of who presents nothing, where nobody has to.
const anybody = "anybody"

// nameSystemAccount makes a system account that others can import from. A server that has one wants users too, and would
// think of another name for who presents nothing at each start.
func nameSystemAccount(o *server.Options) {
	o.Accounts = append(o.Accounts, server.NewAccount(server.DEFAULT_SYSTEM_ACCOUNT))
	o.SystemAccount = server.DEFAULT_SYSTEM_ACCOUNT
	if o.CustomClientAuthentication == nil && o.Username == "" && o.Authorization == "" && len(o.Users)+len(o.Nkeys) == 0 {
		o.Users, o.NoAuthUser = []*server.User{{Username: anybody}}, anybody
	}
}

// tellOfDisconnects lets the clients of the global account hear which of its connections end: NATS says so in its system
// account. Where Adjust has made other accounts it decides what they hear.
func tellOfDisconnects(srv *server.Server) error {
	system, err := srv.LookupAccount(server.DEFAULT_SYSTEM_ACCOUNT)
	if err != nil {
		return nil //nolint:nilerr // Adjust has named another
	}
	const subject = "$SYS.ACCOUNT." + server.DEFAULT_GLOBAL_ACCOUNT + ".DISCONNECT"
	all, err := srv.LookupAccount(server.DEFAULT_GLOBAL_ACCOUNT)
	if err == nil {
		err = system.AddStreamExport(subject, []*server.Account{all})
	}
	if err == nil {
		err = all.AddStreamImport(system, subject, "")
	}
	return err
}

// remote is the leaf connection to the hub. What it denies, it denies both ways, but for what only this region is told.
func (r *Region) remote() *server.RemoteLeafOpts {
	deny := events.LeafDenials(r.cfg.Foreign)
	remote := &server.RemoteLeafOpts{
		DenyImports: deny, DenyExports: append(slices.Clone(deny), events.LeafExportDenials(r.cfg.Region)...), Compression: uncompressed(),
	}
	for _, hub := range r.cfg.Hubs {
		if u, err := hubURL(hub); err == nil { // validate has seen each
			remote.URLs = append(remote.URLs, u)
		}
	}
	return remote
}

// Start runs the server and returns once it accepts connections; the hub need not be there yet. It fails if the port is
// in use, or if the store directory cannot be written or another process uses it. After a Shutdown it may be started
// again: it finds its streams and listens where it did before.
func (r *Region) Start(ctx context.Context) error {
	if err := r.node.start(ctx); err != nil {
		return fmt.Errorf("start nats of region %s: %w", r.cfg.Region, err)
	}
	return nil
}

// Shutdown stops the server and waits for its end.
func (r *Region) Shutdown() error { return r.node.shutdown() }

// ClientURL returns where clients connect, once it has been started.
func (r *Region) ClientURL() string {
	return r.node.address("nats", r.cfg.Host, func(n *node) int { return n.clientPort })
}

// Joined reports whether the leaf connection to the hub stands.
func (r *Region) Joined() bool {
	srv := r.node.running()
	return srv != nil && srv.NumLeafNodes() > 0
}

// Server returns the running NATS server, nil when there is none.
func (r *Region) Server() *server.Server { return r.node.running() }

// InProcessConn returns a connection to the server without a socket: a Region can be handed to nats.InProcessServer.
func (r *Region) InProcessConn() (net.Conn, error) {
	srv := r.node.running()
	if srv == nil {
		return nil, fmt.Errorf("connect to nats of region %s: not running", r.cfg.Region)
	}
	return srv.InProcessConn()
}
