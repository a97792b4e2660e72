package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// bucket is a Store in memory whose faults have names.
type bucket struct {
	mu     sync.Mutex
	values map[string]registry.Entry
	last   uint64
	// fault is what happens to writes: "" nothing, "lost" they are not done, "unknown" they
	// are done and the writer hears of an error, "hangs" they end with their context.
	fault string
	puts  int
}

func newBucket() *bucket { return &bucket{values: map[string]registry.Entry{}} }

func (b *bucket) Load(context.Context) ([]registry.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault == "lost" {
		return nil, errors.New("no leader")
	}
	var list []registry.Entry
	for _, e := range b.values {
		list = append(list, e)
	}
	return list, nil
}

// Begin does nothing before its end.
func (b *bucket) Begin(key string, value []byte, revision uint64) func(context.Context) (uint64, error) {
	return func(ctx context.Context) (uint64, error) { return b.put(ctx, key, value, revision) }
}

func (b *bucket) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.puts++
	switch b.fault {
	case "lost":
		return 0, errors.New("no leader")
	case "hangs":
		b.mu.Unlock()
		<-ctx.Done()
		b.mu.Lock()
		return 0, ctx.Err()
	}
	if b.values[key].Revision != revision {
		return 0, fmt.Errorf("%s: %w", key, registry.ErrFenced)
	}
	b.write(key, value)
	if b.fault == "unknown" {
		return 0, errors.New("the acknowledgement was lost")
	}
	return b.values[key].Revision, nil
}

// write is what somebody else does, too. The caller holds mu.
func (b *bucket) write(key string, value []byte) {
	if b.last++; len(value) == 0 {
		delete(b.values, key)
		return
	}
	b.values[key] = registry.Entry{Key: key, Value: value, Revision: b.last}
}

func (b *bucket) set(fault string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
}

// states lists what the bucket holds, as key=state.
func (b *bucket) states(t *testing.T) []string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	list := []string{}
	for _, key := range sortedKeys(b.values) {
		var s events.Server
		if err := json.Unmarshal(b.values[key].Value, &s); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		list = append(list, key+"="+string(s.State))
	}
	return list
}

// wire is a Bus in memory. While it is slow, what is sent is not stored. As Heartbeats it has
// kept none.
type wire struct {
	mu           sync.Mutex
	listeners    map[string]func(string, []byte)
	gaps         []func()
	sent, stored []string
	slow         bool
}

func newWire() *wire { return &wire{listeners: map[string]func(string, []byte){}} }

func (w *wire) Publish(ctx context.Context, subject string, _ []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, subject)
	if w.slow {
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		return ctx.Err()
	}
	w.stored = append(w.stored, subject)
	return nil
}

func (w *wire) Subscribe(_ context.Context, subject string, fn func(string, []byte)) (func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners[subject] = fn
	return func() {}, nil
}

func (w *wire) OnGap(fn func()) func() {
	w.gaps = append(w.gaps, fn)
	return func() {}
}

func (w *wire) CatchUp(context.Context, func(string, []byte)) error { return nil }

// deliver hands a heartbeat to who listens. Probes of its server are refused.
func (w *wire) deliver(t *testing.T, h *events.Heartbeat) {
	t.Helper()
	h.URL = "http://127.0.0.1:1"
	data, err := events.Encode(h)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	fn := w.listeners["berth.v1.heartbeat.eu-west-1.*"]
	w.mu.Unlock()
	fn(h.Subject().String(), data)
}

