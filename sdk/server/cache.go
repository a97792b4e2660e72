package server

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// cacheWays is how many tokens share a set. Each token may be in either of two sets and goes
// where there is more room: with one set for each, so many sets overflow at one token in six
// that verifying the losers again costs as much as all hits together.
const cacheWays = 2

// cacheSet is a place for tokens of equal hash bits.
type cacheSet [cacheWays]atomic.Pointer[verified]

// verified is a token whose signature was good. It is immutable, and fills one cache line.
type verified struct {
	token string
	hash  uint64
	// generation is the generation of keys that it was verified with.
	generation uint64
	// until is when it is no longer accepted, in nanoseconds of the Unix clock.
	until   int64
	claims  *api.AccessClaims
	session *session
	// lock is the lock of the session under which the claims were accepted, nil if they were
	// not: while it is the session's lock, they need not be judged again.
	lock *lock
}

// tokenCache remembers verified tokens, so that a request costs a lookup instead of a
// signature check. It is of fixed size and takes no locks.
//
// Only the equality of all bytes, the signature's among them, admits a token; the hash picks
// its place and no more. The hash is seeded in each process, so nobody can prepare tokens
// that share a place, and only verified tokens are put in, so nobody else can flood it. A
// hit must still be checked against the clock, the generation of keys and the session's
// lock.
type tokenCache struct {
	seed maphash.Seed
	mask uint64
	sets []cacheSet
}

// newTokenCache returns a cache of at least so many places, rounded up to a power of two.
func newTokenCache(tokens int) *tokenCache {
	sets := max(1, (tokens+cacheWays-1)/cacheWays)
	sets = 1 << bits.Len(uint(sets-1))
	return &tokenCache{seed: maphash.MakeSeed(), mask: uint64(sets - 1), sets: make([]cacheSet, sets)}
}

// both returns the two sets of a hash.
func (c *tokenCache) both(hash uint64) [2]*cacheSet {
	return [2]*cacheSet{&c.sets[hash&c.mask], &c.sets[hash>>32&c.mask]}
}

// get returns what was put for exactly this token with this generation of keys, unless it has
// expired; nil if there is nothing.
func (c *tokenCache) get(token string, generation uint64, now time.Time) *verified {
	hash := maphash.String(c.seed, token)
	for _, set := range c.both(hash) {
		for i := range set {
			v := set[i].Load()
			// The hashes are compared first, so that equality of strings is not tested, and
			// cannot be timed, against tokens that merely begin alike.
			if v == nil || v.hash != hash || v.token != token {
				continue
			}
			if v.generation != generation || now.UnixNano() >= v.until {
				return nil
			}
			return v
		}
	}
	return nil
}

// put remembers a verified token, in the set with more room, in place of one that is of no
// more use or that expires first. It fills in hash and until.
func (c *tokenCache) put(v verified, now time.Time) {
	v.token = strings.Clone(v.token) // and not the request that it came in
	v.hash = maphash.String(c.seed, v.token)
	v.until = v.claims.Expiry().Add(api.Skew).UnixNano()
	both := c.both(v.hash)
	first, worst, free := both[0].place(&v, now)
	if other, until, room := both[1].place(&v, now); room > free || room == free && until < worst {
		first = other
	}
	first.Store(&v)
}

// place returns where v would go in the set: onto itself, to a free place, one of no more use,
// or that of the token which expires first; with when that expires and how much room there is.
func (s *cacheSet) place(v *verified, now time.Time) (at *atomic.Pointer[verified], until int64, room int) {
	until = math.MaxInt64
	for i := range s {
		o, end := s[i].Load(), int64(0)
		switch {
		case o == nil || o.generation != v.generation || o.until <= now.UnixNano():
			room++
		case o.hash == v.hash && o.token == v.token:
			return &s[i], math.MinInt64, cacheWays
		default:
			end = o.until
		}
		if end < until {
			at, until = &s[i], end
		}
	}
	return at, until, room
}

// clear drops everything.
func (c *tokenCache) clear() {
	for i := range c.sets {
		for j := range c.sets[i] {
			c.sets[i][j].Store(nil)
		}
	}
}
