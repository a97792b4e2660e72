package tokens

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/sessions"
)

// followCopies has a remembered session forgotten as soon as a copy of it arrives; while copies
// may come too late, none is remembered. Those copies are folded at once for which nobody may ask
// soon: of a session that was taken from this region, whose old server has to hear of it, that was
// handed over to it, or that was revoked elsewhere.
func (s *Service) followCopies(ctx context.Context) error {
	if s.cfg.Arrivals == nil {
		return nil
	}
	missed := make(chan struct{}, 1)
	arrived := func(key sessions.Key, _ string, rec sessions.Record) {
		s.cache.Forget(key)
		if s.concerns(rec) {
			s.sweeper.add(key)
		}
	}
	reading := func(on, gap bool) {
		if !on || gap {
			s.cache.Suspend()
		}
		if on {
			s.cache.Resume()
		}
		if gap {
			notify(missed)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-missed:
			}
			if err := s.cfg.Arrivals.All(ctx, arrived); err != nil && ctx.Err() == nil {
				s.log.LogAttrs(ctx, slog.LevelWarn, "copies of sessions not read, will try again", slog.String("error", err.Error()))
				_ = wait(ctx, hearRetry)
				notify(missed)
			}
		}
	})
	g.Go(func() error {
		defer s.cache.Suspend()
		if err := s.cfg.Arrivals.Follow(ctx, arrived, reading); err != nil && ctx.Err() == nil {
			return fmt.Errorf("follow copies: %w", err)
		}
		return nil
	})
	return g.Wait()
}

// notify leaves a token for whoever waits, once for any number of calls.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// concerns reports whether another region's record changes what this one has to do.
func (s *Service) concerns(rec sessions.Record) bool {
	switch rec.State {
	case sessions.StateRevoked:
		return true
	case sessions.StateMoved:
		return rec.Epoch.Region == s.cfg.Region
	case sessions.StateActive:
		for _, t := range rec.Taken {
			if t.Epoch.Region == s.cfg.Region {
				return true
			}
		}
	case sessions.StateMoving, sessions.StatePrepared:
	}
	return false
}
