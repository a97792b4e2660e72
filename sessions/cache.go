package sessions

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash/maphash"
	"sync"
)

// cacheShards is how many locks a Cache has: a power of two.
const cacheShards = 64

// Cache remembers records as this process last wrote them, so that a refresh by the current
// token needs neither a verification, for the record holds the token's hash, nor a read.
//
// A record that others have changed meanwhile does no harm: the write that follows is a
// compare-and-swap, which fails then, and all is judged again from the store. Nothing else than
// a rotation is done by a record from here. Whoever learns of a session in another way than
// from its record, as by another region's copy, has to tell Forget of it.
//
// A session is handed out to one refresh at a time; others of the same moment read the store.
// It is safe for concurrent use. The nil Cache remembers nothing.
type Cache struct {
	seed   maphash.Seed
	most   int // of each shard
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	// mu guards held: the Hold of each session that is remembered or being refreshed.
	mu   sync.Mutex
	held map[string]*Hold
}

// NewCache returns a cache of about that many sessions, each of which takes some 1.5 KB. Of
// those that are too many any may be forgotten: the client's next refresh costs a read, and an
// order of use would cost all of them more.
func NewCache(sessions int) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), most: max(1, sessions/cacheShards)}
	for i := range c.shards {
		c.shards[i].held = map[string]*Hold{}
	}
	return c
}

// Hold is a session's place in the cache while one refresh is under way.
type Hold struct {
	shard *cacheShard
	// session names it in the shard.
	session string
	// idle says that nobody holds it; the shard's mu guards it. The fields below are the
	// holder's, and nobody's to change while it is idle.
	idle bool
	rec  Record
	rev  Revision // 0: the record is not known
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
	hash := HashToken(token)
	s := c.shard(session)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[string(session)]
	if h == nil || !h.idle || subtle.ConstantTimeCompare([]byte(h.rec.Hash), []byte(hash)) != 1 {
		return nil
	}
	h.idle = false
	return h
}

// Record returns the record that is held; its maps and slices are for reading only.
func (h *Hold) Record() *Record { return &h.rec }

// HashToken returns what a record keeps of a refresh token: its SHA-256 in base64url.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	var text [43]byte
	base64.RawURLEncoding.Encode(text[:], sum[:])
	return string(text[:])
}

// hold makes room for a session whose record is about to be read. Whoever has held it before
// keeps nothing of it.
func (c *Cache) hold(key Key) *Hold {
	if c == nil {
		return nil
	}
	s := c.shard([]byte(key.Session))
	h := &Hold{shard: s, session: key.Session}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.held[key.Session]; !known && len(s.held) >= c.most {
		for any := range s.held {
			delete(s.held, any)
			break
		}
	}
	s.held[key.Session] = h
	return h
}

// Forget drops what is remembered of a session, also by the refresh that is under way.
func (c *Cache) Forget(key Key) {
	if c == nil {
		return
	}
	s := c.shard([]byte(key.Session))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, key.Session)
}

// take returns the record, once, and whether there is one.
func (h *Hold) take() (*Record, Revision, bool) {
	if h == nil || h.rev == 0 {
		return nil, 0, false
	}
	rev := h.rev
	h.rev = 0
	return &h.rec, rev, true
}

// keep remembers a record that was written, unless Forget was told of the session meanwhile. A
// zero revision is none.
func (h *Hold) keep(rec Record, rev Revision) {
	if h == nil || rev == 0 || rec.State != StateActive {
		return
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if h.shard.held[h.session] == h {
		h.rec, h.rev, h.idle = rec, rev, true
	}
}

// Release gives the session back. It is forgotten, unless it was refreshed meanwhile.
func (h *Hold) Release() {
	if h == nil {
		return
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	if !h.idle && h.shard.held[h.session] == h {
		delete(h.shard.held, h.session)
	}
}
