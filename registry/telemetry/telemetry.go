// Package telemetry promises the registry each server's load as a central telemetry system
// sees it: every few seconds it asks the system what the operator's queries give, and
// publishes the answers as reports of load.
//
// What an answer says of which server is decided by Reports, which is pure; a Bridge asks and
// publishes; Prometheus is the one system that there is.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// System answers queries about the present. Query returns one sample for each series; it fails
// with ErrInvalid or ErrRefused, wrapped with the system's own words, if the query is at fault,
// and with another error if the system could not be asked. It ends with ctx and is called for
// several queries at once.
type System interface {
	Query(ctx context.Context, query string) ([]Sample, error)
}

// Faults of a query.
var (
	// ErrInvalid says that it is none, or not one that gives a load: it will never be answered.
	ErrInvalid = errors.New("query is invalid")
	// ErrRefused says that the system could not work it out by what it knows now.
	ErrRefused = errors.New("query refused")
)

// Bus carries the reports. Publish hands an event to NATS or fails, at the latest when ctx ends.
type Bus interface {
	Publish(ctx context.Context, subject string, data []byte) error
}

// Config is what a Bridge needs. Fields without a stated zero value are required.
type Config struct {
	// Region is the region whose servers are reported.
	Region string
	// Source names the system in reports and views. Empty: prometheus.
	Source string
	// Queries are asked, at most one for each field of events.Load.
	Queries []Query
	// Interval is the time between two rounds of queries, 1 s to 30 s. 0: 5 s.
	Interval time.Duration
	System   System
	Bus      Bus
	// View returns the servers that are known, nil before the first: only these are reported.
	View func() *registry.View
	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
	// Metrics registers the bridge's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Bounds of Config.Interval. Reports count for a minute, so that some may be lost.
const (
	defaultInterval = 5 * time.Second
	minInterval     = time.Second
	maxInterval     = 30 * time.Second
)

// Validate returns the first fault of what an operator configures; what the program wires
// (Bus and View) may still be missing.
func (c Config) Validate() error {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return fmt.Errorf("configure telemetry: %w", err)
	}
	return nil
}

func (c *Config) setDefaults() {
	c.Source = cmp.Or(c.Source, "prometheus")
	c.Interval = cmp.Or(c.Interval, defaultInterval)
}

func (c *Config) validate() error {
	seen := map[string]bool{}
	for _, q := range c.Queries {
		if err := q.validate(); err != nil {
			return err
		}
		if seen[q.Field] {
			return fmt.Errorf("two queries give %s", q.Field)
		}
		seen[q.Field] = true
	}
	switch {
	case !events.ValidToken(c.Region):
		return fmt.Errorf("region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	case !events.ValidToken(c.Source):
		return fmt.Errorf("source %q: want 1 to %d of a-z 0-9 - _", c.Source, events.MaxToken)
	case len(c.Queries) == 0:
		return errors.New("no queries: there is nothing to report")
	case c.Interval < minInterval || c.Interval > maxInterval:
		return fmt.Errorf("interval %s: want %s to %s", c.Interval, minInterval, maxInterval)
	}
	return nil
}

// Bridge reports what a telemetry system says.
type Bridge struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	// state is what keeps it from reporting, nil while it reports.
	state atomic.Pointer[error]

	// The fields below belong to Run. faults are what was logged and has not ended: by the
	// field of a query, "" for the system, publishing for NATS. doubts are the series of the
	// last answers that were of no use. answered says that the system has ever taken a query.
	faults   map[string]bool
	doubts   map[Doubt]bool
	answered bool
}

// publishing is the key of faults under which reports that are not published stand.
const publishing = "publish"

