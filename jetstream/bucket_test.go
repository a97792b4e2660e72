package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func TestBucketComparesAndSwaps(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	ctx := t.Context()
	if _, err := b.Get(ctx, "global.s1"); !errors.Is(err, jetstream.ErrNotFound) {
		t.Fatalf("get of nothing: %v, want ErrNotFound", err)
	}
	before := time.Now()
	first, err := b.Put(ctx, "global.s1", []byte("one"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if at := b.Contact(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("contact at %v, want between %v and now", at, before)
	}
	if _, err := b.Put(ctx, "global.s1", []byte("other"), 0, time.Hour); !errors.Is(err, jetstream.ErrConflict) {
		t.Errorf("put of what is there: %v, want ErrConflict", err)
	}
	second, err := b.Put(ctx, "global.s1", []byte("two"), first, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, "global.s1", []byte("late"), first, time.Hour); !errors.Is(err, jetstream.ErrConflict) {
		t.Errorf("put over an old revision: %v, want ErrConflict", err)
	}
	v, err := b.Get(ctx, "global.s1")
	if err != nil || string(v.Data) != "two" || v.Revision != second || time.Since(v.Written) > time.Minute {
		t.Errorf("got %+v, %v; want two at revision %d", v, err, second)
	}

	// Gone, it may be made again, over the marker that it left.
	if err := b.Delete(ctx, "global.s1", first); !errors.Is(err, jetstream.ErrConflict) {
		t.Errorf("delete of an old revision: %v, want ErrConflict", err)
	}
	if err := b.Delete(ctx, "global.s1", second); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "global.s1"); !errors.Is(err, jetstream.ErrNotFound) {
		t.Errorf("get of what was removed: %v, want ErrNotFound", err)
	}
	if _, err := b.Put(ctx, "global.s1", []byte("three"), 0, 0); err != nil {
		t.Errorf("put over a marker: %v", err)
	}
	if _, err := b.Put(ctx, "global.s1", []byte("four"), 0, 0); !errors.Is(err, jetstream.ErrConflict) {
		t.Errorf("put of what is there again: %v, want ErrConflict", err)
	}
}

func TestBucketLoad(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketServers)
	if all, err := b.Load(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("empty bucket: %v, %v", all, err)
	}
	revisions := map[string]uint64{}
	for _, key := range []string{"eu.a", "eu.b", "us.c"} {
		revision, err := b.Put(t.Context(), key, []byte(key), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		revisions[key] = revision
	}
	if err := b.Delete(t.Context(), "eu.b", revisions["eu.b"]); err != nil {
		t.Fatal(err)
	}
	all, err := b.Load(t.Context(), "")
	if err != nil || len(all) != 2 || string(all["us.c"].Data) != "us.c" || all["eu.a"].Revision != revisions["eu.a"] {
		t.Errorf("got %v, %v", all, err)
	}
	if all, err = b.Load(t.Context(), "eu.*"); err != nil || len(all) != 1 {
		t.Errorf("eu.*: got %v, %v", all, err)
	}
	if _, err := c.Bucket("none").Load(t.Context(), ""); err == nil {
		t.Error("a bucket that is not there: no error")
	}
}

// TestTTLIsOfEachWrite runs in fake time: every write sets the life of its key anew.
func TestTTLIsOfEachWrite(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		b := connect().Bucket(jetstream.BucketSessions)
		revision, err := b.Put(t.Context(), "global.s1", []byte("one"), 0, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Minute)
		// A fraction of a second counts as a whole one: the life is never shorter than asked for.
		if _, err = b.Put(t.Context(), "global.s1", []byte("two"), revision, 90*time.Second+time.Millisecond); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		if v, err := b.Get(t.Context(), "global.s1"); err != nil || string(v.Data) != "two" {
			t.Errorf("within its life: %+v, %v", v, err)
		}
		time.Sleep(3 * time.Second)
		if _, err := b.Get(t.Context(), "global.s1"); !errors.Is(err, jetstream.ErrNotFound) {
			t.Errorf("after its life: %v, want ErrNotFound", err)
		}
		// What has expired leaves no trace: the key may be made again.
		if _, err := b.Put(t.Context(), "global.s1", []byte("three"), 0, time.Hour); err != nil {
			t.Errorf("make it again: %v", err)
		}
	})
}

