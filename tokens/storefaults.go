package tokens

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/sessions"
)

// storeFaultEvery is how often it is said that the store of sessions cannot be used, for one reason.
const storeFaultEvery = time.Minute

// storeFaults tells operators why the store of sessions cannot be used, where that does not pass by
// itself. Clients are told to try again: no session ends by it.
type storeFaults struct {
	log    *slog.Logger
	counts *prometheus.CounterVec

	// mu guards when each reason was told of last.
	mu   sync.Mutex
	told map[string]time.Time
}

func newStoreFaults(log *slog.Logger, reg prometheus.Registerer) *storeFaults {
	f := &storeFaults{log: log, told: map[string]time.Time{}, counts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_session_store_faults_total", Help: "Reads and writes of sessions that could not be done until somebody helps, by reason.",
	}, []string{"reason"})}
	if reg != nil {
		reg.MustRegister(f.counts)
	}
	return f
}

// note takes an error of the store. What passes by itself is not told of.
func (f *storeFaults) note(ctx context.Context, err error) {
	var reason, help string
	switch {
	case errors.Is(err, sessions.ErrFull):
		reason, help = "full", "make room on the disk, or raise the limit of the NATS account or of bucket berth_sessions; no session is lost by it"
	case errors.Is(err, sessions.ErrGone):
		reason, help = "gone", "start a token service, which makes bucket berth_sessions anew: sessions go on by their tokens then, those that were revoked, too"
	case errors.Is(err, sessions.ErrNewer):
		reason, help = "newer_version", "update this token service: a newer build has written the record"
	default:
		return
	}
	f.counts.WithLabelValues(reason).Inc()
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.told[reason]) >= storeFaultEvery {
		f.told[reason] = now
		f.log.LogAttrs(ctx, slog.LevelError, "sessions cannot be read or written: clients go on unrotated, or are told to try again",
			slog.String("reason", reason), slog.String("help", help), slog.String("error", err.Error()))
	}
}
