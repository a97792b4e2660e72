package registry_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// liveRegion is the region of a world on JetStream, in fake time: a registry over a connection
// that can be cut, the servers' heartbeats over another, and who listens to verdicts on a third.
type liveRegion struct {
	t        *testing.T
	link     *jetstreamtest.Link
	conn     *jetstream.Conn
	servers  *jetstream.Conn
	lost     *lostConnections
	registry *registry.Registry
	stop     func()
	// wanted is the revision of what operators want.
	wanted uint64

	// mu guards the world: it is free only while time passes.
	mu sync.Mutex
	// heard guards verdicts, those that were not looked at yet.
	heard    sync.Mutex
	verdicts []registry.Effect
}

var liveServers = flag.Int("live-servers", 100, "how many servers TestFiveFakeMinutes has")

// TestFiveFakeMinutes lives through five minutes of what TestAFakeHour has, through JetStream.
func TestFiveFakeMinutes(t *testing.T) {
	t.Parallel()
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		l := &liveRegion{t: t, link: new(jetstreamtest.Link), lost: new(lostConnections)}
		l.conn, l.servers = connect(l.link.Use), connect()
		l.listen(connect())
		w := &world{t: t, tick: 100 * time.Millisecond, now: time.Now(), live: l}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.start(w)
		w.begin(*liveServers, seed(t))
		h := &hour{world: w, waiting: map[string]bool{}, drained: map[string]float64{}}
		h.pass(5 * time.Minute)
		h.conclude(5, l.registry.View().Servers)
		l.mu.Unlock()
		l.stop()
		l.mu.Lock()
	})
}

// start runs a registry.
func (l *liveRegion) start(w *world) {
	l.registry = newRegistry(l.t, l.conn, func(c *registry.Config) {
		c.Prober = registry.NewProber(registry.ProberConfig{Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			return l.dial(ctx, w, address)
		}})
		c.Disconnects, c.Wishes = l.lost, l.conn.Wishes()
	})
	l.stop = run(l.t, l.registry.Run)
}

// restart ends the registry and starts another.
func (l *liveRegion) restart(w *world) {
	l.mu.Unlock() // its probes have to end
	l.stop()
	l.mu.Lock()
	l.start(w)
}

// listen notes the verdicts that the registry tells.
func (l *liveRegion) listen(c *jetstream.Conn) {
	for _, subject := range []string{
		events.Subject{Kind: events.KindServer, Region: "eu-west-1"}.Filter(), events.Subject{Kind: events.KindRegion, Region: "eu-west-1"}.Filter(),
	} {
		if _, err := c.Subscribe(l.t.Context(), subject, l.hear); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *liveRegion) hear(subject string, data []byte) {
	e, err := events.Decode(subject, data)
	l.heard.Lock()
	defer l.heard.Unlock()
	switch e := e.(type) {
	case *events.ServerState:
		l.verdicts = append(l.verdicts, registry.StateChanged{State: e})
	case *events.RegionState:
		l.verdicts = append(l.verdicts, registry.RegionChanged{State: e})
	default:
		l.t.Errorf("heard %s: %v", subject, err)
	}
}

// pass lets a tick pass.
func (l *liveRegion) pass(w *world) {
	l.mu.Unlock()
	time.Sleep(w.tick)
	l.mu.Lock()
	w.now = time.Now()
	l.heard.Lock()
	verdicts := l.verdicts
	l.verdicts = nil
	l.heard.Unlock()
	for _, v := range verdicts {
		w.seen(v)
	}
}

// learn lets the registry hear of an event in the way that it would.
func (l *liveRegion) learn(w *world, e registry.Event) {
	var message events.Event
	switch e := e.(type) {
	case registry.HeartbeatSeen:
		h := *e.Heartbeat
		h.URL = "http://" + h.Server + ".example.com"
		message = &h
	case registry.Reported:
		message = &events.Report{
			Version: events.Version, Region: "eu-west-1", At: w.now, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Server: e.Server,
			Epoch: events.Epoch{Number: 1, Region: "eu-west-1"},
		}
	case registry.WishesSeen:
		l.want(e.Wishes)
		return
	case registry.Disconnected:
		if !w.cut {
			l.lost.watch(e.Server, e.Boot)
		}
		return
	default:
		l.t.Errorf("the registry cannot learn of a %T from outside", e)
		return
	}
	data, err := events.Encode(message)
	if err == nil {
		err = l.servers.NATS().Publish(message.Subject().String(), data)
	}
	if err != nil {
		l.t.Error(err)
	}
}

// want notes what operators want.
func (l *liveRegion) want(w *registry.Wishes) {
	data, err := json.Marshal(w)
	if err == nil {
		l.wanted, err = l.servers.Wishes().Put(l.t.Context(), data, l.wanted)
	}
	if err != nil {
		l.t.Error(err)
	}
}

func (l *liveRegion) connect(on bool) {
	if on {
		l.link.Heal()
	} else {
		l.link.Cut()
	}
}

func (l *liveRegion) state(id string) events.State {
	v := l.registry.View()
	if v == nil {
		return ""
	}
	s, _ := v.Server(id)
	return s.State
}

// dial connects a probe to a server, as far as it lives.
func (l *liveRegion) dial(ctx context.Context, w *world, address string) (net.Conn, error) {
	id, _, _ := strings.Cut(address, ".")
	for {
		l.mu.Lock()
		s := w.byID[id]
		dead, stopped := s.dead, s.stopped
		l.mu.Unlock()
		switch {
		case dead:
			return nil, syscall.ECONNREFUSED
		case !time.Now().Before(stopped):
			ours, theirs := net.Pipe()
			go answerProbe(theirs)
			return ours, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(stopped)):
		}
	}
}

// answerProbe answers one probe well.
func answerProbe(c net.Conn) {
	defer func() { _ = c.Close() }() // what went wrong the probe sees
	if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		_, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
	}
}
