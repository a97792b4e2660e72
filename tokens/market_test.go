package tokens_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestAFullRegionHasAPrice: a region for which more ask than it can take costs as much as those who
// lose least have to be moved by; each decision says what it went by. With room again all is free.
func TestAFullRegionHasAPrice(t *testing.T) {
	const virginia = "us-east-1"
	eu, us := server("eu-west-1-a", dublin, "http://127.0.0.1:1"), server("us-east-1-a", virginia, "http://127.0.0.1:2")
	us.Location = events.Location{Lat: 38.9, Lon: -77.4}
	eu.Load.Utilisation, us.Load.Utilisation = 0.5, 0.1
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), eu, us)
	reg := prometheus.NewRegistry()
	var log bytes.Buffer
	s := f.service(func(c *tokens.Config) {
		c.Metrics, c.Log = reg, slog.New(slog.NewTextHandler(&log, nil))
	})
	decided := make(chan *events.Decision, 16)
	stop, err := f.conn.Subscribe(t.Context(), events.Subject{Kind: events.KindDecision, Region: dublin}.Filter(), func(subject string, data []byte) {
		if e, err := events.Decode(subject, data); err == nil {
			decided <- e.(*events.Decision)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	end := run(t, s)

	login(t, s)
	if d := <-decided; d.Prices != nil || d.To != eu.Server {
		t.Errorf("with room for all %q, by prices %v", d.To, d.Prices)
	}
	eu.Load.Utilisation = 1.2
	f.set(eu, us)
	for region, demand := range map[string]map[string]float64{dublin: {dublin: 900}, virginia: {dublin: 60, virginia: 40}} {
		u := &events.ViewUpdate{
			Version: events.Version, Region: region, Seq: 1, At: time.Now(), Part: 1, Of: 1, Servers: []events.Server{},
			Demand: demand, RTTMs: map[string]float64{virginia: 70},
		}
		data, err := events.Encode(u)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.conn.NATS().Publish(u.Subject().String(), data); err != nil {
			t.Fatal(err)
		}
	}
	var d *events.Decision
	jetstreamtest.Eventually(t, 10*time.Second, "a price", func() bool {
		s.FindPrices(t.Context(), time.Now())
		login(t, s)
		d = <-decided
		return math.Abs(d.Prices[dublin]-70) < 8
	})
	if len(d.Prices) != 1 || d.Policy != "spread+prices" {
		t.Errorf("%s by %v", d.Policy, d.Prices)
	}
	if n := series(t, reg, "berth_region_price_seconds"); n != 1 {
		t.Errorf("%d metrics of prices", n)
	}

	eu.Capacity, eu.Load.Utilisation = 10*eu.Capacity, 0.12 // at once, not ten seconds after the last time
	f.set(eu, us)
	jetstreamtest.Eventually(t, 5*time.Second, "no price", func() bool { return series(t, reg, "berth_region_price_seconds") == 0 })
	eu.Capacity, eu.Load.Utilisation = eu.Capacity/10, 1.2
	f.set(eu, us)
	jetstreamtest.Eventually(t, 5*time.Second, "a price", func() bool { return series(t, reg, "berth_region_price_seconds") == 1 })

	eu.Load.Utilisation = 0.2
	f.set(eu, us)
	s.FindPrices(t.Context(), time.Now())
	login(t, s)
	if d := <-decided; d.Prices != nil || d.To != eu.Server {
		t.Errorf("with room again %q, by prices %v", d.To, d.Prices)
	}
	if n := series(t, reg, "berth_region_price_seconds"); n != 0 {
		t.Errorf("%d metrics of prices", n)
	}
	end()
	for _, line := range []string{"the loss of the largest region could not be borne by the others", "could be borne again"} {
		if strings.Count(log.String(), line) != 1 {
			t.Errorf("not once %q in\n%s", line, &log)
		}
	}
}

// TestRefreshesAreDemand: what a service refreshes it tells its registry, by where clients are.
func TestRefreshesAreDemand(t *testing.T) {
	t.Parallel() // it mostly waits
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	told := make(chan map[string]float64, 16)
	stop, err := f.conn.Subscribe(t.Context(), events.Subject{Kind: events.KindDemand, Region: dublin}.String(), func(_ string, data []byte) {
		var d events.Demand
		if json.Unmarshal(data, &d) == nil {
			told <- d.Origins
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	run(t, s)
	token := login(t, s).RefreshToken
	deadline := time.After(40 * time.Second)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case origins := <-told:
			if n := origins[dublin]; len(origins) != 1 || n < 0.3 || n > 2 { // times are kept by the second
				t.Errorf("one session is told as %v", origins)
			}
			return
		case <-tick.C:
			token = granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token, ClosestServerID: a.Server}).RefreshToken
		case <-deadline:
			t.Fatal("no demand is told")
		}
	}
}

// series returns how many series a metric has.
func series(t *testing.T, reg *prometheus.Registry, name string) int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return len(f.GetMetric())
		}
	}
	return 0
}
