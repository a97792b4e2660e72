package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/registry/telemetry"
)

// system answers as the test says.
type system struct {
	mu     sync.Mutex
	answer func(query string) ([]telemetry.Sample, error)
}

func (s *system) says(answer func(query string) ([]telemetry.Sample, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *system) Query(ctx context.Context, query string) ([]telemetry.Sample, error) {
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	if answer == nil { // it hangs
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answer(query)
}

// bus keeps the last report on each subject.
type bus struct {
	mu   sync.Mutex
	last map[string]events.LoadReport
	n    int
	away error
}

func (b *bus) Publish(_ context.Context, subject string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away != nil {
		return b.away
	}
	e, err := events.Decode(subject, data)
	if err != nil {
		return err
	}
	b.last[subject], b.n = *e.(*events.LoadReport), b.n+1
	return nil
}

func (b *bus) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = err
}

// bridge is a bridge in fake time.
type bridge struct {
	*telemetry.Bridge
	system  system
	bus     bus
	log     bytes.Buffer
	metrics *prometheus.Registry
	view    atomic.Pointer[registry.View]
	ended   chan error
}

// newBridge starts a bridge of two queries over the servers a and b. The buffer is read when all
// is at rest.
func newBridge(t *testing.T) *bridge {
	t.Helper()
	b := &bridge{metrics: prometheus.NewRegistry(), ended: make(chan error, 1)}
	b.bus.last = map[string]events.LoadReport{}
	var err error
	b.Bridge, err = telemetry.New(telemetry.Config{
		Region: "eu-west-1", Queries: []telemetry.Query{{Field: "cpu", PromQL: "c"}, {Field: "sessions", PromQL: "s"}},
		System: &b.system, Bus: &b.bus, View: b.view.Load, Metrics: b.metrics,
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.know("a", "b")
	return b
}

func (b *bridge) know(ids ...string) {
	var servers []events.Server
	for _, id := range ids {
		servers = append(servers, events.Server{Server: id, Region: "eu-west-1", State: events.StateUp, Capacity: 1})
	}
	servers = append(servers, events.Server{Server: "us", Region: "us-east-1", State: events.StateUp, Capacity: 1})
	b.view.Store(registry.NewView(servers, nil, new(atomic.Int64), time.Now()))
}

func (b *bridge) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { b.ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
}

// lines returns how often the log has each of the words.
func (b *bridge) lines(words ...string) []int {
	synctest.Wait()
	counts := make([]int, len(words))
	for i, w := range words {
		counts[i] = strings.Count(b.log.String(), w)
	}
	return counts
}

func (b *bridge) counter(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// constant answers every query with the same value for a server.
func constant(server string, value float64) func(string) ([]telemetry.Sample, error) {
	return func(string) ([]telemetry.Sample, error) {
		return []telemetry.Sample{{Server: server, Value: value}}, nil
	}
}

func TestBridgeReportsEachRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.system.says(constant("a", 1))
		if b.Ready() == nil {
			t.Error("ready before it asked")
		}
		b.run(t)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		got := b.bus.last["berth.v1.load.eu-west-1.a"]
		want := events.LoadReport{
			Version: events.Version, Server: "a", Region: "eu-west-1", At: got.At,
			Load: events.Load{CPU: 1, Sessions: 1}, Fields: []string{"cpu", "sessions"}, Source: "prometheus",
		}
		if diff := cmp.Diff(want, got); diff != "" || b.bus.n != 3 {
			t.Errorf("%d reports, the last (-want +got):\n%s", b.bus.n, diff)
		}
		if age := time.Since(got.At); age != 2*time.Second {
			t.Errorf("the last report is of %s ago, want 2s", age)
		}
		if err := b.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestBridgeSaysOnceWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		refused := errors.New("connection refused")
		b.system.says(func(string) ([]telemetry.Sample, error) { return nil, refused })
		b.run(t)
		time.Sleep(61 * time.Second)
		if err := b.Ready(); !errors.Is(err, refused) {
			t.Errorf("ready says %v, want why it does not report", err)
		}
		b.system.says(constant("a", 1))
		time.Sleep(5 * time.Second)
		if got := b.lines("connection refused", "load is reported again"); !slices.Equal(got, []int{1, 1}) {
			t.Errorf("logged %v, want once that it is away and once that it is back:\n%s", got, &b.log)
		}
		if err := b.Ready(); err != nil {
			t.Errorf("not ready although the system is back: %v", err)
		}
		// A query that goes wrong later leaves the other alone.
		b.system.says(func(query string) ([]telemetry.Sample, error) {
			if query == "c" {
				return nil, fmt.Errorf("%w: prometheus says: too many samples", telemetry.ErrRefused)
			}
			return constant("b", 7)(query)
		})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := b.bus.last["berth.v1.load.eu-west-1.b"]; got.Load.Sessions != 7 || !slices.Equal(got.Fields, []string{"sessions"}) {
			t.Errorf("report %+v, want what the other query gives", got)
		}
		if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "too many samples") || !strings.Contains(err.Error(), "cpu=c") {
			t.Errorf("ready says %v, want which query was refused and why", err)
		}
		// One that hangs ends with its round.
		b.system.says(nil)
		time.Sleep(20 * time.Second)
		if err := b.Ready(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ready says %v, want that it takes too long", err)
		}
		b.system.says(constant("a", 1))
		b.bus.fail(errors.New("no NATS"))
		time.Sleep(20 * time.Second)
		if got := b.lines("no NATS"); got[0] != 1 {
			t.Errorf("%d lines about NATS, want one:\n%s", got[0], &b.log)
		}
		b.bus.fail(nil)
		time.Sleep(6 * time.Second)
		if err := b.Ready(); err != nil {
			t.Errorf("not ready at last: %v", err)
		}
	})
}

