package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// leading starts a registry on an account of its own and waits until it leads.
func leading(t *testing.T, change ...func(*registry.Config)) (*jetstream.Conn, *registry.Registry) {
	t.Helper()
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	r := newRegistry(t, c, change...)
	run(t, r.Run)
	jetstreamtest.Eventually(t, 5*time.Second, "a view", func() bool { return r.View() != nil })
	jetstreamtest.Eventually(t, 5*time.Second, "it leads", func() bool {
		_, err := r.Methods()[registry.MethodView].Answer(t.Context(), []byte("{}"))
		return err == nil
	})
	return c, r
}

// publish sends a view update of us-east-1.
func publish(t *testing.T, c *jetstream.Conn, u *events.ViewUpdate) {
	t.Helper()
	u.At = time.Now().UTC()
	data, err := events.Encode(u)
	if err == nil {
		err = c.NATS().Publish(u.Subject().String(), data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestProbesOnRequest(t *testing.T) {
	t.Parallel()
	var probes atomic.Int64
	health := func(status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			probes.Add(1)
			w.WriteHeader(status)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	hangs := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hangs }))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(hangs) })
	c, r := leading(t)
	at := func(id, url string) events.Server {
		s := remote(id, 1)
		s.URL = url
		return s
	}
	publish(t, c, update(1, full(1, 1), at("a-good", health(200)), at("b-ill", health(503)), at("c-refuses", refusing(t)), at("d-hangs", hanging.URL)))
	run(t, newAgent(c, "eu-west-1-own", health(200), time.Second).run(t))
	jetstreamtest.Eventually(t, 5*time.Second, "all are known", func() bool { return len(r.View().Servers) == 5 })
	probe := r.Methods()[registry.MethodProbe]
	if probe.Leader {
		t.Error("only the leader probes")
	}
	probes.Store(0)
	want := registry.ProbeReply{Region: "eu-west-1", Outcomes: map[string]registry.Outcome{
		"a-good": registry.OutcomeGood, "b-ill": registry.OutcomeFailed, "c-refuses": registry.OutcomeRefused,
		"eu-west-1-own": registry.OutcomeUnknown, "nobody": registry.OutcomeUnknown,
	}}
	// Many ask at once, and the one that hangs is waited for no longer than they wait.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
			defer cancel()
			data, err := probe.Answer(ctx, []byte(`{"servers":["a-good","b-ill","c-refuses","d-hangs","eu-west-1-own","nobody"],"url":"http://127.0.0.1/"}`))
			var got registry.ProbeReply
			if err == nil {
				err = json.Unmarshal(data, &got)
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	wg.Wait()
	if got := probes.Load(); got < 2 || got > 4 {
		t.Errorf("%d probes for 20 requests within a second, of two servers that answer", got)
	}
}

func TestRequestsThatMeanNothing(t *testing.T) {
	t.Parallel()
	_, r := leading(t)
	many := `{"servers":["x"` + strings.Repeat(`,"x"`, registry.MaxProbed) + `]}`
	for _, test := range []struct{ method, request, want string }{
		{registry.MethodProbe, ``, "unexpected end"},
		{registry.MethodProbe, `[`, "unexpected end"},
		{registry.MethodProbe, `{}`, "0 servers: want 1 to 100"},
		{registry.MethodProbe, `{"servers":["http://169.254.169.254/latest"]}`, "want 1 to 64 of a-z"},
		{registry.MethodProbe, `{"servers":"eu-west-1-a"}`, "cannot unmarshal"},
		{registry.MethodProbe, many, "101 servers"},
		{registry.MethodProbe, `{"servers":["` + strings.Repeat("x", 70<<10) + `"]}`, "at most 65536 are read"},
		{registry.MethodView, `{"part":2,"of":1}`, "part 2 of 1"},
		{registry.MethodView, `{"part":1}`, "part 1 of 0"},
		{registry.MethodView, `{"part":-1,"of":3}`, "part -1 of 3"},
		{registry.MethodView, `{"part":1,"of":1000000}`, "want 1 to 1024 parts"},
		{registry.MethodView, `x`, "invalid character"},
	} {
		_, err := r.Methods()[test.method].Answer(t.Context(), []byte(test.request))
		refusal, ok := errors.AsType[*registry.Refusal](err)
		if !ok || refusal.Code != registry.RefusedInvalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %.60s: %v, want a bad request with %q", test.method, test.request, err, test.want)
		}
	}
}

