package server

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// floorLife is how long a released lock or a revocation is remembered, and how far back they
// are read at the start: the longest life of an access token, 60 s more for one that was
// given while the store had no leader, and the skew that its verification allows. After that
// no token remains to be refused.
const floorLife = maxAccessTTL + 60*time.Second + api.Skew

// Layout of a sessionTable.
const (
	sessionShards = 64
	// sweepBudget is how many sessions one sweep looks at, about 1 ms.
	sweepBudget = 16_384
	// evictionSample is how many sessions are compared to find one to forget early.
	evictionSample = 16
)

// lock is what is known of where a session is locked. It is immutable.
type lock struct {
	// floor is the lowest epoch that may be served: the highest seen in a token or in the
	// release of a lock.
	floor events.Epoch
	// home is where the session is at that epoch; empty if nobody said.
	home api.Server
	// revoked is for good.
	revoked bool
}

// judge returns nil if the server may serve the claims, else why not.
func (l *lock) judge(c *api.AccessClaims, server string) *api.Error {
	switch {
	case l.revoked:
		return &api.Error{Code: api.CodeSessionRevoked}
	case epochOf(c).Compare(l.floor) < 0:
		return elsewhere(l.home)
	case c.ServerID != server:
		return elsewhere(homeOf(c))
	}
	return nil
}

func elsewhere(home api.Server) *api.Error {
	err := &api.Error{Code: api.CodeLockedElsewhere, Detail: "refresh the session, then use the server that it names"}
	if home.ID != "" {
		err.Server = &home
	}
	return err
}

func epochOf(c *api.AccessClaims) events.Epoch {
	return events.Epoch{Number: c.Epoch, Region: c.EpochRegion}
}

func homeOf(c *api.AccessClaims) api.Server {
	return api.Server{ID: c.ServerID, Region: c.Region, URL: c.ServerURL}
}

// session is one session that was seen here or of which was heard.
type session struct {
	// lock is nil once the session is forgotten: who still holds it must look it up again.
	lock atomic.Pointer[lock]
	// seen is the second of the Unix clock when a request of it was last served here.
	seen atomic.Int64
	// until is when it may be forgotten; heard says that more than a token told of it. Both
	// are guarded by the shard.
	until time.Time
	heard bool
}

// touch notes a served request. It writes at most once a second, so that the busy sessions'
// cache lines stay shared.
func (s *session) touch(now time.Time) {
	if second := now.Unix(); s.seen.Load() != second {
		s.seen.Store(second)
	}
}

// sessionTable remembers the floor of every session, and which sessions have ended, for as
// long as a token below it, or of it, could still be valid. The floor is the maximum of all that was heard, so that loss, repetition
// and disorder of events only delay it. It holds at most so many sessions; when there are
// more, one of which only tokens told goes first. Sessions that have ended do not count
// among them: what ends many at once, in any region, crowds out no floor.
type sessionTable struct {
	seed   maphash.Seed
	limit  int
	shards [sessionShards]shard
	// cursor is where the next sweep begins; it belongs to the one who sweeps.
	cursor int
	// evicted counts the sessions of which was heard, and the revocations, that went early.
	evicted atomic.Uint64
}

type shard struct {
	// mu guards known, and until and heard of its sessions, and ended; it orders the changes of
	// the sessions' locks.
	mu    sync.Mutex
	known map[string]*session
	// ended are the revoked sessions.
	ended revocations
	// locked is how many of them the last sweep counted as locked here.
	locked int
}

func newSessionTable(limit int) *sessionTable {
	t := &sessionTable{seed: maphash.MakeSeed(), limit: max(1, limit/sessionShards)}
	for i := range t.shards {
		t.shards[i].known = make(map[string]*session)
		t.shards[i].ended = make(revocations)
	}
	return t
}

func (t *sessionTable) shard(id string) *shard {
	return &t.shards[maphash.String(t.seed, id)%sessionShards]
}

// observe notes a verified token and returns its session with the lock as known now.
func (t *sessionTable) observe(c *api.AccessClaims, now time.Time) (*session, *lock) {
	return t.raise(c.SessionID, lock{floor: epochOf(c), home: homeOf(c)}, false, c.Expiry().Add(api.Skew), now)
}

