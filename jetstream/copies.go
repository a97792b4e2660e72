package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

var _ sessions.Copies = (*Copies)(nil)

// CopiesConfig says how copies of sessions are kept an eye on. All of it may be zero.
type CopiesConfig struct {
	// Service names the instance that writes beats. Empty: it is not named.
	Service string
	// Log gets what an operator should know. Nil: that of the connection.
	Log *slog.Logger
	// Metrics registers the metrics. Nil: they are not registered.
	Metrics prometheus.Registerer
}

// Copies is what other regions' stores say of sessions: the stream BERTH_SESSION_COPIES. Which regions those are stands in
// the stream itself, as Provision has made it. All its methods may be used at once from several goroutines.
type Copies struct {
	conn    *Conn
	cfg     CopiesConfig
	log     *slog.Logger
	metrics *copyMetrics
	// incoming are the strands that the stream has a source for; nil while that is not known.
	incoming atomic.Pointer[[]strand]
	beats    arrivals
	sight    sight
	// began is when watchEdges first looked, nearlyFull says that this has been told; both belong to it.
	began      time.Time
	nearlyFull bool

	// mu guards told: when it was last said, by origin and reason, that copies are skipped.
	mu   sync.Mutex
	told map[[2]string]time.Time
}

// Copies returns the region's copies. Nothing is asked of NATS.
func (c *Conn) Copies(cfg CopiesConfig) *Copies {
	k := &Copies{conn: c, cfg: cfg, log: cfg.Log, metrics: newCopyMetrics(cfg.Metrics), told: map[[2]string]time.Time{}}
	if k.log == nil {
		k.log = c.log
	}
	return k
}

// Run writes the own region's beats, hears those of others, and watches the edges, of idempotency keys too, until ctx ends, which is no error, or
// the connection is closed for good. Without it there is neither lag nor readiness, and a change of edges is not noticed.
func (k *Copies) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.writeBeats(ctx); return nil })
	g.Go(func() error { return k.hearBeats(ctx) })
	g.Go(func() error { k.watchEdges(ctx); return nil })
	g.Go(func() error { k.watchIdempotency(ctx); return nil })
	return g.Wait()
}

// Copies implements sessions.Copies. It asks the stream's leader, of each region that the session's jurisdiction has an
// edge to, at once.
func (k *Copies) Copies(ctx context.Context, key sessions.Key) ([]sessions.Copy, error) {
	in, err := k.strands(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: read copies of %s: %w", sessions.ErrUnavailable, key, err)
	}
	found := make([]*sessions.Copy, len(in))
	var g errgroup.Group
	for i, s := range in {
		if s.jurisdiction == key.Jurisdiction {
			g.Go(func() (err error) { found[i], err = k.read(ctx, s.origin, key); return err })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%w: read copies of %s: %w", sessions.ErrUnavailable, key, err)
	}
	var list []sessions.Copy
	for _, c := range found {
		if c != nil {
			list = append(list, *c)
		}
	}
	return list, nil
}

// strands returns the strands that come in, which it looks up where they are not known yet.
func (k *Copies) strands(ctx context.Context) ([]strand, error) {
	if known := k.incoming.Load(); known != nil {
		return *known, nil
	}
	info, err := k.conn.copiesInfo(ctx, StreamCopies)
	if err != nil {
		return nil, err
	}
	list := strandsOf(k.conn.region, info.Config.Sources)
	k.incoming.CompareAndSwap(nil, &list)
	return list, nil
}

// Edges returns the region's edges as its stream of copies has them, sorted by region; none where there is no such stream.
func (c *Conn) Edges(ctx context.Context) ([]Edge, error) {
	info, err := c.copiesInfo(ctx, StreamCopies)
	if err != nil {
		return nil, fmt.Errorf("look up edges: %w", err)
	}
	byRegion := map[string][]string{}
	for _, s := range strandsOf(c.region, info.Config.Sources) {
		byRegion[s.origin] = append(byRegion[s.origin], s.jurisdiction)
	}
	edges := []Edge{}
	for _, region := range slices.Sorted(maps.Keys(byRegion)) {
		edges = append(edges, Edge{Region: region, Jurisdictions: byRegion[region]})
	}
	return edges, nil
}

// copiesInfo describes a stream of copies, emptily where there is none: the region has no edges.
func (c *Conn) copiesInfo(ctx context.Context, name string) (*natsjs.StreamInfo, error) {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, name)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return &natsjs.StreamInfo{}, nil
	case err != nil:
		return nil, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return s.CachedInfo(), nil
}

