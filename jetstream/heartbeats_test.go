package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func heartbeats(t *testing.T, c *jetstream.Conn, instance string) *jetstream.Heartbeats {
	t.Helper()
	h, err := c.Heartbeats(instance)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// catchUp returns what one CatchUp brings.
func catchUp(t *testing.T, h *jetstream.Heartbeats) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := h.CatchUp(t.Context(), func(subject string, data []byte) { got[subject] = string(data) }); err != nil {
		t.Fatal(err)
	}
	return got
}

// beat publishes a heartbeat of each server, named by a letter, and waits until the stream holds the last of them:
// nobody acknowledges a heartbeat.
func beat(t *testing.T, c *jetstream.Conn, servers, value string) {
	t.Helper()
	for _, server := range servers {
		if err := c.Publish(t.Context(), "berth.v1.heartbeat.eu-west-1."+string(server), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.JetStream().Stream(t.Context(), jetstream.StreamHeartbeats)
	if err != nil {
		t.Fatal(err)
	}
	last := "berth.v1.heartbeat.eu-west-1." + servers[len(servers)-1:]
	jetstreamtest.Eventually(t, 5*time.Second, "the heartbeats are kept", func() bool {
		msg, err := s.GetLastMsgForSubject(t.Context(), last)
		return err == nil && string(msg.Data) == value
	})
}

func consumers(t *testing.T, c *jetstream.Conn) []string {
	t.Helper()
	s, err := c.JetStream().Stream(t.Context(), jetstream.StreamHeartbeats)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(func() map[string]bool {
		names := map[string]bool{}
		for name := range s.ConsumerNames(t.Context()).Name() {
			names[name] = true
		}
		return names
	}()))
}

func TestCatchUpReadsTheLastOfEach(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	one, two := heartbeats(t, c, "a"), heartbeats(t, jetstreamtest.Dial(t, url), "b")
	if got := catchUp(t, one); len(got) != 0 {
		t.Errorf("nothing yet: %v", got)
	}
	beat(t, c, "abc", "1")
	beat(t, c, "b", "2")
	want := map[string]string{
		"berth.v1.heartbeat.eu-west-1.a": "1", "berth.v1.heartbeat.eu-west-1.b": "2", "berth.v1.heartbeat.eu-west-1.c": "1",
	}
	// Each registry gets all, each time.
	for range 2 {
		for _, h := range []*jetstream.Heartbeats{one, two} {
			if diff := cmp.Diff(want, catchUp(t, h)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
	if diff := cmp.Diff([]string{"registry-a", "registry-b"}, consumers(t, c)); diff != "" {
		t.Errorf("consumers (-want +got):\n%s", diff)
	}
}

func TestCatchUpOfManyWhileTheyBeat(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	h := heartbeats(t, c, "a")
	const servers = 3000
	beatAll := func() {
		for i := range servers {
			if err := c.Publish(t.Context(), fmt.Sprintf("berth.v1.heartbeat.eu-west-1.s%d", i), []byte("x")); err != nil {
				t.Error(err)
				return
			}
		}
	}
	beatAll()
	jetstreamtest.Eventually(t, 10*time.Second, "the heartbeats are kept", func() bool {
		return counts(t, c, jetstream.StreamHeartbeats)[jetstream.StreamHeartbeats] == servers
	})
	if got := catchUp(t, h); len(got) != servers {
		t.Errorf("caught up with %d servers, want %d", len(got), servers)
	}
	done := make(chan struct{})
	go func() { defer close(done); beatAll() }()
	catchUp(t, h) // ends, though the stream goes on
	<-done
}

func TestConsumerEndsWithItsConnection(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	registry, err := jetstream.Dial(t.Context(), jetstream.Config{URL: url, Role: "registry"})
	if err != nil {
		t.Fatal(err)
	}
	catchUp(t, heartbeats(t, registry, "a"))
	if got := consumers(t, c); len(got) != 1 {
		t.Errorf("consumers %v, want one", got)
	}
	if err := registry.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := consumers(t, c); len(got) != 0 {
		t.Errorf("consumers %v after the registry has gone", got)
	}
}

// TestCatchUpAfterARestart finds the stream that a lone node keeps in memory made anew.
func TestCatchUpAfterARestart(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(t, r.ClientURL())
	h := heartbeats(t, c, "a")
	beat(t, c, "a", "1")
	if got := catchUp(t, h); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	jetstreamtest.Restart(t, r)
	jetstreamtest.Eventually(t, 5*time.Second, "the registry reads again", func() bool {
		return h.CatchUp(t.Context(), func(string, []byte) {}) == nil
	})
	beat(t, c, "b", "2")
	if diff := cmp.Diff(map[string]string{"berth.v1.heartbeat.eu-west-1.b": "2"}, catchUp(t, h)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCatchUpFaults(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(t, r.ClientURL())
	for _, instance := range []string{"", "a.b", "a b"} {
		if _, err := c.Heartbeats(instance); err == nil {
			t.Errorf("instance %q: no error", instance)
		}
	}
	h := heartbeats(t, c, "a")
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := h.CatchUp(ctx, func(string, []byte) {}); err == nil || errors.Is(err, jetstream.ErrNotFound) {
		t.Errorf("without NATS: %v", err)
	}
}

// TestHeartbeatsInFakeTime lets a consumer live for an hour without a catch-up.
func TestHeartbeatsInFakeTime(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		c := connect()
		catchUp(t, heartbeats(t, c, "a"))
		time.Sleep(time.Hour)
		if diff := cmp.Diff([]string{"registry-a"}, consumers(t, c)); diff != "" {
			t.Errorf("consumers (-want +got):\n%s", diff)
		}
	})
}
