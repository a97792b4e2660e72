package sessions

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// cacheShards is how many locks a Cache has: a power of two.
const cacheShards = 64

// Cache remembers records as this process last wrote them, so that a refresh by the current
// token needs neither a verification, for the record holds the token's hash, nor a read, of the
// store or of copies. Nothing else than a rotation is done by a record from here, and what it
// rests on is this:
//
//   - What others have written to the region's store meanwhile does no harm: the write that
//     follows is a compare-and-swap, which fails then, and all is judged again from the store.
//   - What other regions have written is no part of that. So a record is remembered only once
//     this owner has written it as active, with the copies that had arrived folded in (V14); each
//     copy that arrives later makes Forget drop the session before anything else is done with it;
//     and while it is not certain that copies are heard of as they arrive, between Suspend and
//     Resume, nothing is remembered.
//   - A write that lost to another or whose outcome is unknown drops the session, and so does all
//     that is no refresh: a handover, a takeover, a sweep, a yield, the end.
//
// What is forgotten while a refresh is under way that refresh does not bring back.
//
// A session is handed out to one refresh at a time; others of the same moment read the store.
// It is safe for concurrent use. The nil Cache remembers nothing.
type Cache struct {
	seed   maphash.Seed
	most   int // of each shard
	shards [cacheShards]cacheShard
	// suspended says that nothing is to be remembered.
	suspended atomic.Bool
}

type cacheShard struct {
	// mu guards places: one for each session that is remembered or being refreshed.
	mu     sync.Mutex
	places map[string]*place
}

// place is a session's in the cache.
type place struct {
	session string
	// held says that a refresh is under way; the shard's mu guards it. The fields below are the
	// holder's then, and nobody's to change otherwise.
	held bool
	hash [hashLength]byte
	data []byte // the record as Append writes it
	rev  Revision
	// written is the record that data was last made of, while it is held.
	written *Record
}

// hashLength is that of HashToken.
const hashLength = 43

// Hold is a refresh's right to a session's place. It is used by one goroutine.
type Hold struct {
	shard *cacheShard
	place *place // nil: given back
	rec   *Record
}

// NewCache returns a cache of about that many sessions, each of which takes some 1.5 KB: they are
// kept as they are written to the store, for what has no pointers costs the garbage collector
// nothing, and that of 100 000 records with theirs would take more than reading them again. Of
// those that are too many any may be forgotten: the client's next refresh costs a read, and an
// order of use would cost all of them more.
func NewCache(sessions int) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), most: max(1, sessions/cacheShards)}
	for i := range c.shards {
		c.shards[i].places = map[string]*place{}
	}
	return c
}

func (c *Cache) shard(session []byte) *cacheShard {
	return &c.shards[maphash.Bytes(c.seed, session)&(cacheShards-1)]
}

// Take hands out a session whose current refresh token is this one, nil if it is not known to
// be or another refresh has it. The session may be what the token claims: only if the whole
// token is the one that the record was written with, by its SHA-256, is it handed out. The
// Hold is given to Owner.Refresh, or released.
func (c *Cache) Take(session []byte, token string) *Hold {
	if c == nil {
		return nil
	}
	hash := hashToken(token)
	return c.take(session, func(p *place) bool { return subtle.ConstantTimeCompare(p.hash[:], hash[:]) == 1 })
}

// take hands out a session if it is known, nobody has it, and it is as wanted.
func (c *Cache) take(session []byte, wanted func(*place) bool) *Hold {
	s := c.shard(session)
	s.mu.Lock()
	p := s.places[string(session)]
	if p == nil || p.held || !wanted(p) {
		s.mu.Unlock()
		return nil
	}
	p.held = true
	s.mu.Unlock()
	h := &Hold{shard: s, place: p}
	var err error
	if h.rec, err = DecodeRecord(p.data); err != nil { // it was written by Append
		h.Release()
		return nil
	}
	return h
}

// hold makes room for a session whose record is about to be read. Whoever has held it before
// keeps nothing of it.
func (c *Cache) hold(key Key) *Hold {
	if c == nil {
		return nil
	}
	s := c.shard([]byte(key.Session))
	p := &place{session: strings.Clone(key.Session), held: true} // not the whole record that it may be a part of
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.suspended.Load() { // or Suspend comes after this, and takes the place away
		return nil
	}
	if _, known := s.places[key.Session]; !known && len(s.places) >= c.most {
		for any := range s.places {
			delete(s.places, any)
			break
		}
	}
	s.places[p.session] = p
	return &Hold{shard: s, place: p}
}

// Forget drops what is remembered of a session, also by the refresh that is under way.
func (c *Cache) Forget(key Key) {
	if c == nil {
		return
	}
	s := c.shard([]byte(key.Session))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, key.Session)
}

// Suspend drops all that is remembered, and nothing is until Resume.
func (c *Cache) Suspend() {
	if c == nil {
		return
	}
	c.suspended.Store(true)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.places)
		s.mu.Unlock()
	}
}

// Resume ends what Suspend began: from now on all that changes a session is told to Forget.
func (c *Cache) Resume() {
	if c != nil {
		c.suspended.Store(false)
	}
}

// Record returns the record that is held, nil if it is not known.
func (h *Hold) Record() *Record { return h.rec }

// take returns the record, once, and whether there is one.
func (h *Hold) take() (*Record, Revision, bool) {
	if h == nil || h.rec == nil || h.place == nil {
		return nil, 0, false
	}
	rec := h.rec
	h.rec = nil
	return rec, h.place.rev, true
}

// encode returns the record as Append writes it, in the session's place if there is one.
func (h *Hold) encode(rec *Record) ([]byte, error) {
	if h == nil || h.place == nil {
		return rec.Append(nil)
	}
	p := h.place
	p.written = nil
	var err error
	if p.data, err = rec.Append(p.data[:0]); err != nil {
		return nil, err
	}
	p.written = rec
	return p.data, nil
}

// keep remembers a record that was written, unless Forget was told of the session meanwhile,
// and gives the session back. A zero revision is none.
func (h *Hold) keep(rec *Record, rev Revision) {
	if h == nil || h.place == nil || rev == 0 || rec.State != StateActive {
		return
	}
	p := h.place
	if p.written != rec { // or else it is there already
		if _, err := h.encode(rec); err != nil {
			return
		}
	}
	if copy(p.hash[:], rec.Hash) != hashLength {
		return
	}
	p.rev, p.written = rev, nil
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	p.held, h.place = false, nil
}

// Release gives the session back. It is forgotten, unless it was refreshed meanwhile.
func (h *Hold) Release() {
	if h == nil || h.place == nil {
		return
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if h.shard.places[h.place.session] == h.place {
		delete(h.shard.places, h.place.session)
	}
	h.place = nil
}

// HashToken returns what a record keeps of a refresh token: its SHA-256 in base64url.
func HashToken(token string) string {
	hash := hashToken(token)
	return string(hash[:])
}

func hashToken(token string) (hash [hashLength]byte) {
	var room [1024]byte // enough for most, without an allocation
	sum := sha256.Sum256(append(room[:0], token...))
	base64.RawURLEncoding.Encode(hash[:], sum[:])
	return hash
}
