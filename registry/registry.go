// Package registry decides which servers are alive, and promises every service of a region
// the same view of them: a fold of heartbeats, probes and other regions' updates, kept in the
// bucket berth_servers.
//
// The fold (Table) is deterministic; the Registry around it listens, probes and writes. Who
// only reads uses a Follower.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/berthhq/berth/events"
)

// Config is what a Registry needs. Fields without a stated zero value are required.
type Config struct {
	// Region is the region whose servers it watches.
	Region string
	// Bus, Heartbeats and Store are the region's NATS.
	Bus        Bus
	Heartbeats Heartbeats
	Store      Store
	// Prober asks silent servers.
	Prober *Prober
	// Detection says when silence becomes a verdict; zero: the defaults.
	Detection Detection
	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
	// Metrics registers the registry's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Times and bounds of a registry.
const (
	tickEvery    = 50 * time.Millisecond
	retryEvery   = time.Second
	catchUpLimit = 10 * time.Second
	// maxProbes bounds the probes under way at once.
	maxProbes = 64
	// maxInbox bounds the messages that wait to be folded.
	maxInbox = 200_000
)

// Registry is the registry of a region.
type Registry struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	inbox   *inbox
	probes  *semaphore.Weighted
	// catching lets one catch-up run at a time.
	catching sync.Mutex
	view     atomic.Pointer[View]
	current  atomic.Int64

	// table and projector belong to the goroutine of Run.
	table     *Table
	projector *projector
	// stale says that the view is older than the table.
	stale bool
}

// New returns a registry, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Registry, error) {
	switch {
	case !events.ValidToken(c.Region):
		return nil, fmt.Errorf("configure registry: region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	case c.Bus == nil || c.Heartbeats == nil || c.Store == nil || c.Prober == nil:
		return nil, errors.New("configure registry: bus, heartbeats, store and prober are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		cfg: c, log: c.Log, metrics: newMetrics(c.Metrics), inbox: newInbox(), probes: semaphore.NewWeighted(maxProbes),
		table: NewTable(c.Region, c.Detection), projector: newProjector(c.Region, c.Bus, c.Store, c.Log),
	}, nil
}

// View returns the newest view, nil before the registry has read what was there.
func (r *Registry) View() *View { return r.view.Load() }

// Run watches until ctx ends, which is no error.
func (r *Registry) Run(ctx context.Context) error {
	stop, err := r.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := r.begin(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.loop(ctx, g); return nil })
	return g.Wait()
}

// listen subscribes to the live flow: heartbeats of the region, view updates of all.
func (r *Registry) listen(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, subject := range []string{
		events.Subject{Kind: events.KindHeartbeat, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindView}.Filter(),
	} {
		s, err := r.cfg.Bus.Subscribe(ctx, subject, r.inbox.message)
		if err != nil {
			stop()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		stops = append(stops, s)
	}
	stops = append(stops, r.cfg.Bus.OnGap(r.inbox.gap))
	return stop, nil
}

// begin takes over what the bucket holds and reads the heartbeats that were kept. It tries
// until it succeeds or ctx ends.
func (r *Registry) begin(ctx context.Context) error {
	for {
		servers, err := r.projector.begin(ctx)
		if err == nil {
			r.reduce(ctx, Restored{servers}, time.Now(), nil)
			err = r.catchUp(ctx)
		}
		if err == nil {
			r.publishView(time.Now())
			return nil
		}
		r.log.LogAttrs(ctx, slog.LevelWarn, "registry cannot begin yet", slog.String("error", err.Error()))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryEvery):
		}
	}
}

// catchUp reads the last heartbeat of each server from the stream, into the inbox: they may
// come again, or after newer ones, which the fold does not mind.
func (r *Registry) catchUp(ctx context.Context) error {
	r.catching.Lock()
	defer r.catching.Unlock()
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	return r.cfg.Heartbeats.CatchUp(ctx, r.inbox.message)
}

