package tokens

import (
	"context"
	"fmt"

	"github.com/berthhq/berth/sessions"
)

// followCopies has a remembered session forgotten as soon as a copy of it arrives; while copies
// may come too late, none is remembered. Those copies are folded at once for which nobody may ask
// soon: of a session that was taken over, here or elsewhere, whose old server has to hear of it,
// that was handed over, or that was revoked elsewhere.
func (s *Service) followCopies(ctx context.Context) error {
	if s.cfg.Arrivals == nil {
		notify(s.leftovers.due)
		return nil
	}
	arrived := func(key sessions.Key, _ string, rec sessions.Record) {
		s.cache.Forget(key)
		if concerns(&rec) {
			s.sweeper.add(key)
		}
	}
	began := false
	reading := func(on, gap bool) {
		if !on || gap {
			s.cache.Suspend()
		}
		if on {
			s.cache.Resume()
		}
		if gap || on && !began {
			began = true
			notify(s.leftovers.due)
		}
	}
	defer s.cache.Suspend()
	if err := s.cfg.Arrivals.Follow(ctx, arrived, reading); err != nil && ctx.Err() == nil {
		return fmt.Errorf("follow copies: %w", err)
	}
	return nil
}

// notify leaves a token for whoever waits, once for any number of calls.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
