package tokens

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/sessions"
)

// followCopies has whatever a copy says of a session forgotten that is remembered, before anything
// else; while it may hear of copies too late, none is remembered. It folds those arriving copies at
// once for which nobody may ask soon: a session that was taken over, here or elsewhere, whose old
// server has to hear of it; one that was handed over; one that was revoked elsewhere.
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

// concerns reports whether another region's record may change what this one has to do. A session
// that some region took over, or has given up, this one may have taken over too: without a look
// both would own it until a client comes by.
func (s *Service) concerns(rec sessions.Record) bool {
	switch rec.State {
	case sessions.StateRevoked, sessions.StateMoved:
		return true
	case sessions.StateActive:
		return len(rec.Taken) > 0
	case sessions.StateMoving, sessions.StatePrepared:
	}
	return false
}
