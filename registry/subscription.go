package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// SubscriptionConfig is what a Subscription needs. Fields without a stated zero value are
// required.
type SubscriptionConfig struct {
	// Watcher follows the buckets of the own region's NATS.
	Watcher Watcher
	// Bound is the age from which the view is stale. 0: 30 s.
	Bound time.Duration
	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
	// Metrics registers the subscription's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Times of a subscription.
const (
	defaultBound = 30 * time.Second
	// silentAfter is how long nothing may be written until it shows that no registry does: each
	// server's value is written every refreshEvery or so, though nothing changes.
	silentAfter = 3 * refreshEvery
	// checkEvery is how often the age is looked at.
	checkEvery = time.Second
)

// ErrStale says that a view is older than its bound, or that there is none.
var ErrStale = errors.New("the view of the active servers is stale")

// Subscription keeps a service's view of the active servers, and says how far to trust it.
//
// The first view is a snapshot of all that the region's registry knows. Each later one holds
// every change up to its moment: after a lost connection what was missed is read, or all is
// compared, before there is another view. Readers get views each newer than the one before; who
// is slow misses some in between, never the last. Without NATS the last view stays, and its Age
// grows; Fresh says when it is too old. A Subscription is safe for concurrent use.
type Subscription struct {
	follower *Follower
	bound    time.Duration
	log      *slog.Logger
	// written is when the last key was read, in Unix nanoseconds; 0: none was.
	written atomic.Int64

	// mu guards waiting: who waits for the next view.
	mu      sync.Mutex
	waiting map[chan struct{}]struct{}
}

// Subscribe returns a subscription, or the first fault of its configuration. It does no I/O:
// Run does.
func Subscribe(c SubscriptionConfig) (*Subscription, error) {
	switch {
	case c.Watcher == nil:
		return nil, errors.New("configure subscription: watcher is required")
	case c.Bound < 0:
		return nil, fmt.Errorf("configure subscription: bound %s: want at least 0", c.Bound)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Subscription{bound: cmp.Or(c.Bound, defaultBound), log: c.Log, waiting: map[chan struct{}]struct{}{}}
	s.follower = NewFollower(witness{c.Watcher, &s.written}, func(*View) { s.wake() }, c.Log)
	if c.Metrics != nil {
		s.register(c.Metrics)
	}
	return s, nil
}

// register makes the metrics. They are worked out when they are asked for.
func (s *Subscription) register(reg prometheus.Registerer) {
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_view_age_seconds", Help: "Time since the view of the active servers was last known to be complete; infinite before the first.",
		}, func() float64 {
			if v := s.View(); v != nil && s.follower.current.Load() != 0 {
				return v.Age(time.Now()).Seconds()
			}
			return math.Inf(1)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_view_stale", Help: "1 while the view of the active servers is too old to move sessions by, or no registry writes it.",
		}, func() float64 {
			if s.Fresh(time.Now()) != nil {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "berth_view_skipped_total", Help: "Values of berth_servers that are no servers.",
		}, func() float64 { return float64(s.follower.Skipped()) }),
	)
}

// Run follows until ctx ends, which is no error, or the watch has ended for good. It tells the
// log when the view becomes stale, and when it no longer is, once each time.
func (s *Subscription) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { s.check(inner); return nil })
	g.Go(func() error {
		defer stop()
		return s.follower.Run(inner)
	})
	return g.Wait()
}

// View returns the newest view, nil before the first.
func (s *Subscription) View() *View { return s.follower.View() }

// Watch calls fn with the present view, as soon as there is one, and then with each newer one,
// until ctx ends. It leaves out those that came while fn was busy, but never the last.
func (s *Subscription) Watch(ctx context.Context, fn func(*View)) {
	changed := make(chan struct{}, 1)
	s.mu.Lock()
	s.waiting[changed] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, changed)
		s.mu.Unlock()
	}()
	var told *View
	for ctx.Err() == nil {
		if v := s.View(); v != told {
			told = v
			fn(v)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// Fresh returns nil while the view can be trusted at now. Otherwise it fails with ErrStale,
// wrapped with what is the matter: there is no view, it was last known to be complete longer
// than Bound ago, or it is complete but nobody has written any server for so long that no
// registry can be at work.
func (s *Subscription) Fresh(now time.Time) error {
	switch v := s.View(); {
	case v == nil || s.follower.current.Load() == 0:
		return fmt.Errorf("%w: none was read yet", ErrStale)
	case v.Stale(s.bound, now):
		return fmt.Errorf("%w: it was last known to be complete %s ago", ErrStale, v.Age(now).Round(time.Second))
	case len(v.Servers) > 0:
		if silence := now.Sub(time.Unix(0, s.written.Load())); silence > silentAfter {
			return fmt.Errorf("%w: no registry has written it for %s", ErrStale, silence.Round(time.Second))
		}
	}
	return nil
}

// check tells of staleness until ctx ends. At the start there is as much time for a view as it
// may be old later.
func (s *Subscription) check(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	began := time.Now()
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		err := s.Fresh(now)
		switch {
		case err != nil && since.IsZero() && now.Sub(began) > s.bound:
			since = now
			s.log.LogAttrs(ctx, slog.LevelWarn, "view is stale", slog.String("error", err.Error()))
		case err == nil && !since.IsZero():
			s.log.LogAttrs(ctx, slog.LevelWarn, "view is fresh again", slog.Duration("stale_for", now.Sub(since)))
			since = time.Time{}
		}
	}
}

// wake tells everyone that there is a new view.
func (s *Subscription) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiting {
		signal(c)
	}
}

// witness is a Watcher that notes when keys come.
type witness struct {
	Watcher
	at *atomic.Int64
}

// Watch implements Watcher.
func (w witness) Watch(ctx context.Context, bucket string, apply func([]Entry, bool), proof func(time.Time)) error {
	return w.Watcher.Watch(ctx, bucket, func(entries []Entry, complete bool) {
		if len(entries) > 0 {
			w.at.Store(time.Now().UnixNano())
		}
		apply(entries, complete)
	}, proof)
}

// Stale reports whether the view was last known to be complete longer than bound before now.
func (v *View) Stale(bound time.Duration, now time.Time) bool { return v.Age(now) > bound }
