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

// Cache remembers records as this process last wrote or read them. What it is certain of spares a
// refresh by the current token both the verification, for the record holds the token's hash, and
// the reading, of the store and of copies. Nothing else than a rotation is done by a record from
// here, and what it rests on is this:
//
//   - What others have written to the region's store meanwhile does no harm: the write that
//     follows is a compare-and-swap, which fails then, and all is judged again from the store.
//   - What other regions have written is no part of that. So the cache is certain of a record only
//     once this owner has written it as active, with the copies that had arrived folded in (V14);
//     each copy that arrives later makes Forget drop the session before anything else is done with
//     it; and while it is not certain that copies are heard of as they arrive, between Suspend and
//     Resume, it is certain of none.
//   - After a write whose outcome is unknown it is certain no more; one that lost to another drops
//     the session, and so does all that is no refresh: a handover, a takeover, a sweep, a yield,
//     the end.
//
// What it is no longer certain of is still good for an answer that changes nothing, while the
// store cannot be asked (V11).
//
// What is forgotten while a refresh is under way that refresh does not bring back.
//
// A session is handed out to one refresh at a time; others of the same moment read the store.
// It is safe for concurrent use. The nil Cache remembers nothing.
type Cache struct {
	seed   maphash.Seed
	most   int // of each shard
	shards [cacheShards]cacheShard
	// era changes with every Suspend and Resume; it is odd between the two. What was remembered in
	// another era than the present one is not certain.
	era atomic.Uint64
}

type cacheShard struct {
	// mu guards places: one for each session that is remembered or being refreshed.
	mu     sync.Mutex
	places map[string]*place
}

// place is a session's in the cache.
type place struct {
	session string
	// held says that a refresh is under way, doubted that the cache is not to be certain of what
	// comes of it, forgotten that it is not to know it at all. era is when the cache became certain
	// of the record, doubtful if it is not. The shard's mu guards these; the fields below are the
	// holder's, if there is one.
	held, doubted, forgotten bool
	era                      uint64
	hash                     [hashLength]byte
	data                     []byte // the record as Append writes it, empty if none is known
	rev                      Revision
	// written is the record that data was last made of, while it is held.
	written *Record
}

// doubtful is the era of what the cache is not certain of.
const doubtful = 0

// hashLength is that of HashToken.
const hashLength = 43

// Hold is a refresh's right to a session's place. It is used by one goroutine.
type Hold struct {
	shard *cacheShard
	place *place // nil: given back, or there never was one
	first *place // what place was
	era   uint64 // when it was handed out
	rec   *Record
	// seen is what the store last said, or the cache was certain of.
	seen *Record
}

// NewCache returns a cache of about that many sessions, each of which takes some 1.5 KB: they are
// kept as they are written to the store, for what has no pointers costs the garbage collector
// nothing, and that of 100 000 records with theirs would take more than reading them again. Of
// those that are too many any may be forgotten: the client's next refresh costs a read, and an
// order of use would cost all of them more.
func NewCache(sessions int) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), most: max(1, sessions/cacheShards)}
	c.era.Store(doubtful + 2)
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
	p, era := s.places[string(session)], c.era.Load()
	if p == nil || p.held || p.era != era || era%2 != 0 || !wanted(p) {
		s.mu.Unlock()
		return nil
	}
	p.held, p.doubted = true, false
	s.mu.Unlock()
	h := &Hold{shard: s, place: p, first: p, era: era}
	var err error
	if h.rec, err = DecodeRecord(p.data); err != nil { // it was written by Append
		h.drop()
		return nil
	}
	h.seen = h.rec
	return h
}

// hold makes room for a session whose record is about to be read. Whoever has held it before
// keeps nothing of it.
func (c *Cache) hold(key Key) *Hold {
	if c == nil {
		return &Hold{}
	}
	s, era := c.shard([]byte(key.Session)), c.era.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.places[key.Session]
	if p == nil && len(s.places) >= c.most {
		for any, evicted := range s.places {
			evicted.forgotten = true
			delete(s.places, any)
			break
		}
	}
	if p == nil || p.held {
		if p != nil {
			p.forgotten = true // or its holder would not hear of Forget
		}
		p = &place{session: strings.Clone(key.Session)} // not the whole record that it may be a part of
		s.places[p.session] = p
	}
	p.held, p.doubted, p.era = true, false, doubtful
	return &Hold{shard: s, place: p, first: p, era: era}
}

// Forget drops what is remembered of a session, also by the refresh that is under way.
func (c *Cache) Forget(key Key) {
	if c == nil {
		return
	}
	s := c.shard([]byte(key.Session))
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.places[key.Session]; p != nil {
		p.forgotten = true
		delete(s.places, key.Session)
	}
}

// doubt has the cache be certain of a session no more, also after the refresh that is under way.
func (c *Cache) doubt(key Key) {
	if c == nil {
		return
	}
	s := c.shard([]byte(key.Session))
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.places[key.Session]; p != nil {
		p.doubted, p.era = true, doubtful
	}
}

// Suspend has the cache be certain of nothing until Resume. What it knows it goes on knowing.
func (c *Cache) Suspend() {
	if c == nil {
		return
	}
	if era := c.era.Load(); era%2 == 0 {
		c.era.CompareAndSwap(era, era+1)
	}
}

// Resume ends what Suspend began: from now on all that changes a session is told to Forget. What
// happened before it may not have been, so nothing from before is known any more.
func (c *Cache) Resume() {
	if c == nil {
		return
	}
	era := c.era.Load()
	if era%2 == 0 || !c.era.CompareAndSwap(era, era+1) {
		return
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, p := range s.places {
			p.forgotten = true
		}
		clear(s.places)
		s.mu.Unlock()
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

// saw notes what the store says of the session.
func (h *Hold) saw(rec *Record) {
	if h != nil && rec != nil {
		h.seen = rec
	}
}

// last returns what was last known of the session, by this refresh or those before it; nil if
// nothing is.
func (h *Hold) last() *Record {
	switch {
	case h == nil || h.forgotten():
		return nil
	case h.seen != nil || h.place == nil || len(h.place.data) == 0:
		return h.seen
	}
	rec, err := DecodeRecord(h.place.data)
	if err != nil { // it was written by Append
		return nil
	}
	return rec
}

// forgotten reports whether Forget was told of the session since it was handed out.
func (h *Hold) forgotten() bool {
	if h.first == nil {
		return false
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	return h.first.forgotten
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
	p.rev = rev
	h.giveBack(h.era)
}

// Release gives the session back. Unless it was refreshed meanwhile the cache is not certain of
// it, and knows what stood in the store before.
func (h *Hold) Release() {
	if h == nil || h.place == nil {
		return
	}
	if h.seen != nil {
		if h.seen.State != StateActive {
			h.drop()
			return
		}
		if _, err := h.encode(h.seen); err != nil {
			h.drop()
			return
		}
	}
	if len(h.place.data) == 0 {
		h.drop()
		return
	}
	h.giveBack(doubtful)
}

// giveBack lets others have the session, of which the cache is certain since an era.
func (h *Hold) giveBack(era uint64) {
	p := h.place
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if p.doubted {
		era = doubtful
	}
	p.held, p.era, p.written, h.place = false, era, nil, nil
}

// drop gives the session back and forgets it: what was known of it is over.
func (h *Hold) drop() {
	if h == nil || h.place == nil {
		return
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if h.shard.places[h.place.session] == h.place {
		delete(h.shard.places, h.place.session)
	}
	h.place, h.seen = nil, nil
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
