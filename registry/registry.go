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
	// Lease decides which of the region's registries writes and publishes; the others stand by
	// with the same knowledge. nil: this is the only one, and leads.
	Lease LeaseStore
	// Name is this registry's in the lease: no other process ever had it. Required with Lease.
	Name string
	// Wishes keeps what operators want of the region. nil: they cannot want anything.
	Wishes WishStore
	// Disconnects tells of lost connections; nil: the dead are known by silence alone.
	Disconnects Disconnects
	// Caller asks other regions' registries; nil: none is asked.
	Caller Caller
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
	tickEvery = 50 * time.Millisecond
	// retryEvery is the pause before something at the start is tried again.
	retryEvery = time.Second
	// catchUpLimit bounds one reading of the stream of heartbeats, firstLimit the one that the
	// start waits for: what it says first should be of all servers, but it should be said.
	catchUpLimit = 10 * time.Second
	firstLimit   = 2 * time.Second
	// maxProbes bounds the probes under way at once, and apart from them those that are the first
	// of their server; maxUpdates the view updates.
	maxProbes  = 512
	maxUpdates = 64
	// updateTimeout bounds the wait for a view update to be stored. Who subscribes has it
	// before that.
	updateTimeout = 500 * time.Millisecond
	// updateParts is how many parts of one Tell are under way at once.
	updateParts = 8
)

// Registry is the registry of a region.
type Registry struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	inbox     *inbox
	journal   *journal
	projector *projector
	leader    *leader
	scout     *scout
	// inquiries holds a token for each question about servers that is under way.
	inquiries           chan struct{}
	probes, firstProbes *semaphore.Weighted
	updates             *semaphore.Weighted
	// reread holds a token while the stream of heartbeats is to be read.
	reread  chan struct{}
	view    atomic.Pointer[View]
	current atomic.Int64
	// sees is when each other region was last heard, of a second or so ago.
	sees atomic.Pointer[heardAges]

	// The fields below belong to the loop. term is the one in which it goes on from the leader
	// before; told is what was heard of leaders, with holes if unsure. shown counts the table's changes that the view
	// has, since shownAt.
	table *Table
	// ownView is the subject of the own region's view updates.
	ownView string
	// heartbeat is the one that is being folded.
	heartbeat events.Heartbeat
	term      uint64
	told      Sayings
	unsure    bool
	series    *Series
	// recount says that a server has changed its state since they were counted.
	recount bool
	shown   uint64
	shownAt time.Time
	// witnesses are the questions about servers since the last tick.
	witnesses []WitnessDue
	// tidied is when wishes were last looked through for servers that are gone.
	tidied time.Time
}

// New returns a registry, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Registry, error) {
	switch {
	case !events.ValidToken(c.Region):
		return nil, fmt.Errorf("configure registry: region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	case c.Bus == nil || c.Heartbeats == nil || c.Store == nil || c.Prober == nil:
		return nil, errors.New("configure registry: bus, heartbeats, store and prober are required")
	case c.Lease != nil && c.Name == "":
		return nil, errors.New("configure registry: name is required with a lease")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		cfg: c, log: c.Log, metrics: newMetrics(c.Metrics), inbox: newInbox(), reread: make(chan struct{}, 1),
		probes: semaphore.NewWeighted(maxProbes), firstProbes: semaphore.NewWeighted(maxProbes), updates: semaphore.NewWeighted(maxUpdates),
		table: NewTable(c.Region, c.Detection), told: Sayings{},
		ownView: events.Subject{Kind: events.KindView, Region: c.Region}.String(),
	}
	r.scout, r.inquiries = newScout(c.Prober, r.metrics), make(chan struct{}, maxInquiries)
	r.series = NewSeries(&r.current)
	r.leader = newLeader(c.Name, c.Lease, c.Log, r.metrics, r.elected)
	leadership(c.Metrics, r.leader.leads)
	r.journal = newJournal(c.Bus, c.Log, r.metrics, r.leader.leadsIn)
	r.projector = newProjector(c.Region, c.Store, c.Log, r.metrics, func(seq uint64) { r.inbox.learned(SequenceSeen{seq}) }, r.leader.leads)
	return r, nil
}

// View returns the newest view, nil before the registry has read what was there.
func (r *Registry) View() *View { return r.view.Load() }

