package tokens_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// turning are organizations that all become strict.
type turning struct{ strict atomic.Bool }

func (o *turning) Org(name string) (residency.Org, error) {
	org := residency.Default(name)
	if o.strict.Load() {
		org.Takeover = residency.TakeoverStrict
	}
	return org, nil
}

// TestStrictRefusalsCounted: a request that is refused for want of a lease counts once, however often it
// was looked at; what clients are not told of does not count.
func TestStrictRefusalsCounted(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	orgs, metrics, log := &turning{}, prometheus.NewRegistry(), &notes{}
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service(func(c *tokens.Config) {
		c.Orgs, c.Edges, c.Metrics = orgs, func() []string { return []string{singapore} }, metrics
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	first, ok := startOf(t, s, "acme")
	if !ok {
		t.Fatal("no session was started")
	}
	orgs.strict.Store(true) // and no other region has ever heard this one
	counted := func(want float64) {
		t.Helper()
		if n := sum(t, metrics, "berth_strict_refusals_total"); n != want {
			t.Errorf("%v refusals are counted, want %v", n, want)
		}
	}
	counted(0)
	for n := range 3 {
		refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeUnavailable)
		counted(float64(n + 1))
	}
	if _, ok := startOf(t, s, "acme"); ok {
		t.Error("a session was started")
	}
	counted(4)
	// Another region that offers a session is not a client.
	there := f.record(first.SessionID)
	there.Session, there.Epoch.Region = "elsewhere", singapore
	next := there
	next.Epoch = events.Epoch{Number: there.Epoch.Number + 1, Region: dublin}
	data, err := json.Marshal(there.Begin(next, time.Now().Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	if _, body := s.Serve(t.Context(), string(sessions.Adopting), nil, data); !strings.Contains(string(body), "no_lease") {
		t.Errorf("an offer was answered with %s", body)
	}
	counted(4)
	if n := log.count("are not answered"); n != 1 {
		t.Errorf("%d lines tell operators, want one", n)
	}
}

// sum returns the sum of a counter over its labels.
func sum(t *testing.T, metrics *prometheus.Registry, name string) (n float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}
