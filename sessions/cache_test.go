package sessions_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// cached is a session in an owner's cache, over a store whose reads are counted.
type cached struct {
	t     *testing.T
	store *counted
	cache *sessions.Cache
	owner *sessions.Owner
	now   time.Time
	ops   atomic.Int64
	// during is called while the record is being written, copies for what has arrived of others.
	during func()
	copies func() []sessions.Copy
}

// Copies implements sessions.Copies.
func (c *cached) Copies(context.Context, sessions.Key) ([]sessions.Copy, error) {
	if c.copies == nil {
		return nil, nil
	}
	return c.copies(), nil
}

// counted is a store that counts its reads.
type counted struct {
	*memory
	gets atomic.Int64
}

func (c *counted) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	c.gets.Add(1)
	return c.memory.Get(ctx, key)
}

func newCached(t *testing.T, store *memory, size int) *cached {
	t.Helper()
	c := &cached{t: t, store: &counted{memory: store}, cache: sessions.NewCache(size), now: noon}
	var err error
	c.owner, err = sessions.NewOwner(sessions.Config{
		Region: region, Store: c.store, Cache: c.cache, Copies: c, Now: func() time.Time { return c.now },
		NewOp: func() string { return fmt.Sprint(c.ops.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The cached session signs tokens that are texts.

func text(s sessions.Stamp) string { return "token " + s.String() }

func (c *cached) Dead(context.Context, sessions.Record) (bool, error) { return false, nil }

func (c *cached) Answer(_ context.Context, rec sessions.Record, _ sessions.Judgement) (sessions.Answer, error) {
	return sessions.Answer{Server: rec.Server}, nil
}

func (c *cached) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

func (c *cached) Sign(rec *sessions.Record) error {
	rec.Hash = sessions.HashToken(text(rec.Current()))
	return nil
}

func (c *cached) Meanwhile(*sessions.Record) {
	if c.during != nil {
		c.during()
	}
}

// create starts a session.
func (c *cached) create(session string) {
	c.t.Helper()
	rec := sessions.Start(sessions.Record{Session: session, Jurisdiction: key.Jurisdiction, ExpiresAt: noon.Add(time.Hour)}, region, sessions.Answer{Server: "a"}, "login", c.now)
	rec.Hash = sessions.HashToken(text(rec.Current()))
	if err := c.owner.Create(c.t.Context(), rec); err != nil {
		c.t.Fatal(err)
	}
}

// refresh redeems a token of a session, and reports whether the cache knew it.
func (c *cached) refresh(session string, token sessions.Stamp) (out sessions.Outcome, known bool) {
	c.t.Helper()
	req := sessions.Request{Key: sessions.Key{Jurisdiction: key.Jurisdiction, Session: session}, Token: token}
	if held := c.cache.Take([]byte(session), text(token)); held != nil {
		known = true
		req.Held, req.Key, req.Token = held, held.Record().Key(), held.Record().Current()
	}
	out, err := c.owner.Refresh(c.t.Context(), req, c)
	if err != nil {
		c.t.Fatal(err)
	}
	return out, known
}

// want refreshes, and fails the test unless the cache knew the token or not, the store was read
// or not, and the verdict is this one.
func (c *cached) want(session string, token sessions.Stamp, known bool, reads int, v sessions.Verdict) sessions.Stamp {
	c.t.Helper()
	before := c.store.gets.Load()
	out, was := c.refresh(session, token)
	read := int(c.store.gets.Load() - before)
	if was != known || read != reads || out.Judgement.Verdict != v {
		c.t.Fatalf("%s: known %t, %d reads, %s; want %t, %d, %s", token, was, read, out.Judgement.Verdict, known, reads, v)
	}
	return out.Record.Current()
}

// TestCacheSparesReads: a session that this process has written is refreshed without a read;
// any other token than the current one costs one, and a repeat is answered by the store.
func TestCacheSparesReads(t *testing.T) {
	c := newCached(t, newMemory(), 1000)
	c.create("a")
	second := c.want("a", at(1, 1), true, 0, sessions.Rotate)
	third := c.want("a", second, true, 0, sessions.Rotate)
	c.want("a", second, false, 1, sessions.Replay)
	c.want("a", third, false, 1, sessions.Rotate) // the replay took the place of what was known
	c.want("a", at(1, 1), false, 1, sessions.Superseded)
	c.now = c.now.Add(time.Minute)
	c.want("a", at(1, 1), false, 1, sessions.Reused)
	c.want("a", at(1, 4), false, 1, sessions.Ended)
}

// TestCacheWantsTheWholeToken: neither a part of it, nor more, nor another session's will do.
func TestCacheWantsTheWholeToken(t *testing.T) {
	c := newCached(t, newMemory(), 1000)
	c.create("a")
	c.create("b")
	token := text(at(1, 1))
	for _, wrong := range []string{"", token[:len(token)-1], token + " ", "x" + token[1:], text(at(1, 2)), sessions.HashToken(token)} {
		if c.cache.Take([]byte("a"), wrong) != nil {
			t.Errorf("%q was taken for %q", wrong, token)
		}
	}
	for _, unknown := range []string{"", "c", "a."} {
		if c.cache.Take([]byte(unknown), token) != nil {
			t.Errorf("session %q is known", unknown)
		}
	}
	first := c.cache.Take([]byte("a"), token)
	if first == nil || first.Record().Session != "a" {
		t.Fatal("the right token was refused")
	}
	if c.cache.Take([]byte("a"), token) != nil {
		t.Error("a session was handed out twice")
	}
	first.Release()
	c.want("a", at(1, 1), false, 1, sessions.Rotate)
	var none *sessions.Cache
	none.Forget(key)
	if none.Take([]byte("a"), token) != nil {
		t.Error("no cache knows a session")
	}
}

// TestCacheIsNotBelieved: what another service wrote meanwhile counts.
func TestCacheIsNotBelieved(t *testing.T) {
	store := newMemory()
	c, other := newCached(t, store, 1000), newCached(t, store, 1000)
	c.create("a")
	other.want("a", at(1, 1), false, 1, sessions.Rotate)
	c.want("a", at(1, 1), true, 1, sessions.Replay) // the write fails, the store is read
	other.want("a", at(1, 2), true, 0, sessions.Rotate)
	if _, _, err := other.owner.Revoke(t.Context(), sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}, sessions.Record{}); err != nil {
		t.Fatal(err)
	}
	c.want("a", at(1, 3), false, 1, sessions.Ended)

	c.create("b")
	if _, _, err := other.owner.Revoke(t.Context(), sessions.Key{Jurisdiction: key.Jurisdiction, Session: "b"}, sessions.Record{}); err != nil {
		t.Fatal(err)
	}
	c.want("b", at(1, 1), true, 1, sessions.Ended)
	c.want("b", at(1, 1), false, 1, sessions.Ended)
}

// TestCacheRefusesNobody: what another service has written meanwhile may allow what the record that is
// remembered does not: the server's floor, or a server that answers.
func TestCacheRefusesNobody(t *testing.T) {
	for name, spoil := range map[string]func(b *bench, r *sessions.Request){
		"floor": func(_ *bench, r *sessions.Request) { r.Floor = events.Epoch{Number: 2, Region: region} },
		"probe": func(b *bench, _ *sessions.Request) {
			b.decide = func() error { b.decide = nil; return errUnconfirmed }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.redeem(at(1, 1), sessions.Rotate)
			b.to = "b"
			moved, err := b.owners[1].Refresh(t.Context(), sessions.Request{Key: key, Token: at(1, 2)}, b)
			if err != nil || moved.Record.Current() != at(2, 3) {
				t.Fatalf("moved to %s, %v", moved.Record.Current(), err)
			}
			b.to = ""
			r := sessions.Request{Token: at(1, 2), Held: b.owners[0].Known(key, at(1, 2))}
			if r.Held == nil {
				t.Fatal("the session is not remembered")
			}
			spoil(b, &r)
			if out, err := b.ask(r); err != nil || out.Judgement.Verdict != sessions.Replay || out.Record.Current() != at(2, 3) {
				t.Errorf("%s of %s, %v", out.Judgement.Verdict, out.Record.Current(), err)
			}
		})
	}
}

// TestCacheForgets: what is known of a session goes when it is told to, also if a refresh has it.
func TestCacheForgets(t *testing.T) {
	c := newCached(t, newMemory(), 1000)
	c.create("a")
	forget := func() { c.cache.Forget(sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}) }
	forget()
	c.want("a", at(1, 1), false, 1, sessions.Rotate)
	c.during = forget
	c.want("a", at(1, 2), true, 0, sessions.Rotate)
	c.want("a", at(1, 3), false, 1, sessions.Rotate)
	c.during = nil
	c.want("a", at(1, 4), false, 1, sessions.Rotate)
	c.want("a", at(1, 5), true, 0, sessions.Rotate)
}

// TestCacheSuspended: all is forgotten, also what a refresh has, and nothing is remembered until it
// goes on.
func TestCacheSuspended(t *testing.T) {
	c := newCached(t, newMemory(), 1000)
	c.create("a")
	c.create("b")
	c.during = c.cache.Suspend
	c.want("a", at(1, 1), true, 0, sessions.Rotate)
	c.during = c.cache.Resume
	c.want("a", at(1, 2), false, 1, sessions.Rotate)
	c.during = nil
	c.want("a", at(1, 3), false, 1, sessions.Rotate) // the one before had begun too early
	c.want("a", at(1, 4), true, 0, sessions.Rotate)
	c.want("b", at(1, 1), false, 1, sessions.Rotate)
	var none *sessions.Cache
	none.Suspend()
	none.Resume()
}

// TestCacheForgetsWhatIsNoRefresh: whatever else writes a session drops it.
func TestCacheForgetsWhatIsNoRefresh(t *testing.T) {
	for name, change := range map[string]func(c *cached, key sessions.Key) error{
		"revoke": func(c *cached, key sessions.Key) error {
			_, _, err := c.owner.Revoke(t.Context(), key, sessions.Record{})
			return err
		},
		"yield": func(c *cached, key sessions.Key) error {
			c.copies = func() []sessions.Copy {
				taken := *c.store.peek(key)
				taken.Epoch = events.Epoch{Number: 2, Region: "us"}
				return []sessions.Copy{{Region: "us", Record: taken}}
			}
			_, _, err := c.owner.Locate(t.Context(), key, at(1, 1))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCached(t, newMemory(), 1000)
			c.create("a")
			if err := change(c, sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}); err != nil {
				t.Fatal(err)
			}
			if c.cache.Take([]byte("a"), text(at(1, 1))) != nil {
				t.Error("the session is remembered")
			}
		})
	}
}