func TestBridgeSaysOnceWhichSeriesItSkips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.system.says(func(string) ([]telemetry.Sample, error) {
			return []telemetry.Sample{{"a", 1}, {"stranger", 1}, {"us", 1}, {"NO ID", 1}}, nil
		})
		b.run(t)
		time.Sleep(16 * time.Second)
		got := b.lines("server=stranger", "server=us", "NO ID")
		if !slices.Equal(got, []int{2, 2, 2}) { // once for each query
			t.Errorf("logged %v, want each series once:\n%s", got, &b.log)
		}
		if got := b.counter(t, "berth_telemetry_skipped_total", telemetry.DoubtUnknown); got != 4*2*2 {
			t.Errorf("%v series of unknown servers were counted, want 16", got)
		}
		if got := len(b.bus.last); got != 1 {
			t.Errorf("%d servers are reported, want the one that is known", got)
		}
		b.know("a", "stranger")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if _, ok := b.bus.last["berth.v1.load.eu-west-1.stranger"]; !ok {
			t.Error("a server that has started is not reported")
		}
	})
}

func TestAnInvalidQueryEndsTheBridge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.system.says(func(query string) ([]telemetry.Sample, error) {
			if query == "s" {
				return nil, fmt.Errorf("%w: prometheus says: parse error", telemetry.ErrInvalid)
			}
			return nil, fmt.Errorf("%w: prometheus says: not now", telemetry.ErrRefused)
		})
		err := b.Run(t.Context())
		if !errors.Is(err, telemetry.ErrInvalid) || err.Error() != "ask for sessions: query is invalid: prometheus says: parse error (sessions=s)" {
			t.Errorf("%v", err)
		}
	})
}

func TestBridgeWaitsForTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t)
		b.view.Store(nil)
		b.system.says(constant("a", 1))
		b.run(t)
		time.Sleep(6 * time.Second)
		if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "not known yet") {
			t.Errorf("ready says %v", err)
		}
		time.Sleep(30 * time.Millisecond)
		b.know("a")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if err := b.Ready(); err != nil {
			t.Errorf("0.1 s after the servers are known: %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := telemetry.Config{
		Region: "eu-west-1", Queries: []telemetry.Query{{Field: "cpu", PromQL: "c"}},
		System: &system{}, Bus: &bus{}, View: func() *registry.View { return nil },
	}
	if _, err := telemetry.New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*telemetry.Config){
		"region":                func(c *telemetry.Config) { c.Region = "EU" },
		"no queries":            func(c *telemetry.Config) { c.Queries = nil },
		"two queries give cpu":  func(c *telemetry.Config) { c.Queries = append(c.Queries, c.Queries[0]) },
		"want one of":           func(c *telemetry.Config) { c.Queries = []telemetry.Query{{Field: "x", PromQL: "c"}} },
		"interval 1ms":          func(c *telemetry.Config) { c.Interval = time.Millisecond },
		"source":                func(c *telemetry.Config) { c.Source = "My Prometheus" },
		"system, bus and view":  func(c *telemetry.Config) { c.Bus = nil },
		"interval 1h0m0s: want": func(c *telemetry.Config) { c.Interval = time.Hour },
	} {
		c := good
		c.Queries = slices.Clone(good.Queries)
		change(&c)
		if _, err := telemetry.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
