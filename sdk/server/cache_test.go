package server

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

var cacheNow = time.Unix(1_800_000_000, 0)

func entry(token string, generation uint64, exp time.Time) verified {
	return verified{token: token, generation: generation, claims: &api.AccessClaims{SessionClaims: api.SessionClaims{ExpiresAt: exp.Unix()}}, session: &session{}}
}

func TestCacheHitsOnlyTheWholeToken(t *testing.T) {
	c := newTokenCache(64)
	c.put(entry("header.payload.signature", 1, cacheNow.Add(time.Minute)), cacheNow)
	if c.get("header.payload.signature", 1, cacheNow) == nil {
		t.Fatal("the token itself is no hit")
	}
	for _, other := range []string{
		"", "header.payload", "header.payload.signaturf", "header.payload.signature ", "header.pAyload.signature", "Header.payload.signature",
	} {
		if c.get(other, 1, cacheNow) != nil {
			t.Errorf("%q is a hit", other)
		}
	}
}

// TestCacheComparesBytesNotHashes gives an entry the hash of another token, as if the two
// collided.
func TestCacheComparesBytesNotHashes(t *testing.T) {
	c := newTokenCache(64)
	c.put(entry("good", 1, cacheNow.Add(time.Minute)), cacheNow)
	good := *c.get("good", 1, cacheNow)
	c.put(entry("evil", 1, cacheNow.Add(time.Minute)), cacheNow)
	evil := c.get("evil", 1, cacheNow)
	c.clear()
	good.hash = evil.hash
	c.sets[evil.hash&c.mask][0].Store(&good)
	if c.get("evil", 1, cacheNow) != nil {
		t.Error("equal hashes admit another token")
	}
}

func TestCacheForgets(t *testing.T) {
	exp := cacheNow.Add(time.Minute)
	c := newTokenCache(64)
	c.put(entry("token", 1, exp), cacheNow)
	if last := exp.Add(api.Skew); c.get("token", 1, last.Add(-time.Nanosecond)) == nil || c.get("token", 1, last) != nil {
		t.Error("a hit must last until exp and skew, no longer")
	}
	if c.get("token", 2, cacheNow) != nil {
		t.Error("a hit under another generation of keys")
	}
	c.clear()
	if c.get("token", 1, cacheNow) != nil {
		t.Error("a hit after clear")
	}
}

func TestCacheReplacesWhatExpiresFirst(t *testing.T) {
	c := newTokenCache(cacheWays) // both sets of every token are the same
	if len(c.sets) != 1 {
		t.Fatalf("%d sets, want 1", len(c.sets))
	}
	name := func(i int) string { return fmt.Sprintf("token-%d", i) }
	for i := range cacheWays {
		c.put(entry(name(i), 1, cacheNow.Add(time.Duration(10+i)*time.Minute)), cacheNow)
	}
	c.put(entry("newest", 1, cacheNow.Add(time.Hour)), cacheNow)
	for i := range cacheWays {
		if hit := c.get(name(i), 1, cacheNow) != nil; hit != (i > 0) {
			t.Errorf("%s: hit %v", name(i), hit)
		}
	}
	// Of an old generation is worse than soon to expire.
	c.clear()
	c.put(entry("old keys", 1, cacheNow.Add(time.Hour)), cacheNow)
	for i := range cacheWays {
		c.put(entry(name(i), 2, cacheNow.Add(time.Duration(10+i)*time.Minute)), cacheNow)
	}
	for i := range cacheWays {
		if c.get(name(i), 2, cacheNow) == nil {
			t.Errorf("%s gave way to a token of old keys", name(i))
		}
	}
}

func TestCacheSize(t *testing.T) {
	for _, test := range []struct{ tokens, places int }{{1, 2}, {2, 2}, {4, 4}, {5, 8}, {8, 8}, {9, 16}, {8192, 8192}, {65_536, 65_536}, {100_000, 131_072}} {
		if got := len(newTokenCache(test.tokens).sets) * cacheWays; got != test.places {
			t.Errorf("newTokenCache(%d) has %d places, want %d", test.tokens, got, test.places)
		}
	}
}

// TestCacheHoldsWhatItIsMadeFor fills a sixth of the places, as a server with the default
// size at full capacity does: next to nothing may be lost.
func TestCacheHoldsWhatItIsMadeFor(t *testing.T) {
	c := newTokenCache(65_536)
	const n = 10_000
	name := func(i int) string { return fmt.Sprintf("token-%d", i) }
	for i := range n {
		c.put(entry(name(i), 1, cacheNow.Add(time.Minute)), cacheNow)
	}
	lost := 0
	for i := range n {
		if c.get(name(i), 1, cacheNow) == nil {
			lost++
		}
	}
	if lost > n/500 {
		t.Errorf("%d of %d tokens lost", lost, n)
	}
}

func TestCacheIsSafeForConcurrentUse(t *testing.T) {
	c := newTokenCache(16) // so small that everybody meets
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				token := fmt.Sprintf("token-%d", (g+i)%40)
				if v := c.get(token, 1, cacheNow); v == nil {
					c.put(entry(token, 1, cacheNow.Add(time.Minute)), cacheNow)
				} else if v.token != token {
					t.Errorf("asked for %s, got %s", token, v.token)
				}
				if i%500 == 0 {
					c.clear()
				}
			}
		})
	}
	wg.Wait()
}
