// Package embedded runs NATS inside the process: a region with JetStream in a domain of its own, and the hub without
// JetStream that joins regions by leaf connections over which only what may cross crosses.
//
// It is for `berth dev`, for tests and for small fleets. Nothing listens beyond loopback unless a Config says so.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// loopback is where everything listens by default.
const loopback = "127.0.0.1"

// Times and sizes that differ from the NATS server's defaults.
const (
	// pingInterval and pingsOut bound how long a peer that went silent without closing its connection, as behind a
	// dropped route, counts as present: at most (pingsOut + 1) intervals. The defaults would take minutes.
	pingInterval = 2 * time.Second
	pingsOut     = 2
	// leafReconnect is how long a cut leaf connection waits before each attempt to come back.
	leafReconnect = 250 * time.Millisecond
	// maxPending and writeDeadline let a subscriber of all heartbeats lag for a moment: at the defaults, 64 MiB and
	// 10 s, the server cuts it as a slow consumer during a burst and it loses far more than it lagged.
	maxPending    = 256 << 20
	writeDeadline = 20 * time.Second
	// errorReports makes the server warn of a peer out of reach once in so many attempts.
	errorReports = 240
	// pollReady is how often a starting server is asked whether it listens. The server looks every 25 ms by itself, and
	// spins if asked for less.
	pollReady = 50 * time.Millisecond
)

// Cluster makes a server one node of a cluster that shares its name with the region, or the hub.
type Cluster struct {
	// Node is this node's name, unique in the cluster. Required.
	Node string
	// Port is where this node listens for the others. Required, since they have to know it.
	Port int
	// Routes are the host:port addresses of the other nodes; its own may be among them.
	Routes []string
}

func (c *Cluster) validate() error {
	switch {
	case c.Node == "":
		return errors.New("cluster without a node name")
	case c.Port <= 0 || c.Port > maxPort:
		return fmt.Errorf("cluster port %d: want 1 to %d", c.Port, maxPort)
	case len(c.Routes) == 0:
		return errors.New("cluster without routes to the other nodes")
	}
	return nil
}

// maxPort is the highest port of TCP.
const maxPort = 65535

// apply turns the options of a lone server into those of a node.
func (c *Cluster) apply(o *server.Options, name string) error {
	o.ServerName = c.Node
	o.Cluster = server.ClusterOpts{Name: name, Host: o.Host, Port: c.Port, NoAdvertise: true}
	for _, route := range c.Routes {
		u, err := url.Parse("nats-route://" + route)
		if err != nil || u.Port() == "" {
			return fmt.Errorf("cluster route %q: want host:port", route)
		}
		o.Routes = append(o.Routes, u)
	}
	return nil
}

// node is one NATS server that can be started, stopped, and started again at the same ports.
type node struct {
	log *slog.Logger
	// build returns fresh options: a server keeps and changes those it is given.
	build func() (*server.Options, error)
	// prepare changes a server before anybody can connect to it. Nil: it stays as it is.
	prepare func(*server.Server) error

	// mu guards the fields below: a node starts and stops as a whole, one at a time.
	mu    sync.Mutex
	srv   *server.Server
	store *storeLock
	// clientPort and leafPort are set once the node has listened, and kept for its next start.
	clientPort, leafPort int
}

// start runs a server and returns once it accepts connections. It fails with the server's own reason, such as a port in
// use; nothing is left behind then.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv != nil {
		return errors.New("already started")
	}
	opts, err := n.build()
	if err != nil {
		return err
	}
	if n.clientPort != 0 {
		opts.Port = n.clientPort
	}
	if n.leafPort != 0 {
		opts.LeafNode.Port = n.leafPort
	}
	if opts.JetStream {
		if n.store, err = lockStore(opts.StoreDir); err != nil {
			return err
		}
	}
	srv, err := run(ctx, opts, n.prepare, n.log)
	if err != nil {
		return errors.Join(err, n.unlock())
	}
	n.srv = srv
	// The server has put the port that it got into its options.
	n.clientPort, n.leafPort = clientPort(srv), opts.LeafNode.Port
	return nil
}

// run starts a server and waits until it listens, has failed, or ctx ends.
func run(ctx context.Context, opts *server.Options, prepare func(*server.Server) error, log *slog.Logger) (*server.Server, error) {
	srv, err := server.NewServer(opts)
	if err == nil && prepare != nil {
		err = prepare(srv)
	}
	if err != nil {
		return nil, fmt.Errorf("configure nats server: %w", err)
	}
	lines := &logger{log: log, server: opts.ServerName, open: opts.NoAuthUser == anybody, fatal: make(chan string, 1)}
	srv.SetLogger(lines, false, false)
	started := make(chan struct{})
	go func() {
		defer close(started)
		srv.Start()
	}()
	err = ready(ctx, srv, started, lines.fatal)
	if err == nil {
		return srv, nil
	}
	<-started
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil, err
}

// ready waits until srv accepts connections.
func ready(ctx context.Context, srv *server.Server, started <-chan struct{}, fatal <-chan string) error {
	select {
	case <-started:
	case <-ctx.Done():
		return fmt.Errorf("start nats server: %w", ctx.Err())
	}
	for !srv.ReadyForConnections(pollReady) {
		select {
		case reason := <-fatal:
			return fmt.Errorf("start nats server: %s", reason)
		case <-ctx.Done():
			return fmt.Errorf("start nats server: %w", ctx.Err())
		default:
		}
	}
	return nil
}

// clientPort returns where srv listens for clients, 0 if it does not.
func clientPort(srv *server.Server) int {
	if addr, ok := srv.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

// shutdown stops the server and waits until all of it has ended. Without a running one it does nothing.
func (n *node) shutdown() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv == nil {
		return nil
	}
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
	n.srv = nil
	return n.unlock()
}

// unlock gives the store directory free. The caller holds mu.
func (n *node) unlock() error {
	if n.store == nil {
		return nil
	}
	err := n.store.release()
	n.store = nil
	return err
}

// running returns the server, nil if there is none.
func (n *node) running() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.srv
}

// address returns host and the port that it was last seen on, as a URL.
func (n *node) address(scheme, host string, port func(*node) int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if host == "" {
		host = loopback
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port(n)))
}

// listenPort maps a Config's port to the NATS server's notion, where -1 is any free one.
func listenPort(port int) int {
	if port == 0 {
		return server.RANDOM_PORT
	}
	return port
}

func checkPort(field string, port int) error {
	if port < -1 || port > maxPort {
		return fmt.Errorf("%s %d: want 1 to %d, or 0 for any free one", field, port, maxPort)
	}
	return nil
}

// uncompressed is how leaf connections carry what crosses: as it is. NATS would choose by the round-trip time that it sees when a
// connection begins, and compress most where a busy machine answers late, which makes it busier.
func uncompressed() server.CompressionOpts {
	return server.CompressionOpts{Mode: server.CompressionOff}
}

// options returns what a region's and a hub's server have in common.
func options(name, host string, port int) *server.Options {
	if host == "" {
		host = loopback
	}
	return &server.Options{
		ServerName:             name,
		Host:                   host,
		Port:                   listenPort(port),
		NoSigs:                 true,
		PingInterval:           pingInterval,
		MaxPingsOut:            pingsOut,
		MaxPending:             maxPending,
		WriteDeadline:          writeDeadline,
		ConnectErrorReports:    errorReports,
		ReconnectErrorReports:  errorReports,
		DisableJetStreamBanner: true,
		LeafNode:               server.LeafNodeOpts{ReconnectInterval: leafReconnect, NoAdvertise: true, Compression: uncompressed()},
	}
}