// release notes that the session's epochs below e.Epoch are void here.
func (t *sessionTable) release(e *events.LockReleased, now time.Time) {
	home := api.Server{ID: e.To.Server, Region: e.To.Region, URL: e.To.URL}
	t.raise(e.Session, lock{floor: e.Epoch, home: home}, true, now.Add(floorLife), now)
}

// raise merges what was heard into the session's lock: the higher floor with its home, and
// revoked if either is.
func (t *sessionTable) raise(id string, l lock, heard bool, until, now time.Time) (*session, *lock) {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s, ok := sh.known[id]
	if !ok {
		t.makeRoom(sh, now)
		s = &session{}
		sh.known[id] = s
	}
	l.revoked = sh.ended.has(id)
	old := s.lock.Load()
	if old != nil {
		if c := l.floor.Compare(old.floor); c < 0 || c == 0 && old.home.ID != "" {
			l.floor, l.home = old.floor, old.home
		}
		l.revoked = l.revoked || old.revoked
	}
	if old == nil || l != *old {
		old = &l
		s.lock.Store(old)
	}
	s.heard = s.heard || heard
	if until.After(s.until) {
		s.until = until
	}
	return s, old
}

// floor returns the lowest epoch that may be served of a session; the zero epoch if nothing
// is known of it.
func (t *sessionTable) floor(id string) events.Epoch {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s, ok := sh.known[id]; ok {
		return s.lock.Load().floor
	}
	return events.Epoch{}
}

// judge returns nil if a server may serve the claims by what is known of their session now, else why
// not.
func (t *sessionTable) judge(c *api.AccessClaims, server string) *api.Error {
	sh := t.shard(c.SessionID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.ended.has(c.SessionID) {
		return &api.Error{Code: api.CodeSessionRevoked}
	}
	if s, ok := sh.known[c.SessionID]; ok {
		return s.lock.Load().judge(c, server)
	}
	return nil
}

// makeRoom forgets one session of a full shard. The caller holds the shard's mu.
func (t *sessionTable) makeRoom(sh *shard, now time.Time) {
	if len(sh.known) < t.limit {
		return
	}
	var victim string
	var worst *session
	looked := 0
	for id, s := range sh.known { // in no order, so each time another sample
		if worst == nil || s.before(worst, now) {
			victim, worst = id, s
		}
		if looked++; looked == evictionSample {
			break
		}
	}
	if worst.heard && worst.until.After(now) {
		t.evicted.Add(1)
	}
	worst.lock.Store(nil)
	delete(sh.known, victim)
}

// before reports whether s is the better one to forget.
func (s *session) before(o *session, now time.Time) bool {
	if over := !s.until.After(now); over != !o.until.After(now) {
		return over
	}
	if s.heard != o.heard {
		return !s.heard
	}
	return s.until.Before(o.until)
}

// sweep forgets what has had its time and returns how many sessions are locked here: of this
// server by the last that was heard, not revoked, and served since the given time. A large
// table is swept in turns, so the count of a part of it is a few seconds old.
func (t *sessionTable) sweep(server string, since, now time.Time) int {
	for looked, turns := 0, 0; turns < sessionShards && looked < sweepBudget; turns++ {
		sh := &t.shards[t.cursor]
		t.cursor = (t.cursor + 1) % sessionShards
		looked += sh.sweep(server, since.Unix(), now)
	}
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += t.shards[i].locked
		t.shards[i].mu.Unlock()
	}
	return n
}

// sweep does one shard and returns how many sessions it looked at.
func (sh *shard) sweep(server string, since int64, now time.Time) int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	looked := len(sh.known) + len(sh.ended)
	sh.locked = 0
	sh.ended.sweep(now)
	for id, s := range sh.known {
		l := s.lock.Load()
		switch {
		case !s.until.After(now):
			s.lock.Store(nil)
			delete(sh.known, id)
		case s.seen.Load() >= since && l.home.ID == server && !l.revoked:
			sh.locked++
		}
	}
	return looked
}