// loop folds what comes, and lets time pass, until ctx ends.
func (r *Registry) loop(ctx context.Context, g *errgroup.Group) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.inbox.wake:
		case <-tick.C:
			r.reduce(ctx, Ticked{}, time.Now(), g)
		}
		r.drain(ctx, g)
		now := time.Now()
		r.projector.flush(ctx, r.table, now)
		r.publishView(now)
	}
}

// drain folds everything that waits.
func (r *Registry) drain(ctx context.Context, g *errgroup.Group) {
	batch, gap := r.inbox.take()
	if gap {
		r.reduce(ctx, Gap{}, time.Now(), g)
		g.Go(func() error {
			if err := r.catchUp(ctx); err != nil && ctx.Err() == nil {
				r.log.LogAttrs(ctx, slog.LevelWarn, "heartbeats not read after a gap", slog.String("error", err.Error()))
			}
			return nil
		})
	}
	for _, item := range batch {
		if item.event == nil {
			item.event = r.decode(item.subject, item.data)
		}
		if item.event != nil {
			r.reduce(ctx, item.event, item.at, g)
		}
	}
}

// decode returns the message as an event of the table, nil for one that is skipped.
func (r *Registry) decode(subject string, data []byte) Event {
	e, err := events.Decode(subject, data)
	switch e := e.(type) {
	case *events.Heartbeat:
		return HeartbeatSeen{e}
	case *events.ViewUpdate:
		return UpdateSeen{e}
	}
	reason := "unknown"
	if errors.Is(err, events.ErrMalformed) {
		reason = "malformed"
	}
	r.metrics.skipped.WithLabelValues(reason).Inc()
	return nil
}

// reduce folds one event and does what the table wants done.
func (r *Registry) reduce(ctx context.Context, e Event, now time.Time, g *errgroup.Group) {
	urgent := false
	for _, effect := range r.table.Reduce(e, now) {
		switch effect := effect.(type) {
		case StateChanged:
			urgent = true
			r.metrics.changes.WithLabelValues(string(effect.State.State)).Inc()
			r.publish(ctx, effect.State)
		case RegionChanged:
			urgent = true
			r.publish(ctx, effect.State)
		case ProbeDue:
			if g != nil {
				g.Go(func() error { r.probe(ctx, effect); return nil })
			}
		case Skipped:
			r.metrics.skipped.WithLabelValues(effect.Reason).Inc()
		}
	}
	if keys := r.table.Changes(); len(keys) > 0 {
		r.projector.changed(keys, urgent)
		r.stale = true
	}
}

// publish tells of a change and logs it.
func (r *Registry) publish(ctx context.Context, e events.Event) {
	data, err := events.Encode(e)
	if err == nil {
		r.log.LogAttrs(ctx, slog.LevelInfo, "changed", slog.String("subject", e.Subject().String()))
		err = r.cfg.Bus.Publish(ctx, e.Subject().String(), data)
	}
	if err != nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "event not published",
			slog.String("subject", e.Subject().String()), slog.String("error", err.Error()))
	}
}

// probe asks a server; what comes of it goes through the inbox.
func (r *Registry) probe(ctx context.Context, due ProbeDue) {
	if r.probes.Acquire(ctx, 1) != nil {
		return
	}
	defer r.probes.Release(1)
	err := r.cfg.Prober.Probe(ctx, due.URL)
	outcome := "good"
	if err != nil {
		outcome = "failed"
	}
	r.metrics.probes.WithLabelValues(outcome).Inc()
	if ctx.Err() == nil {
		r.inbox.put(item{event: ProbeDone{Server: due.Server, Boot: due.Boot, OK: err == nil}, at: time.Now()})
	}
}

// publishView makes a new snapshot if the table has changed.
func (r *Registry) publishView(now time.Time) {
	r.current.Store(now.UnixNano())
	if !r.stale && r.view.Load() != nil {
		return
	}
	servers := r.table.Servers()
	r.view.Store(NewView(servers, seqsOf(servers), &r.current))
	r.stale = false
}
