package tokens

import (
	"context"
	"fmt"
	"hash/maphash"

	"github.com/berthhq/berth/events"
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
	seed, lately := maphash.MakeSeed(), recent{most: maxRecent}
	arrived := func(key sessions.Key, region string, rec sessions.Record) {
		s.cache.Forget(key)
		if concerns(&rec) && lately.add(maphash.Comparable(seed, news{key, region, rec.Epoch, rec.State})) {
			s.sweeper.add(key) // where there is no room a search finds it
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

// news is what a copy says that may leave something to do: how a region stands to a session.
type news struct {
	key    sessions.Key
	region string
	epoch  events.Epoch
	state  sessions.State
}

// maxRecent bounds the news that are remembered, of some 20 B each: a session that was taken over is not looked at
// again with each refresh until it ends.
const maxRecent = 1 << 18

// recent remembers what it was told lately: all of the last half of most, and at most that many.
type recent struct {
	most       int
	young, old map[uint64]struct{}
}

// add reports whether it was not told that lately.
func (r *recent) add(hash uint64) bool {
	if _, known := r.young[hash]; known {
		return false
	}
	if r.young == nil || len(r.young) >= r.most/2 {
		r.young, r.old = make(map[uint64]struct{}), r.young
	}
	r.young[hash] = struct{}{}
	_, known := r.old[hash]
	return !known
}

// notify leaves a token for whoever waits, once for any number of calls.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