func TestOnlyTheLeaderGivesItsView(t *testing.T) {
	t.Parallel()
	c, r := leading(t)
	standby := newRegistry(t, c)
	run(t, standby.Run)
	jetstreamtest.Eventually(t, 5*time.Second, "a view", func() bool { return standby.View() != nil })
	if _, err := standby.Methods()[registry.MethodView].Answer(t.Context(), []byte("{}")); !errors.Is(err, registry.ErrNotLeading) {
		t.Errorf("the standby answers with %v", err)
	}
	serveMethods(t, c, standby)
	serveMethods(t, c, r)
	subject := "berth.v1.rpc.registry.global.eu-west-1.view"
	jetstreamtest.Eventually(t, 5*time.Second, "requests are heard", func() bool {
		_, err := c.NATS().Request("$SRV.PING.berth_registry", nil, time.Second)
		return err == nil
	})
	for range 20 { // none of them goes to the standby
		reply, err := c.Call(t.Context(), subject, nil, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := events.Decode("berth.v1.view.eu-west-1", reply.Data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAViewOfManyPartsIsOne(t *testing.T) {
	table := registry.NewTable("us-east-1", registry.Detection{})
	const n = 1500
	for i := range n {
		table.Reduce(live(beat(fmt.Sprintf("us-east-1-%04d", i), boot(1), 1, func(h *events.Heartbeat) { h.Region = "us-east-1" })), at(0))
	}
	if table.Part(0, 0, at(0)) != nil {
		t.Error("a view that was never told has no sequence")
	}
	table.Tell(at(0))
	first := table.Part(0, 0, at(0))
	if first.Of < 3 || first.Part != 1 {
		t.Fatalf("part %d of %d", first.Part, first.Of)
	}
	there := map[string]bool{}
	for part := 1; part <= first.Of; part++ {
		u := table.Part(part, first.Of, at(0))
		data, err := events.Encode(u)
		if err != nil || len(data) > events.MaxViewPart {
			t.Errorf("part %d: %d bytes, %v", part, len(data), err)
		}
		for _, s := range u.Servers {
			there[s.Server] = true
		}
	}
	if len(there) != n {
		t.Errorf("%d servers in all parts, want %d", len(there), n)
	}
}

// lossy is a bus that loses view updates of other regions for as long as it is told to.
type lossy struct {
	registry.Bus
	lose func(subject string, data []byte) bool
}

func (b *lossy) Subscribe(ctx context.Context, subject string, fn func(string, []byte)) (func(), error) {
	return b.Bus.Subscribe(ctx, subject, func(subject string, data []byte) {
		if !b.lose(subject, data) {
			fn(subject, data)
		}
	})
}

func TestAMissedUpdateIsAskedFor(t *testing.T) {
	t.Parallel()
	fleet := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	here := jetstreamtest.Provisioned(t, fleet.Regions["eu-west-1"].ClientURL())
	there := jetstreamtest.Provisioned(t, fleet.Regions["us-east-1"].ClientURL())
	source := newRegistry(t, there)
	run(t, source.Run)
	serveMethods(t, there, source)
	var lost atomic.Bool
	r := newRegistry(t, here, func(c *registry.Config) {
		c.Caller = here.Caller()
		c.Bus = &lossy{Bus: here, lose: func(subject string, data []byte) bool {
			// What says that b has died is lost.
			return subject == "berth.v1.view.us-east-1" && strings.Contains(string(data), `"state":"left"`) && lost.CompareAndSwap(false, true)
		}}
	})
	run(t, r.Run)
	jetstreamtest.Eventually(t, 5*time.Second, "both listen", func() bool { return source.View() != nil && r.View() != nil })
	run(t, newAgent(there, "us-east-1-a", refusing(t), time.Second).run(t))
	b := newAgent(there, "us-east-1-b", refusing(t), time.Second)
	b.send(t)
	shows := func(want ...string) func() bool {
		return func() bool { return r.View() != nil && cmp.Equal(want, states(r.View())) }
	}
	jetstreamtest.Eventually(t, 10*time.Second, "both are seen", shows("us-east-1-a=up", "us-east-1-b=up"))
	b.h.State = events.StateLeft
	b.send(t)
	jetstreamtest.Eventually(t, 5*time.Second, "an update is lost", lost.Load)
	began := time.Now()
	jetstreamtest.Eventually(t, 10*time.Second, "what it said is known", shows("us-east-1-a=up", "us-east-1-b=left"))
	// The next update, which shows that one is missing, comes within a second.
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("known %v after it was lost", took)
	}
}

func TestAServerThatAnswersElsewhereIsNotDead(t *testing.T) {
	t.Parallel()
	fleet := jetstreamtest.NewFleet(t, nil, "eu-west-1", "us-east-1")
	here := jetstreamtest.Provisioned(t, fleet.Regions["eu-west-1"].ClientURL())
	there := jetstreamtest.Provisioned(t, fleet.Regions["us-east-1"].ClientURL())
	// The own region does not trust its certificate: every probe from here fails.
	health := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	health.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	health.StartTLS()
	t.Cleanup(health.Close)
	roots := health.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	witness := newRegistry(t, there, func(c *registry.Config) {
		c.Prober = registry.NewProber(registry.ProberConfig{Roots: roots})
	})
	run(t, witness.Run)
	serveMethods(t, there, witness)
	r := newRegistry(t, here, func(c *registry.Config) { c.Caller = here.Caller() })
	run(t, r.Run)
	const interval = 200 * time.Millisecond
	silent := run(t, newAgent(here, "eu-west-1-a", health.URL, interval).run(t))
	dies := run(t, newAgent(here, "eu-west-1-b", refusing(t), interval).run(t))
	run(t, newAgent(here, "eu-west-1-c", refusing(t), interval).run(t))
	shows := func(v func() *registry.View, want ...string) func() bool {
		return func() bool { return v() != nil && cmp.Equal(want, states(v())) }
	}
	jetstreamtest.Eventually(t, 10*time.Second, "all are seen", shows(witness.View, "eu-west-1-a=up", "eu-west-1-b=up", "eu-west-1-c=up"))
	silent()
	dies()
	jetstreamtest.Eventually(t, 10*time.Second, "one dies", shows(r.View, "eu-west-1-a=suspect", "eu-west-1-b=down", "eu-west-1-c=up"))
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !shows(r.View, "eu-west-1-a=suspect", "eu-west-1-b=down", "eu-west-1-c=up")() {
			t.Fatalf("one that answers elsewhere: %v", states(r.View()))
		}
	}
	if s, _ := r.View().Server("eu-west-1-a"); s.Reason != "probe_answered_elsewhere" {
		t.Errorf("suspect for %s", s.Reason)
	}
	health.Close()
	jetstreamtest.Eventually(t, 10*time.Second, "once it answers nobody, it is dead", shows(r.View, "eu-west-1-a=down", "eu-west-1-b=down", "eu-west-1-c=up"))
}
