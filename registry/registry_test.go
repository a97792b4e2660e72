package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// run starts a service and returns how to end it.
func run(t *testing.T, service func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// named counts the registries, so that each has a name of its own.
var named atomic.Int64

// newRegistry returns a registry over a connection.
func newRegistry(t *testing.T, c *jetstream.Conn, change ...func(*registry.Config)) *registry.Registry {
	t.Helper()
	heartbeats, err := c.Heartbeats("test")
	if err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{
		Region: c.Region(), Bus: c, Heartbeats: heartbeats, Store: c.Servers(),
		Lease: c.Lease(), Name: fmt.Sprintf("registry-%d", named.Add(1)), Wishes: c.Wishes(),
		Prober: registry.NewProber(registry.ProberConfig{}), Log: jetstreamtest.Log(t),
	}
	for _, f := range change {
		f(&cfg)
	}
	r, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// agent sends the heartbeats of one server until it is stopped.
type agent struct {
	conn *jetstream.Conn
	h    events.Heartbeat
}

func newAgent(c *jetstream.Conn, id, url string, interval time.Duration) *agent {
	h := *beat(id, boot(1), 0)
	h.Region, h.URL, h.IntervalMS = c.Region(), url, int(interval/time.Millisecond)
	return &agent{conn: c, h: h}
}

// send sends the next heartbeat.
func (a *agent) send(t *testing.T) {
	a.h.Seq++
	a.h.At = time.Now().UTC()
	data, err := events.Encode(&a.h)
	if err == nil {
		err = a.conn.Publish(context.Background(), a.h.Subject().String(), data)
	}
	switch {
	case err == nil:
	case !a.conn.NATS().IsConnected():
		t.Logf("a heartbeat is lost: %v", err) // as a server's is while its NATS restarts
	default:
		t.Errorf("send heartbeat: %v", err)
	}
}

// run sends them for as long as its server lives.
func (a *agent) run(t *testing.T) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(time.Duration(a.h.IntervalMS) * time.Millisecond)
		defer tick.Stop()
		for {
			a.send(t)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// record collects the state changes that a follower's view goes through, as "id=state".
type record struct {
	mu   sync.Mutex
	last map[string]events.State
	list []string
}

func (r *record) changed(v *registry.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range v.Servers {
		if r.last[s.Server] != s.State {
			r.last[s.Server] = s.State
			r.list = append(r.list, s.Server+"="+string(s.State))
		}
	}
}

func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}

func newRecord() *record { return &record{last: map[string]events.State{}} }

// refusing returns a URL where nobody listens.
func refusing(t testing.TB) string {
	return fmt.Sprintf("http://127.0.0.1:%d", jetstreamtest.FreePort(t))
}

func TestRegistryInFakeTime(t *testing.T) {
	url := refusing(t) // before time is fake
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		c := connect()
		seen := newRecord()
		follower := registry.NewFollower(c, seen.changed, nil)
		run(t, follower.Run)
		stopRegistry := run(t, newRegistry(t, c).Run)
		time.Sleep(100 * time.Millisecond)
		var stops []func()
		for _, id := range []string{"eu-west-1-a", "eu-west-1-b", "eu-west-1-c"} {
			stops = append(stops, run(t, newAgent(c, id, url, time.Second).run(t)))
		}
		check := func(what string, want ...string) {
			t.Helper()
			got := seen.take()
			slices.Sort(got)
			if diff := cmp.Diff(append([]string(nil), want...), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		time.Sleep(5 * time.Second)
		check("three begin", "eu-west-1-a=up", "eu-west-1-b=up", "eu-west-1-c=up")

		// Killed and started again, the registry knows all and kills nobody.
		stopRegistry()
		time.Sleep(20 * time.Second)
		stopRegistry = run(t, newRegistry(t, c).Run)
		time.Sleep(10 * time.Second)
		check("a new registry")

		stops[0]()
		time.Sleep(2900 * time.Millisecond)
		check("one is silent", "eu-west-1-a=suspect")
		time.Sleep(1600 * time.Millisecond)
		check("4.5 s after it died", "eu-west-1-a=down")

		// A registry that starts later still knows who is dead, though the stream has its last heartbeat.
		stopRegistry()
		run(t, newRegistry(t, c).Run)
		time.Sleep(time.Minute)
		check("the dead stay dead")
		back := newAgent(c, "eu-west-1-a", url, time.Second)
		back.h.Boot = boot(2)
		stops[0] = run(t, back.run(t))
		time.Sleep(time.Second)
		check("it is started again", "eu-west-1-a=up")

		stops[0]()
		back.h.State = events.StateLeft
		back.send(t)
		time.Sleep(100 * time.Millisecond)
		check("it says goodbye", "eu-west-1-a=left")
		if age := follower.View().Age(time.Now()); age > 3*time.Second {
			t.Errorf("age %v", age)
		}
		checkStored(t, c, []string{
			"eu-west-1-a.up", "eu-west-1-b.up", "eu-west-1-c.up", "eu-west-1-a.suspect", "eu-west-1-a.down", "eu-west-1-a.up", "eu-west-1-a.left",
		})
	})
}

// checkStored compares the events about servers that the region has stored.
func checkStored(t *testing.T, c *jetstream.Conn, want []string) {
	t.Helper()
	filter := events.Subject{Kind: events.KindServer, Region: c.Region()}.Filter()
	messages, err := c.Recent(t.Context(), time.Now().Add(-time.Hour), filter)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range messages {
		got = append(got, strings.TrimPrefix(m.Subject, "berth.v1.server.eu-west-1."))
		if _, err := events.Decode(m.Subject, m.Data); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(got[:min(3, len(got))]) // the first three came at once
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestAKilledServerIsToldDown(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	seen := newRecord()
	run(t, registry.NewFollower(c, seen.changed, nil).Run)
	metrics := prometheus.NewRegistry()
	r := newRegistry(t, c, func(cfg *registry.Config) { cfg.Metrics = metrics })
	run(t, r.Run)
	jetstreamtest.Eventually(t, 5*time.Second, "a view", func() bool { return r.View() != nil })
	health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(health.Close)
	const interval = 200 * time.Millisecond
	killed := run(t, newAgent(c, "eu-west-1-a", refusing(t), interval).run(t))
	cut := run(t, newAgent(c, "eu-west-1-b", health.URL, interval).run(t))
	run(t, newAgent(c, "eu-west-1-c", health.URL, interval).run(t))
	wait := func(want ...string) {
		t.Helper()
		var all []string
		jetstreamtest.Eventually(t, 10*time.Second, fmt.Sprint(want), func() bool {
			all = append(all, seen.take()...)
			slices.Sort(all)
			return len(all) >= len(want)
		})
		if diff := cmp.Diff(want, all); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	wait("eu-west-1-a=up", "eu-west-1-b=up", "eu-west-1-c=up")
	killed()
	cut()
	// One answers its probes and is cut off from the bus only: it goes on serving.
	wait("eu-west-1-a=down", "eu-west-1-a=suspect", "eu-west-1-b=suspect")

	// What is no heartbeat of the sender's own harms nobody.
	for subject, data := range map[string]string{
		"berth.v1.heartbeat.eu-west-1.eu-west-1-c": `{"version":1,"server":"eu-west-1-a","region":"eu-west-1"}`,
		"berth.v1.heartbeat.eu-west-1.nonsense":    `][`,
		"berth.v1.heartbeat.eu-west-1.future":      `{"version":999,"server":"future","region":"eu-west-1","at":"2026-11-01T12:00:00Z"}`,
		"berth.v1.heartbeat.eu-west-1.large":       `{"version":1,"filler":"` + strings.Repeat("x", events.MaxHeartbeat) + `"}`,
		"berth.v1.view.us-east-1":                  `{"version":1,"region":"ap-southeast-1"}`,
	} {
		if err := c.NATS().Publish(subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the bad messages are counted", func() bool {
		return counted(t, metrics, "malformed") == 3 && counted(t, metrics, "too_large") == 1 && counted(t, metrics, "unknown") == 1
	})
	if got := len(r.View().Servers); got != 3 {
		t.Errorf("%d servers, want 3: %v", got, states(r.View()))
	}
}

// counted returns how many messages were skipped for a reason.
func counted(t *testing.T, metrics *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "berth_registry_skipped_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestARegionSeesTheOthers(t *testing.T) {
	t.Parallel()
	fleet := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	views := map[string]*registry.Registry{}
	conns := map[string]*jetstream.Conn{}
	for name, nats := range fleet.Regions {
		conns[name] = jetstreamtest.Provisioned(t, nats.ClientURL())
		views[name] = newRegistry(t, conns[name], func(c *registry.Config) { c.Detection.Unreachable = 3 * time.Second })
		run(t, views[name].Run)
	}
	const interval = 200 * time.Millisecond
	stop := run(t, newAgent(conns["eu-west-1"], "eu-west-1-a", refusing(t), interval).run(t))
	run(t, newAgent(conns["us-east-1"], "us-east-1-a", refusing(t), interval).run(t))
	seen := newRecord()
	run(t, registry.NewFollower(conns["us-east-1"], seen.changed, nil).Run)
	shows := func(region string, want ...string) func() bool {
		return func() bool {
			v := views[region].View()
			return v != nil && slices.Equal(want, states(v))
		}
	}
	for region := range views {
		jetstreamtest.Eventually(t, 10*time.Second, region+" sees both", shows(region, "eu-west-1-a=up", "us-east-1-a=up"))
	}
	stop()
	jetstreamtest.Eventually(t, 10*time.Second, "the other region hears of the death", shows("us-east-1", "eu-west-1-a=down", "us-east-1-a=up"))
	jetstreamtest.Eventually(t, 5*time.Second, "and its bucket has it", func() bool {
		return slices.Contains(seen.take(), "eu-west-1-a=down")
	})
	value, err := conns["us-east-1"].Bucket(registry.Bucket).Get(t.Context(), "eu-west-1.eu-west-1-a")
	if err != nil {
		t.Fatal(err)
	}
	var s events.Server
	if err := json.Unmarshal(value.Data, &s); err != nil || s.Seq != views["us-east-1"].View().Seqs()["eu-west-1"] {
		t.Errorf("the bucket has %+v (%v)", s, err)
	}

	// A link that is cut for a while: once it is back, each region tells the other all.
	fleet.Links["us-east-1"].Cut()
	run(t, newAgent(conns["eu-west-1"], "eu-west-1-b", refusing(t), interval).run(t))
	jetstreamtest.Eventually(t, 10*time.Second, "the own region goes on, the other is out of reach",
		shows("eu-west-1", "eu-west-1-a=down", "eu-west-1-b=up", "us-east-1-a=suspect"))
	fleet.Links["us-east-1"].Heal()
	for region := range views {
		jetstreamtest.Eventually(t, 10*time.Second, region+" sees all again", shows(region, "eu-west-1-a=down", "eu-west-1-b=up", "us-east-1-a=up"))
	}
}

func TestTheDeathOfAStreamsLeaderKillsNobody(t *testing.T) {
	t.Parallel()
	cluster := jetstreamtest.NewCluster(t, "eu-west-1", 3)
	c := jetstreamtest.Dial(t, cluster.URL())
	if err := c.Provision(t.Context(), jetstream.Topology{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t, c)
	run(t, r.Run)
	seen := newRecord()
	run(t, registry.NewFollower(c, seen.changed, nil).Run)
	const interval = 200 * time.Millisecond
	for i := range 10 {
		sender := jetstreamtest.Dial(t, cluster.URL())
		run(t, newAgent(sender, fmt.Sprintf("eu-west-1-%d", i), refusing(t), interval).run(t))
	}
	up := func(n int) func() bool {
		return func() bool {
			v := r.View()
			return v != nil && len(v.Servers) == n && !slices.ContainsFunc(v.Servers, func(s *events.Server) bool { return s.State != events.StateUp })
		}
	}
	jetstreamtest.Eventually(t, 10*time.Second, "all are up", up(10))
	late := newAgent(jetstreamtest.Dial(t, cluster.URL()), "eu-west-1-late", refusing(t), interval)
	if err := cluster.Leader(t, c.JetStream(), jetstream.StreamHeartbeats).Shutdown(); err != nil {
		t.Fatal(err)
	}
	// Longer than it takes from a death to its verdict, and until a stream has a leader again.
	run(t, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(4 * time.Second):
			return late.run(t)(ctx)
		}
	})
	jetstreamtest.Eventually(t, 20*time.Second, "the view goes on", up(11))
	jetstreamtest.Eventually(t, 20*time.Second, "and the bucket", func() bool {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		return seen.last["eu-west-1-late"] == events.StateUp
	})
	for _, change := range seen.take() {
		if strings.HasSuffix(change, "=down") {
			t.Errorf("%s, though all live", change)
		}
	}
}

func TestNewRefusesAFaultyConfiguration(t *testing.T) {
	c := registry.Config{Region: "EU West"}
	if _, err := registry.New(c); err == nil || !strings.Contains(err.Error(), "EU West") {
		t.Errorf("region: %v", err)
	}
	c.Region = "eu-west-1"
	if _, err := registry.New(c); err == nil {
		t.Error("nothing to work with: no error")
	}
}
