package tokens

import (
	"context"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// Times of a client's reports that it cannot reach its server: a second one moves it if it
// comes at least reportGap after the first, and within reportLife of it.
const (
	reportGap  = 5 * time.Second
	reportLife = 60 * time.Second
	maxReports = 100_000
)

// reports remembers the first report of each session's server, whichever service of the
// region took it. Later reports do not renew it.
type reports struct {
	mu    sync.Mutex
	first map[reportKey]time.Time
}

type reportKey struct {
	session, server string
	epoch           events.Epoch
}

func newReports() *reports { return &reports{first: make(map[reportKey]time.Time)} }

// add notes a report. first says that none was known; again that an earlier one was, long
// enough ago to believe it.
func (r *reports) add(session, server string, epoch events.Epoch, now time.Time) (first, again bool) {
	key := reportKey{session, server, epoch}
	r.mu.Lock()
	defer r.mu.Unlock()
	at, known := r.first[key]
	if known && now.Sub(at) <= reportLife {
		return false, now.Sub(at) >= reportGap
	}
	if len(r.first) >= maxReports {
		r.forget(now)
	}
	if len(r.first) < maxReports {
		r.first[key] = now
	}
	return true, false
}

// forget drops what is older than reportLife. The caller holds mu.
func (r *reports) forget(now time.Time) {
	for key, at := range r.first {
		if now.Sub(at) > reportLife {
			delete(r.first, key)
		}
	}
}

// hearReports hears the reports that the region's services took, until ctx ends.
func (s *Service) hearReports(ctx context.Context) {
	s.hear(ctx, events.Subject{Kind: events.KindReport, Region: s.cfg.Region}.String(), s.heardReport)
}

// heardReport takes a report that some service of the region published, this one included.
func (s *Service) heardReport(subject string, data []byte) {
	e, err := events.Decode(subject, data)
	if err != nil {
		s.metrics.skippedEvents.Inc()
		return
	}
	if r, ok := e.(*events.Report); ok {
		s.reports.add(r.Session, r.Server, r.Epoch, time.Now())
	}
}
