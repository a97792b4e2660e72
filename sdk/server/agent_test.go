package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// gated holds back a read of the recent past.
type gated struct {
	server.Recent
	open chan struct{}
}

func (g *gated) Read(ctx context.Context, subjects []string, since time.Time, fn func(string, []byte)) error {
	select {
	case <-g.open:
		return g.Recent.Read(ctx, subjects, since, fn)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func always(m *nats.Msg) func(*nats.Msg) *nats.Msg {
	return func(*nats.Msg) *nats.Msg { return &nats.Msg{Header: m.Header, Data: m.Data} }
}

func mustEncode(t testing.TB, e events.Event) []byte {
	t.Helper()
	data, err := events.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// through replaces the address in a URL by the proxy's.
func through(p *jetstreamtest.Proxy, raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	u.Host = p.Addr()
	return u.String()
}

func TestConfigFaults(t *testing.T) {
	good := (&offline{}).config()
	if _, err := server.New(good); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*server.Config)
		want   string
	}{
		{"no server", func(c *server.Config) { c.Server = "" }, "server"},
		{"a server that is no token of a subject", func(c *server.Config) { c.Server = "eu.a" }, "server"},
		{"a region in capitals", func(c *server.Config) { c.Region = "EU" }, "region"},
		{"a member that is no token", func(c *server.Config) { c.Member = "a b" }, "member"},
		{"a boot that is no ULID", func(c *server.Config) { c.Boot = "1" }, "boot"},
		{"no URL", func(c *server.Config) { c.URL = "" }, "url"},
		{"a URL of another kind", func(c *server.Config) { c.URL = "nats://a" }, "url"},
		{"a health URL without a host", func(c *server.Config) { c.HealthURL = "/healthz" }, "health URL"},
		{"an auth URL with a password", func(c *server.Config) { c.AuthURL = "https://u:p@a" }, "auth URL"},
		{"no capacity", func(c *server.Config) { c.Capacity = 0 }, "capacity"},
		{"a place off the globe", func(c *server.Config) { c.Location.Lat = 91 }, "location"},
		{"no issuer", func(c *server.Config) { c.Issuer = "" }, "issuer"},
		{"heartbeats too often", func(c *server.Config) { c.Interval = time.Millisecond }, "interval"},
		{"heartbeats too seldom", func(c *server.Config) { c.Interval = time.Hour }, "interval"},
		{"an access TTL too short", func(c *server.Config) { c.AccessTTL = time.Second }, "access TTL"},
		{"an access TTL too long", func(c *server.Config) { c.AccessTTL = 6 * time.Minute }, "access TTL"},
		{"less than no requests", func(c *server.Config) { c.MaxInFlight = -1 }, "max in flight"},
		{"a cache of less than nothing", func(c *server.Config) { c.CachedTokens = -1 }, "cached tokens"},
		{"less than no sessions", func(c *server.Config) { c.MaxSessions = -1 }, "max sessions"},
		{"no bus", func(c *server.Config) { c.Bus = nil }, "bus"},
		{"no recent past", func(c *server.Config) { c.Recent = nil }, "recent"},
		{"no caller", func(c *server.Config) { c.Caller = nil }, "caller"},
		{"no watcher", func(c *server.Config) { c.Watcher = nil }, "watcher"},
	}
	for _, test := range tests {
		c := good
		test.change(&c)
		_, err := server.New(c)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line that names %q", test.name, err, test.want)
		}
	}
}

func request(token string) *http.Request {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/api/cart", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// TestExpiryIsCheckedAtEachHit uses one token past its life: the cache must not keep it alive.
func TestExpiryIsCheckedAtEachHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		s := newSigner(t, oneKeyID)
		c.Watcher = oneKey{s}
		run(t, c, func(a *server.Agent) {
			h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			token, began := s.access(t), time.Now()
			end := time.Unix(began.Add(2*time.Minute).Unix(), 0).Add(api.Skew)
			for time.Now().Before(end.Add(5 * time.Second)) {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request(token))
				want := http.StatusOK
				if !time.Now().Before(end) {
					want = http.StatusUnauthorized
				}
				if w.Code != want {
					t.Fatalf("after %v: %d %s, want %d", time.Since(began), w.Code, w.Body, want)
				}
				if want != http.StatusOK && !strings.Contains(w.Body.String(), string(api.CodeTokenExpired)) {
					t.Errorf("after %v: %s", time.Since(began), w.Body)
				}
				time.Sleep(250 * time.Millisecond)
			}
		})
	})
}

