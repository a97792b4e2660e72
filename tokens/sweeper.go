package tokens

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/sessions"
)

// Times and bounds of the sweeper.
const (
	// sweepFirst is when a session is looked at that a handover has left unsettled, sweepLast how
	// often one is whose other region is out of reach.
	sweepFirst = 100 * time.Millisecond
	sweepLast  = 10 * time.Second
	// sweepTimeout bounds one look.
	sweepTimeout = sessions.AdoptTimeout
	// maxSweeps is how many are looked at, at once; maxUnsettled bounds those that are remembered:
	// the others are searched for later.
	maxSweeps    = 16
	maxUnsettled = 100_000
)

// sweeper sees sessions through whose handover or takeover is not settled: it asks and tells the
// other region again and again, ever more slowly.
type sweeper struct {
	s *Service
	// wake holds a token while something may be due.
	wake chan struct{}

	// mu guards agenda.
	mu     sync.Mutex
	agenda *agenda
}

func newSweeper(s *Service) *sweeper {
	w := &sweeper{s: s, wake: make(chan struct{}, 1), agenda: newAgenda(maxUnsettled)}
	if reg := s.cfg.Metrics; reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_sessions_unsettled", Help: "Sessions whose handover or takeover is not settled yet: looked at until both regions know. If it does not fall, see whether the regions reach each other.",
		}, func() float64 { return float64(w.unsettled()) }))
	}
	return w
}

// unsettled returns how many sessions are remembered.
func (w *sweeper) unsettled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.agenda.all)
}

// add remembers a session of which there is news. It does not block. False: there is no room.
func (w *sweeper) add(key sessions.Key) bool { return w.enter(key, (*agenda).add) }

// addPatient remembers a session that nobody waits for.
func (w *sweeper) addPatient(key sessions.Key) { w.enter(key, (*agenda).addPatient) }

func (w *sweeper) enter(key sessions.Key, add func(*agenda, sessions.Key, time.Time) bool) bool {
	w.mu.Lock()
	ok := add(w.agenda, key, time.Now())
	if w.agenda.left {
		w.agenda.left = false
		w.s.leftovers.left.Store(true)
	}
	w.mu.Unlock()
	notify(w.wake)
	return ok
}

// run looks at what is due until ctx ends, and waits for what it has begun.
func (w *sweeper) run(ctx context.Context) {
	slots := make(chan struct{}, maxSweeps)
	var g sync.WaitGroup
	defer g.Wait()
	timer := time.NewTimer(sweepLast)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		key, next, ok := w.agenda.pop(time.Now())
		w.mu.Unlock()
		if ok {
			g.Go(func() {
				w.look(ctx, key)
				<-slots
			})
			continue
		}
		<-slots
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// look sweeps one session, and forgets it once it is settled.
func (w *sweeper) look(ctx context.Context, key sessions.Key) {
	limited, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	settled, err := w.s.owner.Sweep(limited, key, stayer{s: w.s})
	if err != nil && ctx.Err() == nil {
		w.s.faults.note(ctx, err)
		w.s.log.LogAttrs(ctx, slog.LevelDebug, "session not settled, will try again",
			slog.String("session", key.Session), slog.String("error", err.Error()))
	}
	w.mu.Lock()
	w.agenda.done(key, settled, time.Now())
	w.mu.Unlock()
	notify(w.wake)
}

// wait waits, or fails with ctx's error.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// stayer leaves a session where it is.
type stayer struct{ s *Service }

var _ sessions.Stayer = stayer{}

// Stay implements sessions.Stayer.
func (y stayer) Stay(rec sessions.Record) sessions.Answer {
	return y.s.renewed(rec, time.Now())
}

// Sign implements sessions.Stayer.
func (y stayer) Sign(rec *sessions.Record) error {
	_, err := y.s.signRefresh(rec)
	return err
}