// read returns the copy of one region, nil if there is none that can be used.
func (k *Copies) read(ctx context.Context, origin string, key sessions.Key) (*sessions.Copy, error) {
	ctx, cancel := within(ctx, recordPatience)
	defer cancel()
	subject := copySubject(key.Jurisdiction, origin, key.Session)
	v, gone, err := k.conn.leaderRead(ctx, StreamCopies, map[string]any{"last_by_subj": subject})
	if err == nil && gone {
		// Somebody has removed the record by hand, which ends no session: below the marker the stream still holds it.
		v, gone, err = k.conn.leaderRead(ctx, StreamCopies, map[string]any{"seq": 1, "next_by_subj": subject})
	}
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && gone:
		return nil, nil //nolint:nilnil // that there is none is no fault
	case err != nil:
		return nil, err
	}
	rec, ok := k.decode(origin, key, v.Data)
	if !ok || time.Now().After(rec.ExpiresAt.Add(sessions.Keep)) {
		return nil, nil //nolint:nilnil // as above
	}
	return &sessions.Copy{Region: origin, Record: rec}, nil
}

// Reasons for which copies are skipped.
const (
	skipMalformed = "malformed"
	skipNewer     = "newer_version"
	skipMisplaced = "misplaced"
)

// complainEvery is how often it is said that copies of a region are skipped for one reason.
const complainEvery = time.Minute

// decode reads a copy. What cannot be used is counted, and told of.
func (k *Copies) decode(origin string, key sessions.Key, data []byte) (sessions.Record, bool) {
	rec, err := sessions.DecodeRecord(data)
	reason := ""
	switch {
	case err != nil:
		reason = skipMalformed
	case rec.Version > sessions.RecordVersion:
		reason, err = skipNewer, fmt.Errorf("version %d, this build reads up to %d; update this region", rec.Version, sessions.RecordVersion)
	case rec.Key() != key:
		reason, err = skipMisplaced, fmt.Errorf("it is the record of %s", rec.Key())
	default:
		return *rec, true
	}
	k.metrics.skipped.WithLabelValues(origin, reason).Inc()
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); now.Sub(k.told[[2]string{origin, reason}]) >= complainEvery {
		k.told[[2]string{origin, reason}] = now
		k.log.LogAttrs(context.Background(), slog.LevelError, "copy of a session cannot be used and is skipped",
			slog.String("origin", origin), slog.String("session", key.Session), slog.String("reason", reason), slog.String("error", err.Error()))
	}
	return sessions.Record{}, false
}

// parseCopySubject returns what the subject of a copy, or of a beat, says.
func parseCopySubject(subject string) (key sessions.Key, origin string, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(subject, events.Copies("")), ".", 3) // a beat has one more
	if len(parts) != 3 || slices.Contains(parts, "") {
		return key, "", false
	}
	return sessions.Key{Jurisdiction: parts[0], Session: parts[2]}, parts[1], true
}

// copyMetrics are the metrics of copies. No label holds an id.
type copyMetrics struct {
	lag     *prometheus.GaugeVec
	ready   prometheus.Gauge
	bytes   prometheus.Gauge
	full    prometheus.Gauge
	skipped *prometheus.CounterVec
	kicks   *prometheus.CounterVec
}

func newCopyMetrics(reg prometheus.Registerer) *copyMetrics {
	m := &copyMetrics{
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_session_copies_lag_seconds",
			Help: "Age of the newest beat of a region's sessions when it was stored here, or its age now once the next is overdue, or the time since the start while none has come; includes the skew of the clocks.",
		}, []string{"origin"}),
		ready: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_session_copies_ready", Help: "1 while nothing is known to be missing of what the regions in sight have to tell.",
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{Name: "berth_session_copies_bytes", Help: "What the copies take."}),
		full: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_session_copies_full_ratio", Help: "The part of the stream's bound that the copies take; at 1 the oldest are dropped.",
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_session_copies_skipped_total", Help: "Copies that could not be used, by origin and reason.",
		}, []string{"origin", "reason"}),
		kicks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_session_copies_restarts_total", Help: "Times that a silent source of copies was set up again, by origin.",
		}, []string{"origin"}),
	}
	if reg != nil {
		reg.MustRegister(m.lag, m.ready, m.bytes, m.full, m.skipped, m.kicks)
	}
	return m
}
