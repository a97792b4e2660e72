package tokens_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// operated is a fleet whose token services' log and metrics are looked at: one that remembers
// sessions, one that does not.
type operated struct {
	*fleet
	region     *embedded.Region
	warm, cold *tokens.Service
	metrics    *prometheus.Registry
	log        *notes
	empty      func()
}

// notes is a log that several goroutines write.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *notes) count(line string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.text.String(), line)
}

func newOperated(t *testing.T, cfg embedded.RegionConfig) *operated {
	t.Helper()
	region := jetstreamtest.Start(t, cfg)
	conn := jetstreamtest.Dial(t, region.ClientURL())
	if err := conn.Provision(t.Context(), jetstream.Topology{EventBytes: 1 << 20, ViewBytes: 1 << 20, IdempotencyBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	o := &operated{region: region, fleet: newFleet(t, conn, server("a", dublin, "https://a")), metrics: prometheus.NewRegistry(), log: &notes{}}
	o.warm = o.service(func(c *tokens.Config) {
		c.Metrics, c.Log = o.metrics, slog.New(slog.NewTextHandler(o.log, nil))
	})
	o.cold = o.service(func(c *tokens.Config) { c.Cached = -1 })
	return o
}

// goesOn sends refreshes that cannot be written now: the client goes on where it is, and keeps its
// token.
func (o *operated) goesOn(t *testing.T, token string, services ...*tokens.Service) {
	t.Helper()
	for _, s := range services {
		got := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token})
		if got.Rotated || got.RefreshToken != "" || got.AccessToken == "" || got.Reason != "store_unavailable" {
			t.Errorf("%+v", got)
		}
	}
}

// unavailable sends requests that cannot be served now: each is to be tried again.
func (o *operated) unavailable(t *testing.T, path string, in any, services ...*tokens.Service) {
	t.Helper()
	for _, s := range services {
		status, body, header := post(t, s, path, in)
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" ||
			!bytes.Contains(body, []byte(`"code":"unavailable"`)) {
			t.Errorf("%s: status %d, %v: %s", path, status, header, body)
		}
	}
}

// told checks that operators were told of the reason: in the log once, and by the metric.
func (o *operated) told(t *testing.T, reason string) {
	t.Helper()
	if n := o.log.count("level=ERROR"); n != 1 || o.log.count("reason="+reason) != 1 {
		t.Errorf("%d errors are logged, %d of reason %s", n, o.log.count("reason="+reason), reason)
	}
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "berth_session_store_faults_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason && m.GetCounter().GetValue() > 0 {
				return
			}
		}
	}
	t.Errorf("no metric says %s", reason)
}

// maxBytes bounds the bucket of sessions, by what it takes now.
func (o *operated) maxBytes(t *testing.T, bytes func(now uint64) int64) {
	t.Helper()
	stream, err := o.conn.JetStream().Stream(t.Context(), "KV_berth_sessions")
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	info.Config.MaxBytes = bytes(info.State.Bytes)
	if _, err := o.conn.JetStream().UpdateStream(t.Context(), info.Config); err != nil {
		t.Fatal(err)
	}
}