// TestCacheIsBounded: it knows no more sessions than it may, and the others are served.
func TestCacheIsBounded(t *testing.T) {
	const most = 128
	c := newCached(t, newMemory(), most)
	known := 0
	for i := range 10 * most {
		c.create(fmt.Sprint("session-", i))
	}
	for i := range 10 * most {
		if h := c.cache.Take(fmt.Append(nil, "session-", i), text(at(1, 1))); h != nil {
			known++
			h.Release()
		}
	}
	if known == 0 || known > most {
		t.Errorf("%d sessions are known, want up to %d", known, most)
	}
	for i := range 10 * most {
		if out, _ := c.refresh(fmt.Sprint("session-", i), at(1, 1)); out.Judgement.Verdict != sessions.Rotate {
			t.Fatalf("session %d: %s", i, out.Judgement.Verdict)
		}
	}
}

// TestCacheUnderContention: tabs of one session on two services with caches never end it.
func TestCacheUnderContention(t *testing.T) {
	store := newMemory()
	services := []*cached{newCached(t, store, 100), newCached(t, store, 100)}
	services[0].create("a")
	key := sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}
	var g sync.WaitGroup
	for i := range 8 {
		c := services[i%2]
		g.Go(func() {
			for range 200 {
				token := store.peek(key).Current()
				req := sessions.Request{Key: key, Token: token, Held: c.cache.Take([]byte("a"), text(token))}
				out, err := c.owner.Refresh(t.Context(), req, quiet{})
				if v := out.Judgement.Verdict; err != nil || v != sessions.Rotate && v != sessions.Replay && v != sessions.Superseded {
					t.Errorf("%s: %s, %v", token, v, err)
					return
				}
				if i == 0 {
					c.cache.Forget(key)
				}
			}
		})
	}
	g.Wait()
}

