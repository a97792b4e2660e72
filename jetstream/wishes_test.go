package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// TestWishesAreWatchedInOrder: a watch tells of what is there, that there is nothing, and of
// each write that is not overtaken by the next, and not of the lease beside them.
func TestWishesAreWatchedInOrder(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	wishes := c.Wishes()
	var mu sync.Mutex
	var seen []string
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- wishes.Watch(ctx, func(value []byte, revision uint64, anew bool) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %t %t", value, revision > 0, anew))
		})
	}()
	saw := func(want ...string) {
		t.Helper()
		jetstreamtest.Eventually(t, 5*time.Second, fmt.Sprint(want), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return cmp.Equal(want, seen)
		})
	}
	saw(" false true")
	if _, err := c.Lease().Put(t.Context(), []byte("somebody"), 0); err != nil {
		t.Fatal(err)
	}
	first, err := wishes.Put(t.Context(), []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	saw(" false true", "one true false") // a bucket keeps the last alone: who is slow would not see it
	if _, err := wishes.Put(t.Context(), []byte("late"), 0); !errors.Is(err, registry.ErrFenced) {
		t.Errorf("who comes second: %v, want ErrFenced", err)
	}
	second, err := wishes.Put(t.Context(), []byte("two"), first)
	if err != nil {
		t.Fatal(err)
	}
	saw(" false true", "one true false", "two true false")
	if value, revision, err := wishes.Get(t.Context()); err != nil || revision != second || string(value) != "two" {
		t.Errorf("read %q %d %v", value, revision, err)
	}

	// An operator with the nats command may remove them altogether.
	if err := c.Bucket(jetstream.BucketRegistry).Delete(t.Context(), "wishes", second); err != nil {
		t.Fatal(err)
	}
	saw(" false true", "one true false", "two true false", " true false")
	if value, revision, err := wishes.Get(t.Context()); err != nil || revision != 0 || len(value) != 0 {
		t.Errorf("removed, they read %q %d %v", value, revision, err)
	}
	if _, err := wishes.Put(t.Context(), []byte("three"), 0); err != nil {
		t.Errorf("written again: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}