// TestFullStore: while there is no room to write sessions, clients go on where they are, operators
// are told what to do, and no session suffers.
func TestFullStore(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, c := range []struct {
		name string
		cfg  embedded.RegionConfig
		// fill leaves no room, empty makes some.
		fill, empty func(t *testing.T, o *operated)
		// away says that NATS does not tell why: then all is tried for as long as may be.
		away bool
	}{
		{
			name: "the bucket's bound",
			fill: func(t *testing.T, o *operated) {
				o.maxBytes(t, func(now uint64) int64 { return int64(now) })
			},
			empty: func(t *testing.T, o *operated) {
				o.maxBytes(t, func(uint64) int64 { return -1 })
			},
		},
		{
			name:  "the account's limit",
			fill:  func(t *testing.T, o *operated) { jetstreamtest.LimitStore(t, o.region, 1) },
			empty: func(t *testing.T, o *operated) { jetstreamtest.LimitStore(t, o.region, -1) },
		},
		{
			name: "the server's limit", cfg: embedded.RegionConfig{MaxStore: 4 << 20},
			fill:  func(t *testing.T, o *operated) { o.empty = jetstreamtest.Ballast(t, o.conn) },
			empty: func(_ *testing.T, o *operated) { o.empty() },
		},
		{
			// What NATS does when the disk has no space left.
			name: "JetStream has shut down", away: true,
			fill: func(t *testing.T, o *operated) {
				if err := o.region.Server().DisableJetStream(); err != nil {
					t.Fatal(err)
				}
			},
			empty: func(t *testing.T, o *operated) {
				jetstreamtest.Restart(t, o.region)
				jetstreamtest.Eventually(t, 10*time.Second, "the connection is back", func() bool {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := o.conn.Records().End(ctx)
					return err == nil
				})
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOperated(t, c.cfg)
			first := login(t, o.warm)
			before := o.record(first.SessionID)
			c.fill(t, o)
			if c.away {
				o.goesOn(t, first.RefreshToken, o.warm)
				o.unavailable(t, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, o.cold)
			} else {
				o.goesOn(t, first.RefreshToken, o.warm, o.cold, o.warm)
				o.unavailable(t, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken}, o.warm, o.cold)
				refused(t, o.warm, "/v1/login", api.LoginRequest{Username: "ada", Password: "ada-dev"}, api.CodeUnavailable)
				o.told(t, "full")
			}
			c.empty(t, o)
			if diff := cmp.Diff(before, o.record(first.SessionID)); diff != "" {
				t.Errorf("the record has changed (-before +after):\n%s", diff)
			}
			second := granted(t, o.warm, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
			granted(t, o.cold, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
		})
	}
}

// TestDeletedBucket: somebody deletes the bucket of sessions. Clients go on where they are for as long
// as their sessions are remembered, others are told to try again; once it is made anew all go on by
// their tokens.
func TestDeletedBucket(t *testing.T) {
	o := newOperated(t, embedded.RegionConfig{})
	first := login(t, o.warm)
	if err := o.conn.JetStream().DeleteStream(t.Context(), "KV_berth_sessions"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	o.goesOn(t, first.RefreshToken, o.warm, o.warm)
	o.unavailable(t, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, o.cold)
	o.unavailable(t, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken}, o.warm, o.cold)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	o.told(t, "gone")
	if err := o.conn.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	second := granted(t, o.warm, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	granted(t, o.cold, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
}

// TestPurgedBucket: somebody empties the bucket of sessions. Every session goes on by its current
// token, by the one before it where the client has lost the answer, and an older one ends none.
func TestPurgedBucket(t *testing.T) {
	o := newOperated(t, embedded.RegionConfig{})
	for name, s := range map[string]*tokens.Service{"remembered": o.warm, "not remembered": o.cold} {
		t.Run(name, func(t *testing.T) {
			first := login(t, s)
			second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
			other := login(t, s)
			lost := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: other.RefreshToken})
			stream, err := o.conn.JetStream().Stream(t.Context(), "KV_berth_sessions")
			if err == nil {
				err = stream.Purge(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			third := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
			if again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken}); again.RefreshToken != third.RefreshToken {
				t.Error("a repeat got another token")
			}
			// A slow tab of the moment before.
			refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeRefreshSuperseded)
			granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken})

			found := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: other.RefreshToken})
			if found.SessionID != lost.SessionID {
				t.Errorf("session %s goes on as %s", lost.SessionID, found.SessionID)
			}
			granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: found.RefreshToken})
		})
	}
}

// TestNewerRecord: a record that a newer build has written is left as it is, also by those who
// remember the one before.
func TestNewerRecord(t *testing.T) {
	o := newOperated(t, embedded.RegionConfig{})
	first := login(t, o.warm)
	change := func(version int) {
		t.Helper()
		rec, rev, err := o.conn.Records().Get(t.Context(), sessions.Key{Jurisdiction: "global", Session: first.SessionID})
		if err != nil {
			t.Fatal(err)
		}
		rec.Version = version
		if _, err := o.conn.Records().Put(t.Context(), rec, rev); err != nil {
			t.Fatal(err)
		}
	}
	change(sessions.RecordVersion + 1)
	before := o.record(first.SessionID)
	o.unavailable(t, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, o.warm, o.cold, o.warm)
	o.unavailable(t, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken}, o.warm, o.cold)
	if diff := cmp.Diff(before, o.record(first.SessionID)); diff != "" {
		t.Errorf("the record has changed (-before +after):\n%s", diff)
	}
	o.told(t, "newer_version")
	change(sessions.RecordVersion)
	second := granted(t, o.warm, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	granted(t, o.cold, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
}
