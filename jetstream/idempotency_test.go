package jetstream_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
)

// idem returns a key of a jurisdiction, and an entry for it that a region has answered.
func idem(jurisdiction, name, region string) (idempotency.Key, idempotency.Entry) {
	now := time.Now().UTC().Truncate(time.Second)
	return idempotency.KeyOf(idempotency.Scope{Jurisdiction: jurisdiction, Holder: "s"}, name), idempotency.Entry{
		Version: idempotency.EntryVersion, State: idempotency.StateDone, Op: "op-" + name,
		Owner: idempotency.Owner{Region: region, Server: "a", Boot: "b"}, Fingerprint: "f",
		BegunAt: now, Deadline: now.Add(time.Minute), ExpiresAt: now.Add(time.Hour),
		Reply: &idempotency.Reply{Status: 201, Body: []byte("done by " + region)},
	}
}

// TestIdempotencyStore: the contract of idempotency.Store.
func TestIdempotencyStore(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	store, ctx := c.Idempotency(), t.Context()
	key, e := idem("global", "any text > * . even", "eu-west-1")
	if _, _, err := store.Get(ctx, key); !errors.Is(err, idempotency.ErrNotFound) {
		t.Errorf("no entry: %v", err)
	}
	first, err := store.Put(ctx, key, e, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(ctx, key, e, 0); !errors.Is(err, idempotency.ErrConflict) {
		t.Errorf("made twice: %v", err)
	}
	e.State = idempotency.StateLost
	second, err := store.Put(ctx, key, e, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(ctx, key, e, first); !errors.Is(err, idempotency.ErrConflict) {
		t.Errorf("written over a newer one: %v", err)
	}
	got, revision, err := store.Get(ctx, key)
	if err != nil || revision != second || !cmp.Equal(e, got) {
		t.Errorf("%v, revision %d, want %d: %s", err, revision, second, cmp.Diff(e, got))
	}
	if list, err := store.Copies(ctx, key); err != nil || len(list) > 0 {
		t.Errorf("copies in a region without edges: %v, %v", list, err)
	}
	// What the key says is a hash, and none of it what a client has chosen.
	if strings.Trim(key.Hash, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || len(key.Hash) != 43 {
		t.Errorf("key %s", key)
	}
	for _, bad := range []string{"", "{", "{}", `{"version":9,"state":"void"}`} {
		k, _ := idem("global", "bad"+bad, "")
		if _, err := c.Bucket(jetstream.BucketIdempotency).Put(ctx, k.String(), []byte(bad), 0, 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := store.Get(ctx, k); !errors.Is(err, idempotency.ErrUnavailable) {
			t.Errorf("value %q: %v", bad, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := store.Put(ended, key, e, second); !errors.Is(err, idempotency.ErrUnavailable) {
		t.Errorf("after its context: %v", err)
	}
}

// TestIdempotencyWithoutBucket: nothing was provisioned, which no request takes for a key that is new.
func TestIdempotencyWithoutBucket(t *testing.T) {
	t.Parallel()
	store := jetstreamtest.Dial(t, jetstreamtest.Shared(t)).Idempotency()
	key, e := idem("global", "k", "eu-west-1")
	_, _, err := store.Get(t.Context(), key)
	_, err2 := store.Put(t.Context(), key, e, 0)
	if !errors.Is(err, idempotency.ErrUnavailable) || !errors.Is(err2, idempotency.ErrUnavailable) {
		t.Errorf("%v, %v", err, err2)
	}
}

// TestIdempotencyExpires runs in fake time: what has begun and what was answered is kept as long as it says.
func TestIdempotencyExpires(t *testing.T) {
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		store, ctx := connect().Idempotency(), t.Context()
		key, e := idem("global", "k", "eu-west-1")
		e.ExpiresAt = time.Now().Add(24 * time.Hour)
		revision, err := store.Put(ctx, key, e, 0)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := store.Put(ctx, key, e, revision); err != nil { // its answer comes late, and ends no later
			t.Fatal(err)
		}
		time.Sleep(time.Until(e.ExpiresAt.Add(-time.Second)))
		if _, _, err := store.Get(ctx, key); err != nil {
			t.Errorf("within its life: %v", err)
		}
		time.Sleep(4 * time.Second)
		if _, _, err := store.Get(ctx, key); !errors.Is(err, idempotency.ErrNotFound) {
			t.Errorf("past its life: %v", err)
		}
	})
}

// TestIdempotencyFull: a bucket without room takes no new keys, and forgets none.
func TestIdempotencyFull(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Dial(t, jetstreamtest.Start(t, embedded.RegionConfig{}).ClientURL())
	if err := c.Provision(t.Context(), jetstream.Topology{IdempotencyBytes: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	store := c.Idempotency()
	var fault error
	for i := 0; fault == nil && i < 200; i++ {
		key, e := idem("global", itoa(i), "eu-west-1")
		_, fault = store.Put(t.Context(), key, e, 0)
	}
	if !errors.Is(fault, idempotency.ErrUnavailable) {
		t.Fatalf("full: %v", fault)
	}
	if key, _ := idem("global", "0", ""); true {
		if _, _, err := store.Get(t.Context(), key); err != nil {
			t.Errorf("the first one: %v", err)
		}
	}
}

// TestIdempotencyCopies: what a region has answered is known in its fallback regions, inside the jurisdiction alone, also
// after a cut, and goes with the edge.
func TestIdempotencyCopies(t *testing.T) {
	t.Parallel()
	f := jetstreamtest.NewFleet(t, map[string][]string{"us-east-1": {"eu"}}, "eu-west-1", "eu-central-1", "us-east-1")
	both := []string{"global", "eu"}
	edges := map[string][]jetstream.Edge{
		"eu-west-1":    {{Region: "eu-central-1", Jurisdictions: both}, {Region: "us-east-1"}},
		"eu-central-1": {{Region: "eu-west-1", Jurisdictions: both}, {Region: "us-east-1"}},
		// Somebody in us asks for what it is not to have.
		"us-east-1": {{Region: "eu-west-1", Jurisdictions: both}, {Region: "eu-central-1"}},
	}
	sites := map[string]*site{}
	for region, e := range edges {
		sites[region] = openSite(t, f, region, e)
	}
	write := func(region, jurisdiction, name string) idempotency.Key {
		key, e := idem(jurisdiction, name, region)
		if _, err := sites[region].conn.Idempotency().Put(t.Context(), key, e, 0); err != nil {
			t.Fatal(err)
		}
		return key
	}
	known := func(region string, key idempotency.Key) string {
		list, err := sites[region].conn.Idempotency().Copies(t.Context(), key)
		if err != nil {
			t.Log(region, err)
			return "fault"
		}
		var from []string
		for _, e := range list {
			from = append(from, e.Owner.Region)
		}
		return strings.Join(from, " ")
	}
	sees := func(region string, key idempotency.Key, want string) {
		t.Helper()
		jetstreamtest.Eventually(t, 15*time.Second, region+" knows it of "+want, func() bool { return known(region, key) == want })
	}
	free, bound, stays := write("eu-west-1", "global", "free"), write("eu-west-1", "eu", "bound"), write("eu-west-1", "local", "stays")
	sees("us-east-1", free, "eu-west-1")
	sees("eu-central-1", free, "eu-west-1")
	sees("eu-central-1", bound, "eu-west-1")
	if known("us-east-1", bound) != "" || known("eu-central-1", stays) != "" {
		t.Error("an entry has left its jurisdiction")
	}
	write("eu-central-1", "global", "free") // a fork, as after a cut
	sees("us-east-1", free, "eu-west-1 eu-central-1")

	f.Links["eu-west-1"].Cut()
	cut := write("eu-west-1", "global", "during the cut")
	f.Links["eu-west-1"].Heal()
	sees("us-east-1", cut, "eu-west-1")

	sites["us-east-1"].provision([]jetstream.Edge{{Region: "eu-central-1"}})
	sees("us-east-1", cut, "")
	sees("us-east-1", free, "eu-central-1")
	sites["us-east-1"].provision([]jetstream.Edge{})
	sees("us-east-1", free, "")
}