// TestBucketHasOneWinner lets many write the same key at once: each revision has one successor.
func TestBucketHasOneWinner(t *testing.T) {
	t.Parallel() // it mostly waits
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	const writers, rounds = 8, 20
	var won atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				increment(t, b, "global.counter", &won)
			}
		})
	}
	wg.Wait()
	v, err := b.Get(t.Context(), "global.counter")
	if err != nil || string(v.Data) != itoa(writers*rounds) || won.Load() != writers*rounds {
		t.Errorf("counted to %s in %d writes, %v; want %d", v.Data, won.Load(), err, writers*rounds)
	}
}

// increment counts the key up by one, however often it has to try.
func increment(t *testing.T, b *jetstream.Bucket, key string, won *atomic.Int64) {
	for {
		v, err := b.Get(t.Context(), key)
		if err != nil && !errors.Is(err, jetstream.ErrNotFound) {
			t.Errorf("get: %v", err)
			return
		}
		n, _ := strconv.Atoi(string(v.Data))
		_, err = b.Put(t.Context(), key, []byte(itoa(n+1)), v.Revision, time.Hour)
		if err == nil {
			won.Add(1)
			return
		}
		if !errors.Is(err, jetstream.ErrConflict) {
			t.Errorf("put: %v", err)
			return
		}
	}
}

func TestWritesOverlap(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	writes := make([]*jetstream.Write, 200)
	for i := range writes {
		writes[i] = b.Begin(fmt.Sprintf("global.s%d", i), []byte("x"), 0, time.Hour)
	}
	seen := map[uint64]bool{}
	for _, w := range writes {
		revision, err := w.Wait(t.Context())
		if err != nil || seen[revision] {
			t.Fatalf("revision %d, %v", revision, err)
		}
		seen[revision] = true
	}
}

func TestBucketWithoutNATS(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(t, r.ClientURL())
	b := c.Bucket(jetstream.BucketSessions)
	revision, err := b.Put(t.Context(), "global.s1", []byte("one"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	contact := b.Contact()
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Put(ctx, "global.s1", []byte("two"), revision, time.Hour); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("put: %v, want ErrUnavailable", err)
	}
	if _, err := b.Get(ctx, "global.s1"); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("get: %v, want ErrUnavailable", err)
	}
	if b.Contact() != contact {
		t.Error("contact with a leader that is not there")
	}
	// What was acknowledged is still there, and what failed has not been kept for later.
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the record is read again", func() bool {
		v, err := b.Get(t.Context(), "global.s1")
		return err == nil && string(v.Data) == "one"
	})
}

// TestBucketBehindABlackHole loses the reply of a write: the outcome is unknown, and so it is said.
func TestBucketBehindABlackHole(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	proxy := jetstreamtest.NewProxy(t, r.ClientURL())
	jetstreamtest.Provisioned(t, r.ClientURL())
	b := jetstreamtest.Dial(t, "nats://"+proxy.Addr()).Bucket(jetstream.BucketSessions)
	proxy.Blackhole()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.Put(ctx, "global.s1", []byte("one"), 0, time.Hour); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("put: %v, want ErrUnavailable", err)
	}
	proxy.Heal()
	jetstreamtest.Eventually(t, 5*time.Second, "the late write has its effect", func() bool {
		v, err := b.Get(t.Context(), "global.s1")
		return err == nil && string(v.Data) == "one"
	})
}

// TestBucketInACluster stops the leader of the stream in good order: writes go on with the next, none is lost, and who
// watches is told of them.
func TestBucketInACluster(t *testing.T) {
	t.Parallel()
	cluster := jetstreamtest.NewCluster(t, "eu-west-1", 3)
	c := jetstreamtest.Dial(t, cluster.URL())
	if err := c.Provision(t.Context(), jetstream.Topology{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	b := c.Bucket(jetstream.BucketSessions)
	revision, err := b.Put(t.Context(), "global.s1", []byte("0"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m := follow(t, c, jetstream.BucketSessions, 0)
	m.becomes(t, 5*time.Second, map[string]string{"global.s1": "0"})
	leader := cluster.Leader(t, c.JetStream(), "KV_berth_sessions")
	if err := leader.Shutdown(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 20; i++ {
		jetstreamtest.Eventually(t, 20*time.Second, "the cluster takes writes", func() bool {
			next, err := b.Put(t.Context(), "global.s1", []byte(itoa(i)), revision, time.Hour)
			if err == nil {
				revision = next
				return true
			}
			// Unknown: read again, as the users of a bucket do.
			v, err := b.Get(t.Context(), "global.s1")
			if err == nil {
				revision = v.Revision
			}
			return err == nil && string(v.Data) == itoa(i)
		})
	}
	m.becomes(t, 15*time.Second, map[string]string{"global.s1": "20"})
}