// New returns a bridge, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Bridge, error) {
	c.setDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.System == nil || c.Bus == nil || c.View == nil {
		return nil, errors.New("configure telemetry: system, bus and view are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{cfg: c, log: c.Log, metrics: newMetrics(c.Metrics), faults: map[string]bool{}, doubts: map[Doubt]bool{}}
	b.become(errors.New("nothing was asked yet"))
	return b, nil
}

// Ready returns nil while reports go out; otherwise the error says why they do not, or which
// of them.
func (b *Bridge) Ready() error { return *b.state.Load() }

func (b *Bridge) become(err error) { b.state.Store(&err) }

// Run reports until ctx ends, which is no error, from when there is a view on. It fails if a query is found to be invalid when
// the system answers for the first time: nobody but the operator can mend that. Whatever else goes wrong
// is logged once and tried again.
func (b *Bridge) Run(ctx context.Context) error {
	if !b.awaitView(ctx) {
		return nil
	}
	tick := time.NewTicker(b.cfg.Interval)
	defer tick.Stop()
	for {
		if err := b.round(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// awaitView waits until the servers are known, so that the first round does not come an interval
// late. It reports false if ctx ended before.
func (b *Bridge) awaitView(ctx context.Context) bool {
	for b.cfg.View() == nil {
		b.become(errors.New("the servers of the region are not known yet"))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(viewPoll):
		}
	}
	return true
}

// viewPoll is how often the first view is looked for.
const viewPoll = 100 * time.Millisecond

// round asks everything once and reports it.
func (b *Bridge) round(ctx context.Context) error {
	view := b.cfg.View()
	at := time.Now()
	answers, faults := b.ask(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err := b.invalid(faults); err != nil {
		return err
	}
	known := func(id string) bool {
		s, ok := view.Server(id)
		return ok && s.Region == b.cfg.Region
	}
	reports, doubts := Reports(b.cfg.Region, b.cfg.Source, answers, known, at)
	b.doubt(ctx, answers, doubts)
	if err := b.publish(ctx, reports); err != nil {
		faults[publishing] = err
	}
	b.tell(ctx, faults)
	return nil
}

// ask asks all queries at once. A query that fails is left out of the answers.
func (b *Bridge) ask(ctx context.Context) (answers []Answer, faults map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Interval)
	defer cancel()
	all := make([]Answer, len(b.cfg.Queries))
	errs := make([]error, len(b.cfg.Queries))
	var g errgroup.Group
	for i, q := range b.cfg.Queries {
		g.Go(func() error {
			all[i].Field = q.Field
			all[i].Samples, errs[i] = b.cfg.System.Query(ctx, q.PromQL)
			return nil
		})
	}
	_ = g.Wait() // each has its error
	faults = map[string]error{}
	for i, q := range b.cfg.Queries {
		outcome := "answered"
		switch err := errs[i]; {
		case err == nil:
			answers = append(answers, all[i])
		case errors.Is(err, ErrInvalid), errors.Is(err, ErrRefused):
			outcome = "refused"
			faults[q.Field] = fmt.Errorf("%w (%s=%s)", err, q.Field, q.PromQL)
		default:
			outcome = "failed"
			faults[""] = err
		}
		b.metrics.queries.WithLabelValues(outcome).Inc()
	}
	return answers, faults
}

// invalid returns the error with which Run ends, if there is one.
func (b *Bridge) invalid(faults map[string]error) error {
	if b.answered || faults[""] != nil {
		return nil
	}
	b.answered = true
	for _, field := range slices.Sorted(maps.Keys(faults)) {
		if errors.Is(faults[field], ErrInvalid) {
			return fmt.Errorf("ask for %s: %w", field, faults[field])
		}
	}
	return nil
}

// publish sends the reports and returns the first failure.
func (b *Bridge) publish(ctx context.Context, reports []*events.LoadReport) (first error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Interval)
	defer cancel()
	sent := 0
	for _, r := range reports {
		data, err := events.Encode(r)
		if err == nil {
			err = b.cfg.Bus.Publish(ctx, r.Subject().String(), data)
		}
		if err != nil {
			first = cmp.Or(first, fmt.Errorf("publish reports: %w", err))
			b.metrics.reports.WithLabelValues("failed").Inc()
			continue
		}
		sent++
		b.metrics.reports.WithLabelValues("sent").Inc()
	}
	b.metrics.servers.Set(float64(sent))
	return first
}

// doubt counts the series that are of no use, and logs each once for as long as the query gives
// it. Of a query without an answer, what it gave last stands.
func (b *Bridge) doubt(ctx context.Context, answers []Answer, doubts []Doubt) {
	now := maps.Clone(b.doubts)
	maps.DeleteFunc(now, func(d Doubt, _ bool) bool {
		return slices.ContainsFunc(answers, func(a Answer) bool { return a.Field == d.Field })
	})
	for _, d := range doubts {
		b.metrics.skipped.WithLabelValues(d.Reason).Inc()
		if len(now) >= maxDoubts {
			continue
		}
		if now[d] = true; !b.doubts[d] {
			b.log.LogAttrs(ctx, slog.LevelWarn, "series skipped", slog.String("query", d.Field),
				slog.String("server", d.Server), slog.String("reason", d.Reason), slog.String("do", d.Advice()))
		}
	}
	b.doubts = now
}

// maxDoubts bounds the series that are remembered as logged.
const maxDoubts = 1000

// tell logs what went wrong and what is mended, each once, and keeps it for Ready.
func (b *Bridge) tell(ctx context.Context, faults map[string]error) {
	var state error
	for _, key := range slices.Sorted(maps.Keys(faults)) {
		state = cmp.Or(state, faults[key])
		if !b.faults[key] {
			b.faults[key] = true
			b.log.LogAttrs(ctx, slog.LevelWarn, "load is not reported, or not all of it; will try again",
				slog.String("what", what(key)), slog.String("error", faults[key].Error()))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b.faults)) {
		if faults[key] == nil {
			delete(b.faults, key)
			b.log.LogAttrs(ctx, slog.LevelWarn, "load is reported again", slog.String("what", what(key)))
		}
	}
	b.become(state)
}

// what says what a key of faults stands for.
func what(key string) string {
	switch key {
	case "":
		return "all queries"
	case publishing:
		return "reports"
	default:
		return "query for " + key
	}
}

// metrics are the bridge's own. No label holds an id.
type metrics struct {
	queries *prometheus.CounterVec
	skipped *prometheus.CounterVec
	reports *prometheus.CounterVec
	servers prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_telemetry_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		queries: counters("queries_total", "Queries to the telemetry system, by outcome: answered, refused (the query is at fault) or failed.", "outcome"),
		skipped: counters("skipped_total", "Series of the answers that were of no use, by reason.", "reason"),
		reports: counters("reports_total", "Reports of load, by outcome.", "outcome"),
		servers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_telemetry_servers", Help: "Servers whose load was reported in the last round.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.queries, m.skipped, m.reports, m.servers)
	}
	return m
}