// TestCacheDoesNotOutliveWhatItRestsOn: a cached token's session was forgotten, for there were
// too many, when its release was heard.
func TestCacheDoesNotOutliveWhatItRestsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		s := newSigner(t, oneKeyID)
		c.Watcher, c.MaxSessions = oneKey{s}, 1
		run(t, c, func(a *server.Agent) {
			h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			status := func(token string) int {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request(token))
				return w.Code
			}
			token := s.access(t)
			if got := status(token); got != http.StatusOK {
				t.Fatalf("status %d", got)
			}
			for i := range 1000 {
				o.hear(t, release(fmt.Sprintf("another-%d", i), 2))
			}
			o.hear(t, release("session-1", 2))
			if got := status(token); got != http.StatusMisdirectedRequest {
				t.Errorf("status %d after the release", got)
			}
		})
	})
}

// TestKeysOfTokenServicesAddUp: one instance of the service knows less than another.
func TestKeysOfTokenServicesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signers := []*signer{newSigner(t, "us-east-1.key-1"), newSigner(t, "us-east-1.key-2")}
		o := &offline{}
		c := o.config()
		caller := &scripted{answer: func(_ context.Context, call int64) (map[string][]string, []byte, error) {
			return map[string][]string{api.HeaderStatus: {"200"}}, signers[(call-1)%2].document(t), nil
		}}
		c.Caller = caller
		run(t, c, func(a *server.Agent) {
			h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			status := func(s *signer) int {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request(s.access(t)))
				return w.Code
			}
			if got := status(signers[0]); got != http.StatusOK {
				t.Errorf("the first: %d", got)
			}
			if got := status(signers[1]); got != http.StatusServiceUnavailable || caller.calls.Load() != 1 {
				t.Errorf("the second, within a second: %d after %d questions", got, caller.calls.Load())
			}
			time.Sleep(time.Second)
			if got := status(signers[1]); got != http.StatusOK {
				t.Errorf("the second: %d", got)
			}
			if got := status(signers[0]); got != http.StatusOK || caller.calls.Load() != 2 {
				t.Errorf("the first again: %d after %d questions", got, caller.calls.Load())
			}
		})
	})
}

// TestGapsAreReadAgain counts the reads of the recent past.
func TestGapsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{readErr: errors.New("no leader")}
		run(t, o.config(), func(a *server.Agent) {
			time.Sleep(time.Minute)
			if a.Ready() == nil {
				t.Error("ready without having read the recent past")
			}
			if n, _ := o.read(); n < 10 || n > 40 {
				t.Errorf("%d tries in a minute", n)
			}
			o.set(nil, nil)
			time.Sleep(10 * time.Second)
			if err := a.Ready(); err != nil {
				t.Error(err)
			}
			n, _ := o.read()
			time.Sleep(time.Minute)
			if now, _ := o.read(); now != n {
				t.Error("read again without a gap")
			}
			o.set(nil, errors.New("no leader"))
			o.gap()
			o.gap()
			synctest.Wait()
			if now, _ := o.read(); now != n+1 {
				t.Errorf("read %d times after a gap", now-n)
			}
			if err := a.Ready(); err != nil {
				t.Errorf("after a gap: %v", err)
			}
			o.set(nil, nil)
			time.Sleep(20 * time.Second)
			if _, since := o.read(); time.Since(since) < 5*time.Minute {
				t.Errorf("read only the last %v", time.Since(since))
			}
		})
	})
}