// Run watches until ctx ends, which is no error.
func (r *Registry) Run(ctx context.Context) error {
	var stop func()
	if !r.persist(ctx, "registry cannot listen yet", func() (err error) { stop, err = r.listen(ctx); return err }) {
		return nil
	}
	defer stop()
	var restored []events.Server
	if !r.persist(ctx, "registry cannot begin yet", func() (err error) { restored, _, err = r.projector.read(ctx); return err }) {
		return nil
	}
	var wishes WishesSeen
	if !r.persist(ctx, "registry cannot begin yet", func() (err error) { wishes, err = r.firstWishes(ctx); return err }) {
		return nil
	}
	if !r.catchUp(ctx, firstLimit) {
		signal(r.reread)
	}
	// The lease is given up when nothing is left to be written.
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	var lease errgroup.Group
	defer func() { _ = lease.Wait() }() // it has no error
	defer release()
	lease.Go(func() error { r.leader.run(holding); return nil })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.journal.run(ctx); return nil })
	g.Go(func() error { r.projector.run(ctx); return nil })
	g.Go(func() error { r.readAgain(ctx); return nil })
	g.Go(func() error { return r.followWishes(ctx) })
	g.Go(func() error { r.measure(ctx); return nil })
	g.Go(func() error { r.loop(ctx, g, wishes, restored); return nil })
	return g.Wait()
}

// persist tries until fn succeeds, which it reports, or ctx ends.
func (r *Registry) persist(ctx context.Context, failure string, fn func() error) bool {
	for {
		err := fn()
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "registry has to wait", slog.String("reason", failure), slog.String("error", err.Error()))
		}
		if !sleep(ctx, retryEvery) {
			return false
		}
	}
}

// listen subscribes to the live flow: heartbeats, reports of load and clients' reports of the
// region, view updates of all, lost connections, and what the region's leading registry says.
func (r *Registry) listen(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, subject := range []string{
		events.Subject{Kind: events.KindHeartbeat, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindLoad, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindReport, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindDemand, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindView}.Filter(),
		events.Subject{Kind: events.KindServer, Region: r.cfg.Region}.Filter(),
		events.Subject{Kind: events.KindRegion}.Filter(),
	} {
		s, err := r.cfg.Bus.Subscribe(ctx, subject, r.inbox.live)
		if err != nil {
			stop()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		stops = append(stops, s)
	}
	if r.cfg.Disconnects != nil {
		s, err := r.cfg.Disconnects.Watch(ctx, func(server, boot string) {
			r.metrics.hints.WithLabelValues("disconnected").Inc()
			r.inbox.learned(Disconnected{Server: server, Boot: boot})
		})
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch connections: %w", err)
		}
		stops = append(stops, s)
	}
	stops = append(stops, r.cfg.Bus.OnGap(r.inbox.gap))
	return stop, nil
}

// catchUp reads the last heartbeats from the stream into the inbox: they may come again, or
// after newer ones, which the fold does not mind. It reports whether it read all.
func (r *Registry) catchUp(ctx context.Context, limit time.Duration) bool {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := r.cfg.Heartbeats.CatchUp(limited, r.inbox.stored)
	if err != nil && ctx.Err() == nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "heartbeats not read from the stream, will try again", slog.String("error", err.Error()))
	}
	return err == nil
}

// readAgain reads the stream whenever that was asked for, once at a time, until it succeeds.
func (r *Registry) readAgain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.reread:
			if !r.catchUp(ctx, catchUpLimit) {
				sleep(ctx, retryEvery)
				signal(r.reread)
			}
		}
	}
}

// elected reads what the leader before has written, at the beginning of a term.
func (r *Registry) elected(ctx context.Context, number uint64, first bool) {
	r.persist(ctx, "registry cannot lead yet", func() error {
		servers, err := r.projector.elected(ctx)
		if err == nil {
			r.inbox.learned(Elected{Servers: servers, First: first, term: number})
		}
		return err
	})
}

// succeed goes on from the leader before, unless the term is over already.
func (r *Registry) succeed(ctx context.Context, g *errgroup.Group, e Elected) {
	if !r.leader.leadsIn(e.term) {
		return
	}
	r.told.Trust(r.cfg.Region, e.Servers, r.unsure)
	r.term, r.unsure, e.Told = e.term, false, r.told
	r.reduce(ctx, g, e, time.Now())
}

// show makes a new view of the table.
func (r *Registry) show(now time.Time) {
	r.current.Store(now.UnixNano())
	v := r.table.View(r.series, now)
	if before := r.view.Swap(v); r.recount || before == nil || len(before.Servers) != len(v.Servers) {
		r.metrics.count(r.cfg.Region, v.Servers)
		r.recount = false
	}
	for state, n := range r.table.Regions() {
		r.metrics.others.WithLabelValues(state).Set(float64(n))
	}
	r.shown, r.shownAt = r.table.Changes(), now
}
