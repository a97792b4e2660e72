package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/registry"
)

// SideConfig says what a process that is measured runs beside its NATS.
type SideConfig struct {
	// Dir keeps what NATS stores.
	Dir string
	// Floor runs a subscription that only counts. False: a registry.
	Floor bool
}

// SideReport is how a measured process is.
type SideReport struct {
	// URL is where its NATS listens.
	URL string `json:"url"`
	// CPU is the processor time that it has used, RSS its memory in bytes.
	CPU time.Duration `json:"cpu"`
	RSS int64         `json:"rss"`
	// Seen counts heartbeats, Servers those that are up in the registry's view, Gaps how often
	// messages were missed.
	Seen    int64 `json:"seen"`
	Servers int   `json:"servers"`
	Gaps    int64 `json:"gaps"`
}

// Side runs a NATS server of its own and what is measured, and answers each line on in with a
// SideReport on out, the first unasked. It ends with in, or with ctx.
func Side(ctx context.Context, c SideConfig, in io.Reader, out io.Writer) error {
	return withNATS(ctx, c.Dir, func(conn *jetstream.Conn, url string) error { return runSide(ctx, c, conn, url, in, out) })
}

// withNATS calls fn with a connection to a NATS server that stores in dir and ends with fn.
func withNATS(ctx context.Context, dir string, fn func(conn *jetstream.Conn, url string) error) (err error) {
	nats, err := embedded.NewRegion(embedded.RegionConfig{Region: region, StoreDir: dir})
	if err != nil {
		return err
	}
	if err := nats.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nats.Shutdown()) }()
	conn, err := jetstream.Dial(ctx, jetstream.Config{URL: nats.ClientURL(), Region: region, Role: "bench"})
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		err = errors.Join(err, conn.Close(stop))
	}()
	if err := conn.Provision(ctx, jetstream.Topology{}); err != nil {
		return err
	}
	return fn(conn, nats.ClientURL())
}

func runSide(ctx context.Context, c SideConfig, conn *jetstream.Conn, url string, in io.Reader, out io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	report, err := measured(ctx, c, conn, g)
	if err == nil {
		err = answer(ctx, io.MultiReader(strings.NewReader("\n"), in), out, func(_ context.Context, _ string, say func(any) error) error {
			r := report()
			r.URL, r.CPU, r.RSS = url, cpuTime(), rss()
			return say(r)
		})
	}
	cancel()
	return errors.Join(err, g.Wait())
}

// measured starts what is measured and returns what counts.
func measured(ctx context.Context, c SideConfig, conn *jetstream.Conn, g *errgroup.Group) (func() SideReport, error) {
	if c.Floor {
		var seen atomic.Int64
		_, err := conn.Subscribe(ctx, events.Subject{Kind: events.KindHeartbeat, Region: region}.Filter(), func(string, []byte) { seen.Add(1) })
		return func() SideReport { return SideReport{Seen: seen.Load()} }, err
	}
	heartbeats, err := conn.Heartbeats("bench")
	if err != nil {
		return nil, err
	}
	metrics := prometheus.NewRegistry()
	r, err := registry.New(registry.Config{
		Region: region, Bus: conn, Heartbeats: heartbeats, Store: conn.Servers(), Lease: conn.Lease(), Name: "bench",
		Prober: registry.NewProber(registry.ProberConfig{}), Metrics: metrics,
	})
	if err != nil {
		return nil, err
	}
	g.Go(func() error { return r.Run(ctx) })
	return func() SideReport {
		report := SideReport{
			Seen: int64(total(metrics, "berth_registry_heartbeats_total")),
			Gaps: int64(total(metrics, "berth_registry_gaps_total")),
		}
		if v := r.View(); v != nil {
			for i := range v.Regions {
				report.Servers += v.Regions[i].Usable
			}
		}
		return report
	}, nil
}

// total adds up a counter over its labels.
func total(metrics prometheus.Gatherer, name string) (sum float64) {
	families, err := metrics.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// rss returns the memory of this process in bytes, 0 where that is not known.
func rss() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	var all, resident int64
	if err == nil {
		_, err = fmt.Fscan(bytes.NewReader(data), &all, &resident)
	}
	if err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
