package embedded

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
)

// HubConfig says how a hub runs.
type HubConfig struct {
	// Name names the hub's server. Empty: "hub".
	Name string
	// Host is the address to listen on. Empty: loopback.
	Host string
	// Port is where clients connect, LeafPort where regions do. 0 or -1: any free port, kept over a restart.
	Port, LeafPort int
	// Cluster joins this hub to others. Nil: it stands alone.
	Cluster *Cluster
	// Log gets the server's warnings. Nil: none are kept.
	Log *slog.Logger
}

func (c *HubConfig) validate() error {
	if err := checkPort("port", c.Port); err != nil {
		return err
	}
	if err := checkPort("leaf port", c.LeafPort); err != nil {
		return err
	}
	if c.Cluster != nil {
		return c.Cluster.validate()
	}
	return nil
}

// Hub passes messages between regions and stores nothing.
type Hub struct {
	cfg  HubConfig
	node node
}

// NewHub returns a hub that is not running yet, or the first fault of cfg.
func NewHub(cfg HubConfig) (*Hub, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure hub: %w", err)
	}
	cfg.Name = cmp.Or(cfg.Name, "hub")
	h := &Hub{cfg: cfg}
	h.node.log = logOrNone(cfg.Log)
	h.node.build = h.options
	return h, nil
}

func (h *Hub) options() (*server.Options, error) {
	o := options(h.cfg.Name, h.cfg.Host, h.cfg.Port)
	o.LeafNode.Host, o.LeafNode.Port = o.Host, listenPort(h.cfg.LeafPort)
	if h.cfg.Cluster != nil {
		if err := h.cfg.Cluster.apply(o, h.cfg.Name); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Start runs the hub and returns once it accepts connections. After a Shutdown it may be started again and listens where
// it did before.
func (h *Hub) Start(ctx context.Context) error {
	if err := h.node.start(ctx); err != nil {
		return fmt.Errorf("start hub %s: %w", h.cfg.Name, err)
	}
	return nil
}

// Shutdown stops the hub and waits for its end.
func (h *Hub) Shutdown() error { return h.node.shutdown() }

// ClientURL returns where clients connect, once it has been started.
func (h *Hub) ClientURL() string {
	return h.node.address("nats", h.cfg.Host, func(n *node) int { return n.clientPort })
}

// LeafURL returns where regions connect, once it has been started.
func (h *Hub) LeafURL() string {
	return h.node.address("nats-leaf", h.cfg.Host, func(n *node) int { return n.leafPort })
}

// Leaves returns how many leaf connections there are: one for each node of each region that has joined.
func (h *Hub) Leaves() int {
	if srv := h.node.running(); srv != nil {
		return srv.NumLeafNodes()
	}
	return 0
}