// quiet decides as cached does, and may be shared.
type quiet struct{ calmDecider }

func (quiet) Sign(rec *sessions.Record) error {
	rec.Hash = sessions.HashToken(text(rec.Current()))
	return nil
}

// TestCacheChangesNothing: whatever is presented, by whatever of two services, whatever they
// forget, the outcome is the same with caches as without.
func TestCacheChangesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		with, without := newMemory(), newMemory()
		services := []*cached{newCached(t, with, 100), newCached(t, with, 100)}
		plain := newCached(t, without, 1)
		services[0].create("a")
		plain.create("a")
		key := sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}
		rt.Repeat(map[string]func(*rapid.T){
			"refresh": func(rt *rapid.T) {
				service := rapid.SampledFrom(services).Draw(rt, "service")
				newest := with.peek(key).Gen
				token := at(1, max(1, newest-min(newest-1, rapid.Uint64Range(0, 3).Draw(rt, "age"))))
				got, _ := service.refresh("a", token)
				plain.cache.Forget(key)
				want, _ := plain.refresh("a", token)
				got.Record.Op, want.Record.Op = "", ""
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Errorf("%s (-without +with):\n%s", token, diff)
				}
			},
			"forget": func(rt *rapid.T) { rapid.SampledFrom(services).Draw(rt, "service").cache.Forget(key) },
			"wait": func(rt *rapid.T) {
				d := rapid.SampledFrom([]time.Duration{time.Second, 29 * time.Second, 31 * time.Second}).Draw(rt, "time")
				for _, c := range append(services, plain) {
					c.now = c.now.Add(d)
				}
			},
		})
	})
}
