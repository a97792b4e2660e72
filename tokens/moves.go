package tokens

import (
	"context"
	"encoding/json"
	"math"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
)

// How sessions on their way are counted.
const (
	// smoothing is the time constant by which what a session adds to a server comes to be in the
	// server's own report: that of its load (sdk/server).
	smoothing = 5 * time.Second
	// viewEvery is how long a report takes at most to be in the view.
	viewEvery = time.Second
	// addEvery is how often decisions come to know.
	addEvery = 200 * time.Millisecond
	// worthAdding is the least part of a server's capacity that is added.
	worthAdding = 0.005
	// maxMoves bounds the servers that are counted.
	maxMoves = 100_000
)

// moves counts the sessions that were placed on each server, or moved away from it, and that its
// last report does not have, as far as the region's token services have told.
type moves struct {
	// mu guards servers: those for which somebody is on the way.
	mu      sync.Mutex
	servers map[string]onTheWay
}

// onTheWay is how many sessions a server does not report, negative if more left: the last report
// lacks some, and one at a time the fewer the later it is.
type onTheWay struct {
	lacking float64
	fading  float64
	at      time.Time
	// reported and seen are when a report came, by this clock and by that of its registry.
	reported, seen time.Time
}

func newMoves() *moves { return &moves{servers: map[string]onTheWay{}} }

// left returns how many of them a report at now would not have.
func (w *onTheWay) left(now time.Time) float64 {
	return w.fading * math.Exp(-float64(max(0, now.Sub(w.at)))/float64(smoothing))
}

// report takes note of a server's report, unless it is the one that is known. A report is also that
// none came in the time for one: then it would have said the same.
func (w *onTheWay) report(s *events.Server, now time.Time) {
	if w.reported.IsZero() { // the view's is from before they were on the way
		w.reported, w.seen = now, s.SeenAt
		return
	}
	silent := now.Sub(w.reported) >= time.Duration(s.IntervalMS)*time.Millisecond+viewEvery
	if s.SeenAt.Equal(w.seen) && !silent {
		return
	}
	w.lacking, w.reported, w.seen = w.left(now), now, s.SeenAt
}

// add counts a session that goes to a server, or with -1 leaves it.
func (m *moves) add(server string, sessions float64, now time.Time) {
	if server == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w, known := m.servers[server]
	if known || len(m.servers) < maxMoves {
		w.lacking, w.fading, w.at = w.lacking+sessions, w.left(now)+sessions, now
		m.servers[server] = w
	}
}

// added returns what is worth adding to the servers of a view at now, nil if nothing is.
func (m *moves) added(view *registry.View, now time.Time) (a placement.Added) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.servers {
		s, ok := view.Server(id)
		w.report(&s, now)
		if math.Abs(w.lacking) < worthAdding { // of a session, and so of any server's capacity
			delete(m.servers, id)
			continue
		}
		m.servers[id] = w
		if !ok || s.Capacity <= 0 {
			continue
		}
		if part := w.lacking / float64(s.Capacity); math.Abs(part) >= worthAdding {
			if a == nil {
				a = placement.Added{}
			}
			a[id] = part
		}
	}
	return a
}

// moved is what counts of a decision event.
type moved struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// hearMoves hears where the region's token services place sessions until ctx ends.
func (s *Service) hearMoves(ctx context.Context) {
	subject := events.Subject{Kind: events.KindDecision, Region: s.cfg.Region, Verdict: string(placement.VerdictMove)}
	s.hear(ctx, subject.Filter(), func(_ string, data []byte) {
		var m moved
		if len(data) > events.MaxSize || json.Unmarshal(data, &m) != nil {
			s.metrics.skippedEvents.Inc()
			return
		}
		now := time.Now()
		s.moves.add(m.To, 1, now)
		s.moves.add(m.From, -1, now)
	})
}

// addMoves has decisions go by the sessions on their way, until ctx ends.
func (s *Service) addMoves(ctx context.Context) {
	every(ctx, addEvery, func(now time.Time) {
		if view := s.cfg.View(); view != nil {
			s.outlook.add(s.moves.added(view, now))
		}
	})
}
