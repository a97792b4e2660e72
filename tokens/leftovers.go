package tokens

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// Bounds of the search for what is unsettled.
const (
	// tellMoved is for how long after a handover its new owner is told of it again by services that
	// start. A service that lives on does so until the new owner shows that it goes on. After an
	// hour nothing hangs on it: a new owner that has prepared the session asks for itself, each
	// sweepLast, also after a start of its own, and takes the old one's copy for an answer, too; one
	// that has lost what it prepared goes on by that copy. Records stay moved for up to 30 days, and
	// of most the new owner has been heard long ago.
	tellMoved = time.Hour
	// readBatch records are read between two pauses of readPause: a million take half a minute.
	readBatch = 1024
	readPause = 25 * time.Millisecond
	// searchAgain is how often the search is repeated while there was no room for all that it found.
	searchAgain = 10 * time.Minute
	// maxSaid bounds the sessions of which copies are noted, of some 20 B each.
	maxSaid = 1 << 21
)

// leftovers finds sessions that are not settled though nobody has told this service of them: what
// a former life of it, or another service, has left, and what copies say that came unheard. It
// reads the copies and the region's records once, one after the other, not each session by itself.
type leftovers struct {
	s *Service
	// due holds a token while there is something to search for.
	due chan struct{}
	// left says that there was no room for some.
	left atomic.Bool
}

func newLeftovers(s *Service) *leftovers {
	return &leftovers{s: s, due: make(chan struct{}, 1)}
}

// run searches whenever it is due until ctx ends.
func (l *leftovers) run(ctx context.Context) {
	tick := time.NewTicker(searchAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.due:
		case <-tick.C:
			if !l.left.Swap(false) {
				continue
			}
		}
		if err := l.search(ctx); err != nil && ctx.Err() == nil {
			l.s.log.LogAttrs(ctx, slog.LevelWarn, "unsettled sessions are not found, will try again", slog.String("error", err.Error()))
			_ = wait(ctx, hearRetry)
			notify(l.due)
		}
	}
}

// search has the sweeper look at all that may be unsettled.
func (l *leftovers) search(ctx context.Context) error {
	said := newSaid(l.s.cfg.Region, l.s.edge)
	if l.s.cfg.Arrivals != nil {
		if err := l.s.cfg.Arrivals.All(ctx, func(key sessions.Key, region string, rec sessions.Record) {
			l.s.cache.Forget(key)
			said.note(key, region, &rec)
		}); err != nil {
			return err
		}
		if said.missed > 0 {
			l.s.log.LogAttrs(ctx, slog.LevelWarn, "more copies than are looked at: sessions of theirs wait for their clients",
				slog.Int("missed", said.missed), slog.Int("at_most", maxSaid))
		}
	}
	for from, read := uint64(0), 0; ; {
		full := uint64(0) // the record for which there was no room
		next, err := l.s.cfg.Ledger.Scan(ctx, AllJurisdictions, from, func(e Entry) bool {
			if read++; read%readBatch == 0 && wait(ctx, readPause) != nil {
				return false
			}
			if !l.take(&e, said, time.Now()) {
				full = e.At
			}
			return full == 0
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case full != 0:
			if err := wait(ctx, hearRetry); err != nil {
				return err
			}
			from = full
		case next == 0:
			return nil
		default:
			from = next
		}
	}
}

// take has the sweeper look at a record if it may be unsettled. False: there is no room for it.
func (l *leftovers) take(e *Entry, said *said, now time.Time) bool {
	rec := &e.Record
	switch {
	case rec.Version > sessions.RecordVersion:
		l.s.faults.note(context.Background(), fmt.Errorf("session %s: %w: %d, this build knows up to %d",
			rec.Session, sessions.ErrNewer, rec.Version, sessions.RecordVersion))
	case e.Fault != nil, rec.State == sessions.StateRevoked:
		return true
	case rec.State == sessions.StateMoving, rec.State == sessions.StatePrepared, said.outranks(rec):
		return l.s.sweeper.add(rec.Key())
	case rec.State == sessions.StateMoved && now.Sub(e.Written) < tellMoved, rec.State == sessions.StateActive && said.unheard(rec):
		l.s.sweeper.addPatient(rec.Key())
	}
	return true
}

// said is what copies say that may change what the own region has to do, by region and by the hash
// of the session: two of one hash cost a look too many.
type said struct {
	own     string
	edge    func(region string) bool
	seed    maphash.Seed
	regions []string
	of      map[string]map[uint64]word
	// n is how many copies are noted, missed how many there was no room for.
	n, missed int
}

// word is an epoch that a copy tells of: its number, and below that the place of its region.
type word uint64

// regionBits is how much of a word its region takes.
const regionBits = 12

// ended is the word of a session that was revoked: above every epoch.
const ended word = math.MaxUint64

func newSaid(own string, edge func(region string) bool) *said {
	return &said{own: own, edge: edge, seed: maphash.MakeSeed(), of: map[string]map[uint64]word{}}
}

// note takes a copy.
func (s *said) note(key sessions.Key, region string, rec *sessions.Record) {
	if !concerns(rec) {
		return
	}
	if s.n >= maxSaid {
		s.missed++
		return
	}
	w := ended
	if rec.State != sessions.StateRevoked {
		w = s.word(rec.Epoch)
	}
	if s.of[region] == nil {
		s.of[region] = map[uint64]word{}
	}
	s.of[region][maphash.Comparable(s.seed, key)] = w
	s.n++
}

// word returns that of an epoch. Of a region too many it is above every epoch.
func (s *said) word(e events.Epoch) word {
	at := slices.Index(s.regions, e.Region)
	if at < 0 {
		at = len(s.regions)
		if at >= 1<<regionBits {
			return ended
		}
		s.regions = append(s.regions, e.Region)
	}
	return word(e.Number<<regionBits) | word(at)
}

// epoch returns that of a word which is not ended.
func (s *said) epoch(w word) events.Epoch {
	return events.Epoch{Number: uint64(w >> regionBits), Region: s.regions[w&(1<<regionBits-1)]}
}

// outranks reports whether a copy is above the own record, or ends the session.
func (s *said) outranks(rec *sessions.Record) bool {
	hash := maphash.Comparable(s.seed, rec.Key())
	for _, words := range s.of {
		if w, ok := words[hash]; ok && (w == ended || s.epoch(w).Compare(rec.Epoch) > 0) {
			return true
		}
	}
	return false
}

// unheard reports whether a session was taken from a region that does not say, by its copy, that
// it knows.
func (s *said) unheard(rec *sessions.Record) bool {
	hash := maphash.Comparable(s.seed, rec.Key())
	for _, t := range rec.Taken {
		if t.Epoch.Region == s.own || !s.edge(t.Epoch.Region) {
			continue
		}
		w, ok := s.of[t.Epoch.Region][hash]
		if !ok || w != ended && (s.epoch(w).Region == t.Epoch.Region || s.epoch(w).Compare(t.Epoch) <= 0) {
			return true
		}
	}
	return false
}

// concerns reports whether another region's record may change what this one has to do. A session
// that some region took over, or has given up, this one may have taken over too: without a look
// both would own it until a client comes by.
func concerns(rec *sessions.Record) bool {
	switch rec.State {
	case sessions.StateRevoked, sessions.StateMoved:
		return true
	case sessions.StateActive:
		return len(rec.Taken) > 0
	case sessions.StateMoving, sessions.StatePrepared:
	}
	return false
}
