package jetstreamtest

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
)

// Link is a connection without a socket, as in a Bubble, that can be cut.
type Link struct {
	inner nats.InProcessConnProvider

	// mu guards the fields below: whether the link is cut, and what goes over it.
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

var _ nats.InProcessConnProvider = (*Link)(nil)

// Use sends a connection to be over this link: pass it to connect. A Link is of one connection.
func (l *Link) Use(cfg *jetstream.Config) {
	var o nats.Options
	for _, option := range cfg.Options {
		_ = option(&o) // what is wrong with it Dial says
	}
	l.inner = o.InProcessServer
	cfg.Options = append(cfg.Options, nats.InProcessServer(l))
}

// InProcessConn implements nats.InProcessConnProvider.
func (l *Link) InProcessConn() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("the link is cut")
	}
	c, err := l.inner.InProcessConn()
	if err == nil {
		l.conns = append(l.conns, c)
	}
	return c, err
}

// Cut closes the connection, and lets no new one come until Heal.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, c := range l.conns {
		_ = c.Close() // it may be closed already
	}
	l.conns = nil
}

// Heal ends a Cut.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}