// over runs a registry over a wire and a bucket.
func over(t *testing.T, w *wire, b *bucket) *registry.Registry {
	t.Helper()
	r, err := registry.New(registry.Config{
		Region: "eu-west-1", Bus: w, Heartbeats: w, Store: b, Prober: registry.NewProber(registry.ProberConfig{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r.Run)
	synctest.Wait()
	return r
}

func TestTheBucketIsWrittenWhateverHappens(t *testing.T) {
	tests := []struct {
		fault string
		// within is how long after the fault has ended the bucket is right.
		within time.Duration
	}{
		{"lost", 1100 * time.Millisecond},
		{"unknown", 1100 * time.Millisecond},
		{"hangs", 3100 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b := newWire(), newBucket()
				r := over(t, w, b)
				w.deliver(t, beat("eu-west-1-a", boot(1), 1))
				w.deliver(t, beat("eu-west-1-b", boot(1), 1, func(h *events.Heartbeat) { h.IntervalMS = 60_000 }))
				time.Sleep(100 * time.Millisecond)
				b.set(test.fault)
				w.deliver(t, beat("eu-west-1-a", boot(1), 2, saying(events.StateDraining)))
				time.Sleep(50 * time.Millisecond)
				// The registry itself goes on.
				if diff := cmp.Diff([]string{"eu-west-1-a=draining", "eu-west-1-b=up"}, states(r.View())); diff != "" {
					t.Errorf("its own view (-want +got):\n%s", diff)
				}
				w.deliver(t, beat("eu-west-1-a", boot(1), 3, saying(events.StateLeft)))
				time.Sleep(time.Second)
				b.set("")
				time.Sleep(test.within)
				if diff := cmp.Diff([]string{"eu-west-1.eu-west-1-a=left", "eu-west-1.eu-west-1-b=up"}, b.states(t)); diff != "" {
					t.Errorf("the bucket (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestAnotherWriterIsNoticedAndOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newWire(), newBucket()
		r := over(t, w, b)
		w.deliver(t, beat("eu-west-1-a", boot(1), 1))
		time.Sleep(100 * time.Millisecond)
		other := put("eu-west-1-a", events.StateDown, 7000)
		b.mu.Lock()
		b.write(other.Key, other.Value)
		b.write("eu-west-1.broken", []byte("no JSON"))
		b.mu.Unlock()
		w.deliver(t, beat("eu-west-1-a", boot(1), 2, saying(events.StateDraining)))
		w.deliver(t, beat("broken", boot(1), 2))
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"eu-west-1.broken=up", "eu-west-1.eu-west-1-a=draining"}, b.states(t)); diff != "" {
			t.Errorf("the bucket (-want +got):\n%s", diff)
		}
		w.deliver(t, beat("eu-west-1-a", boot(1), 3))
		time.Sleep(time.Second)
		if got := r.View().Seqs()["eu-west-1"]; got <= 7000 {
			t.Errorf("sequence %d, want it to go on from the other writer's 7000", got)
		}
	})
}

func TestTheBucketIsWrittenForChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newWire(), newBucket()
		over(t, w, b)
		for s := range 25 {
			w.deliver(t, beat("eu-west-1-a", boot(1), uint64(s+1), utilised(0.5+float64(s%2)/100)))
			time.Sleep(time.Second)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.puts != 1 {
			t.Errorf("%d writes of a server whose load hardly changes, want 1", b.puts)
		}
	})
}

func TestASlowStreamDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newWire(), newBucket()
		w.slow = true
		over(t, w, b)
		began := time.Now()
		for i := range 5 {
			w.deliver(t, beat(fmt.Sprintf("eu-west-1-%d", i), boot(1), 1))
			time.Sleep(60 * time.Millisecond)
		}
		if got := len(b.states(t)); got != 5 {
			t.Errorf("%d servers in the bucket after %v, want 5", got, time.Since(began))
		}
		w.mu.Lock()
		updates := 0
		for _, subject := range w.sent {
			if subject == "berth.v1.view.eu-west-1" {
				updates++
			}
		}
		w.slow = false
		w.mu.Unlock()
		if updates < 5 {
			t.Errorf("%d view updates were sent, want one for each change", updates)
		}
		// The events are told once they can be stored.
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range 5 {
			subject := fmt.Sprintf("berth.v1.server.eu-west-1.eu-west-1-%d.up", i)
			if !slices.Contains(w.stored, subject) {
				t.Errorf("%s was not stored", subject)
			}
		}
	})
}

func TestAGapIsReadFromTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newWire(), newBucket()
		stream := &keeps{wire: w}
		r, err := registry.New(registry.Config{
			Region: "eu-west-1", Bus: w, Heartbeats: stream, Store: b, Prober: registry.NewProber(registry.ProberConfig{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, r.Run)
		synctest.Wait()
		stream.set(t, beat("eu-west-1-a", boot(1), 9, saying(events.StateDraining)))
		w.deliver(t, beat("eu-west-1-a", boot(1), 1))
		time.Sleep(100 * time.Millisecond)
		if diff := cmp.Diff([]string{"eu-west-1-a=up"}, states(r.View())); diff != "" {
			t.Errorf("before (-want +got):\n%s", diff)
		}
		for _, gap := range w.gaps {
			gap()
		}
		time.Sleep(2 * time.Second) // the first reading fails
		if diff := cmp.Diff([]string{"eu-west-1-a=draining"}, states(r.View())); diff != "" {
			t.Errorf("after (-want +got):\n%s", diff)
		}
	})
}

// keeps is a stream that keeps one heartbeat, and cannot be read every second time.
type keeps struct {
	*wire
	mu    sync.Mutex
	data  []byte
	topic string
	reads int
}

func (k *keeps) set(t *testing.T, h *events.Heartbeat) {
	data, err := events.Encode(h)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.data, k.topic = data, h.Subject().String()
}

func (k *keeps) CatchUp(_ context.Context, fn func(string, []byte)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reads++; k.reads%2 == 0 {
		return errors.New("no leader")
	}
	if k.data != nil {
		fn(k.topic, k.data)
	}
	return nil
}
