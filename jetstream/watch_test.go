package jetstream_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// mirror is the user of a watch: what it has been told of a bucket.
type mirror struct {
	watch *jetstream.Watch

	// mu guards the fields below, which the watch changes and the test reads.
	mu        sync.Mutex
	keys      map[string]string
	revisions map[string]uint64
	complete  int
	proof     time.Time
	fault     string
}

// follow watches a bucket until the test ends.
func follow(t *testing.T, c *jetstream.Conn, bucket string, heartbeat time.Duration) *mirror {
	t.Helper()
	m := &mirror{keys: map[string]string{}, revisions: map[string]uint64{}}
	var err error
	m.watch, err = c.NewWatch(jetstream.WatchConfig{Bucket: bucket, Apply: m.apply, Proof: m.prove, Heartbeat: heartbeat})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.watch.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.fault != "" {
			t.Error(m.fault)
		}
	})
	return m
}

func (m *mirror) apply(u jetstream.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.Complete {
		m.complete++
		for key := range m.keys {
			found := false
			for _, e := range u.Entries {
				found = found || e.Key == key
			}
			if !found {
				m.fault = fmt.Sprintf("key %s is not among all keys, and not said to be deleted", key)
			}
		}
		clear(m.revisions)
	}
	for _, e := range u.Entries {
		if e.Revision != 0 && e.Revision < m.revisions[e.Key] {
			m.fault = fmt.Sprintf("key %s went from revision %d back to %d", e.Key, m.revisions[e.Key], e.Revision)
		}
		m.revisions[e.Key] = e.Revision
		if e.Deleted {
			delete(m.keys, e.Key)
		} else {
			m.keys[e.Key] = string(e.Value)
		}
	}
}

func (m *mirror) prove(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proof = at
}

func (m *mirror) has() (keys map[string]string, complete int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.keys), m.complete
}

// becomes waits until the mirror holds exactly want.
func (m *mirror) becomes(t *testing.T, limit time.Duration, want map[string]string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		got, _ := m.has()
		diff := cmp.Diff(want, got)
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v (-want +got):\n%s", limit, diff)
		}
	}
}

func keyValue(t *testing.T, c *jetstream.Conn, bucket string) natsjs.KeyValue {
	t.Helper()
	kv, err := c.JetStream().KeyValue(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func put(t *testing.T, kv natsjs.KeyValue, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if _, err := kv.PutString(t.Context(), pairs[i], pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchGivesAllThenChanges(t *testing.T) {
	t.Parallel() // it mostly waits
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	kv := keyValue(t, c, jetstream.BucketServers)
	put(t, kv, "eu.a", "1", "eu.b", "1", "us.c", "1", "eu.gone", "1")
	if err := kv.Delete(t.Context(), "eu.gone"); err != nil {
		t.Fatal(err)
	}
	m := follow(t, c, jetstream.BucketServers, 0)
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1", "eu.b": "1", "us.c": "1"})
	if _, complete := m.has(); complete != 1 {
		t.Errorf("%d updates were complete, want the first", complete)
	}
	put(t, kv, "eu.a", "2", "eu.d", "1")
	if err := kv.Purge(t.Context(), "eu.b"); err != nil {
		t.Fatal(err)
	}
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "2", "us.c": "1", "eu.d": "1"})
	// A key that expires goes, too: NATS leaves a marker.
	if _, err := kv.Create(t.Context(), "eu.short", []byte("1"), natsjs.KeyTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "2", "us.c": "1", "eu.d": "1", "eu.short": "1"})
	m.becomes(t, 4*time.Second, map[string]string{"eu.a": "2", "us.c": "1", "eu.d": "1"})
}

func TestWatchOfAnEmptyBucketIsComplete(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	m := follow(t, c, jetstream.BucketKeys, 0)
	jetstreamtest.Eventually(t, 2*time.Second, "it is told that there is nothing", func() bool {
		_, complete := m.has()
		return complete == 1 && !m.watch.Current().IsZero()
	})
}

func TestWatchOfManyKeys(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketServers)
	want := map[string]string{}
	var writes []*jetstream.Write
	for i := range 5000 {
		key := fmt.Sprintf("eu.s%d", i)
		want[key] = "v"
		writes = append(writes, b.Begin(key, []byte("v"), 0, 0))
	}
	for _, w := range writes {
		if _, err := w.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m := follow(t, c, jetstream.BucketServers, 0)
	m.becomes(t, 10*time.Second, want)
	if _, complete := m.has(); complete != 1 {
		t.Errorf("handed over %d times, want once", complete)
	}
}

func TestWatchProvesThatItIsCurrent(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	proxy := jetstreamtest.NewProxy(t, r.ClientURL())
	direct := jetstreamtest.Provisioned(t, r.ClientURL())
	c := jetstreamtest.Dial(t, "nats://"+proxy.Addr())
	m := follow(t, c, jetstream.BucketServers, 100*time.Millisecond)
	put(t, keyValue(t, direct, jetstream.BucketServers), "eu.a", "1")
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1"})

	// Nothing changes, and still it knows that it knows everything.
	last := m.watch.Current()
	jetstreamtest.Eventually(t, 2*time.Second, "the proof is renewed while nothing changes", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.watch.Current().After(last.Add(200*time.Millisecond)) && m.proof.Equal(m.watch.Current())
	})
	// A black hole tells nobody, so the age has to.
	proxy.Blackhole()
	jetstreamtest.Eventually(t, 3*time.Second, "the proof grows old behind a black hole", func() bool {
		return time.Since(m.watch.Current()) > time.Second
	})
	put(t, keyValue(t, direct, jetstream.BucketServers), "eu.b", "1")
	proxy.Heal()
	m.becomes(t, 10*time.Second, map[string]string{"eu.a": "1", "eu.b": "1"})
}

