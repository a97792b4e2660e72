package jetstreamtest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy is a TCP link that can be cut. Servers and clients must not learn the address behind it, or they go around it:
// leaf connections of package embedded do not advertise theirs, clients need nats.IgnoreDiscoveredServers.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	// mu guards the fields below: the state of the link, and the connections to close when it is cut.
	mu    sync.Mutex
	cut   bool
	flow  chan struct{} // closed while bytes may pass
	conns map[net.Conn]struct{}
	done  bool
}

// NewProxy forwards connections to target, a URL or host:port, until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, flow: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	if _, hostPort, ok := cutScheme(target); ok {
		p.target = hostPort
	}
	close(p.flow)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// cutScheme splits a URL into scheme and host:port.
func cutScheme(url string) (scheme, hostPort string, ok bool) { return strings.Cut(url, "://") }

// Addr returns the host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut resets every connection, and every new one until Heal: both sides notice at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.closeConns()
}

// Blackhole lets connections stand and new ones open, but passes no byte: neither side is told anything.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
		p.flow = make(chan struct{})
	default:
	}
}

// Heal ends Cut and Blackhole. What a black hole held back arrives, as after a retransmission.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
	p.open()
}

// open lets bytes pass. The caller holds mu.
func (p *Proxy) open() {
	select {
	case <-p.flow:
	default:
		close(p.flow)
	}
}

// closeConns resets all connections. The caller holds mu.
func (p *Proxy) closeConns() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.done = true
	p.open()
	p.closeConns()
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(in) })
	}
}

// serve joins one connection to the target.
func (p *Proxy) serve(in net.Conn) {
	out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = in.Close()
		return
	}
	p.mu.Lock()
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	if p.cut || p.done {
		p.closeConns()
	}
	p.mu.Unlock()
	p.wg.Go(func() { p.pass(out, in) })
	p.pass(in, out)
	p.mu.Lock()
	delete(p.conns, in)
	delete(p.conns, out)
	p.mu.Unlock()
}

// pass copies bytes while the link lets them, and closes both ends when one is gone.
func (p *Proxy) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			flow := p.flow
			p.mu.Unlock()
			<-flow
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