// TestOddEventsAreSkipped: none of these stops the listening.
func TestOddEventsAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		metrics := prometheus.NewRegistry()
		c.Metrics = metrics
		s := newSigner(t, oneKeyID)
		c.Watcher = oneKey{s}
		run(t, c, func(a *server.Agent) {
			subject := release("s", 1).Subject().String()
			hear := o.hears(subject)
			for _, data := range []string{"", "{", "null", `{"version":99}`, `{"version":1,"session":"session-1"}`} {
				hear(subject, []byte(data))
			}
			hear("elsewhere", nil)
			hear(revocation(region).Subject().String(), mustEncode(t, revocation("us-east-1", "session-1"))) // payload of another subject
			other := release("session-1", 9)
			other.Server = region + "-b"
			hear(other.Subject().String(), mustEncode(t, other)) // not to us
			w := httptest.NewRecorder()
			h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			if h.ServeHTTP(w, request(s.access(t))); w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			o.hear(t, release("session-1", 9))
			w = httptest.NewRecorder()
			if h.ServeHTTP(w, request(s.access(t))); w.Code != http.StatusMisdirectedRequest {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
		if got := counter(t, metrics, "berth_server_events_skipped_total"); got != 7 {
			t.Errorf("%v events skipped, want 7", got)
		}
	})
}

func counter(t testing.TB, metrics prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestNoOldTokenAfterItsRelease has many sessions in use while each is released in turn: from
// the moment that the release was heard, the old token is refused, cached or not.
func TestNoOldTokenAfterItsRelease(t *testing.T) {
	o := &offline{}
	c := o.config()
	s := newSigner(t, oneKeyID)
	c.Watcher = oneKey{s}
	c.CachedTokens = 64 // some are in the cache, some are not
	a, _ := start(t, c)
	h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	status := func(token string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(token))
		return w.Code
	}
	const sessions, clients = 40, 4
	id := func(i int) string { return fmt.Sprintf("session-%d", i) }
	var tokens [sessions]string
	for i := range tokens {
		tokens[i] = s.access(t, of(id(i)))
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return status(tokens[0]) == http.StatusOK })
	var released [sessions]atomic.Bool
	var wrong, served atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range clients {
		wg.Go(func() {
			for i := g; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				old := released[i%sessions].Load() // before the request
				switch code := status(tokens[i%sessions]); {
				case code == http.StatusOK && old:
					wrong.Add(1)
				case code == http.StatusOK:
					served.Add(1)
				case code != http.StatusMisdirectedRequest:
					t.Errorf("status %d", code)
				}
			}
		})
	}
	for i := range sessions {
		for before := served.Load(); served.Load() < before+20; { // let them work
			runtime.Gosched()
		}
		if i == sessions-1 {
			break // one stays, so that there is always work
		}
		o.hear(t, release(id(i), 2))
		released[i].Store(true)
	}
	close(done)
	wg.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d requests served with a token whose lock was released", n)
	}
}

// TestSilenceIsLoggedOnce is about an outage of hours.
func TestSilenceIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		var log bytes.Buffer
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		run(t, c, func(*server.Agent) {
			time.Sleep(10 * time.Second)
			o.set(errors.New("no connection"), nil)
			time.Sleep(time.Hour)
			before := len(o.all())
			o.set(nil, nil)
			time.Sleep(2 * time.Second)
			if len(o.all()) == before {
				t.Error("no heartbeat after the outage")
			}
		})
		if lost, again := strings.Count(log.String(), "heartbeats are not sent"), strings.Count(log.String(), "heartbeats are sent again"); lost != 1 || again != 1 {
			t.Errorf("logged %d and %d times, want once each:\n%s", lost, again, log.String())
		}
	})
}

// TestStartWithoutNATS waits for it, however long.
func TestStartWithoutNATS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{down: errors.New("no connection")}
		run(t, o.config(), func(a *server.Agent) {
			time.Sleep(time.Hour)
			if a.Ready() == nil {
				t.Error("ready without NATS")
			}
			o.set(nil, nil)
			time.Sleep(10 * time.Second)
			if err := a.Ready(); err != nil {
				t.Error(err)
			}
		})
	})
}