func TestWatchSurvivesACut(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	proxy := jetstreamtest.NewProxy(t, r.ClientURL())
	direct := jetstreamtest.Provisioned(t, r.ClientURL())
	kv := keyValue(t, direct, jetstream.BucketServers)
	put(t, kv, "eu.a", "1", "eu.b", "1", "eu.c", "1")
	c := jetstreamtest.Dial(t, "nats://"+proxy.Addr())
	m := follow(t, c, jetstream.BucketServers, 0)
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1", "eu.b": "1", "eu.c": "1"})

	proxy.Cut()
	jetstreamtest.Eventually(t, 5*time.Second, "the connection is down", func() bool { return !c.NATS().IsConnected() })
	put(t, kv, "eu.a", "2", "eu.d", "1")
	if err := kv.Delete(t.Context(), "eu.b"); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	healed := time.Now()
	m.becomes(t, 5*time.Second, map[string]string{"eu.a": "2", "eu.c": "1", "eu.d": "1"})
	t.Logf("current %v after the heal", time.Since(healed))
	if _, complete := m.has(); complete != 1 {
		t.Errorf("read everything %d times, want only the changes after a short cut", complete)
	}
	put(t, kv, "eu.a", "3")
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "3", "eu.c": "1", "eu.d": "1"})
}

func TestWatchSurvivesARestart(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(t, r.ClientURL())
	kv := keyValue(t, c, jetstream.BucketServers)
	put(t, kv, "eu.a", "1", "eu.b", "1")
	m := follow(t, c, jetstream.BucketServers, 0)
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1", "eu.b": "1"})
	for i := range 3 {
		jetstreamtest.Restart(t, r)
		jetstreamtest.Eventually(t, 5*time.Second, "the connection is back", c.NATS().IsConnected)
		value := itoa(i + 2)
		jetstreamtest.Eventually(t, 5*time.Second, "the bucket takes writes", func() bool {
			_, err := kv.PutString(t.Context(), "eu.a", value)
			return err == nil
		})
		written := time.Now()
		m.becomes(t, 5*time.Second, map[string]string{"eu.a": value, "eu.b": "1"})
		t.Logf("told %v after the first write", time.Since(written))
	}
}

func TestWatchFindsWhatIsGoneWithoutATrace(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	m := follow(t, c, jetstream.BucketServers, 100*time.Millisecond)
	put(t, keyValue(t, c, jetstream.BucketServers), "eu.a", "1", "eu.b", "1")
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1", "eu.b": "1"})
	if err := c.JetStream().DeleteStream(t.Context(), "KV_berth_servers"); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the bucket is made anew", func() bool {
		return c.Provision(t.Context(), jetstream.Topology{}) == nil
	})
	put(t, keyValue(t, c, jetstream.BucketServers), "eu.b", "2")
	m.becomes(t, 10*time.Second, map[string]string{"eu.b": "2"})
}

func TestWatchWaitsForItsBucket(t *testing.T) {
	c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	m := follow(t, c, jetstream.BucketServers, 0)
	if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	put(t, keyValue(t, c, jetstream.BucketServers), "eu.a", "1")
	m.becomes(t, 5*time.Second, map[string]string{"eu.a": "1"})
}

// TestWatchNoticesALostConsumer removes the consumer behind the watch's back, as a lost node does.
func TestWatchNoticesALostConsumer(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	m := follow(t, c, jetstream.BucketServers, 100*time.Millisecond)
	kv := keyValue(t, c, jetstream.BucketServers)
	put(t, kv, "eu.a", "1")
	m.becomes(t, 2*time.Second, map[string]string{"eu.a": "1"})
	s, err := c.JetStream().Stream(t.Context(), "KV_berth_servers")
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for name := range s.ConsumerNames(t.Context()).Name() {
		if err := s.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		removed++
	}
	if removed != 1 {
		t.Fatalf("removed %d consumers, want one", removed)
	}
	put(t, kv, "eu.a", "2")
	m.becomes(t, 5*time.Second, map[string]string{"eu.a": "2"})
}

func TestWatchLeavesNoConsumer(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	w, err := c.NewWatch(jetstream.WatchConfig{Bucket: jetstream.BucketServers, Apply: func(jetstream.Update) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	jetstreamtest.Eventually(t, 2*time.Second, "it is current", func() bool { return !w.Current().IsZero() })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s, err := c.JetStream().Stream(t.Context(), "KV_berth_servers")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestWatchConfigFaults(t *testing.T) {
	c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	apply := func(jetstream.Update) {}
	for _, cfg := range []jetstream.WatchConfig{{Apply: apply}, {Bucket: "b"}, {Bucket: "b", Apply: apply, Heartbeat: time.Millisecond}} {
		if _, err := c.NewWatch(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
}

func TestWatchOfAClosedConnectionEnds(t *testing.T) {
	url := jetstreamtest.Shared(t)
	jetstreamtest.Provisioned(t, url)
	c, err := jetstream.Dial(t.Context(), jetstream.Config{URL: url, Role: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWatch(jetstream.WatchConfig{Bucket: jetstream.BucketServers, Apply: func(jetstream.Update) {}, Heartbeat: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(t.Context()) }()
	jetstreamtest.Eventually(t, 2*time.Second, "it is current", func() bool { return !w.Current().IsZero() })
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on without a connection")
	}
	if !c.NATS().IsClosed() || c.NATS().Status() != nats.CLOSED {
		t.Error("the connection is open")
	}
}
