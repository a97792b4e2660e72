package jetstream_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), part)
}

func TestDialIsOfItsRegion(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: "us-east-1"})
	c := jetstreamtest.Dial(t, r.ClientURL(), func(cfg *jetstream.Config) {
		cfg.Region, cfg.Role, cfg.Server, cfg.Boot = "us-east-1", "agent", "us-east-1-a", "01JBOOT"
		cfg.Jurisdiction = "us"
	})
	if c.Region() != "us-east-1" {
		t.Errorf("region %q, want us-east-1", c.Region())
	}
	if inbox := c.NATS().NewInbox(); !strings.HasPrefix(inbox, "_INBOX_us.") {
		t.Errorf("inbox %q, want the jurisdiction's prefix", inbox)
	}
	if name := c.NATS().Opts.Name; name != "berth/agent/us-east-1/us-east-1-a/01JBOOT" {
		t.Errorf("connection is named %q", name)
	}
}

func TestDialFaults(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: "us-east-1"})
	hub, err := embedded.NewHub(embedded.HubConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hub.Shutdown() })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()

	tests := map[string]struct {
		cfg  jetstream.Config
		want []string
	}{
		"nobody listens": {
			jetstream.Config{URL: "nats://user:secret@" + nobody, Role: "test"},
			[]string{"connect to NATS at nats://user:xxxxx@" + nobody + ": ", "no servers available"},
		},
		"other region": {
			jetstream.Config{URL: r.ClientURL(), Role: "test", Region: "eu-west-1", Wait: true},
			[]string{"connect to NATS at " + r.ClientURL(), `its JetStream domain is "us-east-1", not the region "eu-west-1"`},
		},
		"no JetStream": {
			jetstream.Config{URL: hub.ClientURL(), Role: "test", Region: "eu-west-1"},
			[]string{"connect to NATS at " + hub.ClientURL(), "it has no JetStream"},
		},
		"no role": {
			jetstream.Config{URL: r.ClientURL()},
			[]string{"no role"},
		},
		"bad region": {
			jetstream.Config{URL: r.ClientURL(), Role: "test", Region: "EU West"},
			[]string{`"EU West"`},
		},
		"no credentials file": {
			jetstream.Config{URL: r.ClientURL(), Role: "test", Credentials: filepath.Join(t.TempDir(), "none"), Wait: true},
			[]string{"read credentials"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := jetstream.Dial(t.Context(), test.cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q: want one line without the password", err)
			}
		})
	}
}

func TestDialWaitsForNATS(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	url := r.ClientURL()
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	out := &lines{}
	dialed := make(chan *jetstream.Conn, 1)
	go func() {
		c, err := jetstream.Dial(t.Context(), jetstream.Config{
			URL: url, Role: "test", Region: jetstreamtest.SharedRegion, Wait: true, Log: slog.New(slog.NewTextHandler(out, nil)),
		})
		if err != nil {
			t.Errorf("dial: %v", err)
		}
		dialed <- c
	}()
	jetstreamtest.Eventually(t, 5*time.Second, "two tries are logged", func() bool {
		return out.count("nats is out of reach, will try again") >= 2
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := <-dialed; c != nil {
		_ = c.Close(t.Context())
	}
}

func TestDialWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	port := jetstreamtest.FreePort(t)
	url := "nats://127.0.0.1:" + itoa(port)
	if _, err := jetstream.Dial(ctx, jetstream.Config{URL: url, Role: "test", Wait: true}); err == nil || !strings.Contains(err.Error(), url) {
		t.Errorf("got %v, want an error that names %s", err, url)
	}
}

func TestReconnectIsToldAndClosedConnectionEnds(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	proxy := jetstreamtest.NewProxy(t, r.ClientURL())
	c := jetstreamtest.Dial(t, "nats://"+proxy.Addr())
	told, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	c.OnReconnect(func() { told <- struct{}{} })
	remove := c.OnReconnect(func() { gone <- struct{}{} })
	remove()
	proxy.Cut()
	jetstreamtest.Eventually(t, 5*time.Second, "the connection is down", func() bool { return !c.NATS().IsConnected() })
	if err := c.NATS().Publish("x", nil); err == nil {
		t.Error("a publish without connection was kept for later")
	}
	proxy.Heal()
	select {
	case <-told:
	case <-time.After(5 * time.Second):
		t.Fatal("not told of the reconnect")
	}
	if len(gone) > 0 {
		t.Error("a removed listener was told")
	}
}

func TestCloseWithoutConnection(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c, err := jetstream.Dial(t.Context(), jetstream.Config{URL: r.ClientURL(), Role: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}
