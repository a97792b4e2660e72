package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/primary"
)

// documents is what a watch has handed over.
type documents struct {
	mu      sync.Mutex
	known   map[string]string
	current time.Time
}

func (d *documents) watch(t *testing.T, o *jetstream.Documents) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- o.Watch(ctx, func(list map[string][]byte, complete bool) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if complete {
				d.known = map[string]string{}
			}
			for name, data := range list {
				if data == nil {
					delete(d.known, name)
				} else {
					d.known[name] = string(data)
				}
			}
		}, func(at time.Time) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.current = at
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (d *documents) await(t *testing.T, name, want string) {
	t.Helper()
	began := time.Now()
	jetstreamtest.Eventually(t, 15*time.Second, name+" is "+want, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.known[name] == want
	})
	t.Logf("%s is %s after %v", name, want, time.Since(began).Round(time.Millisecond))
}

// age returns how old the documents may be.
func (d *documents) age() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.current)
}

// TestDocuments: organizations are written in the primary region and read everywhere, also when that is cut off.
func TestDocuments(t *testing.T) {
	t.Parallel()
	const home, other = "eu-west-1", "ap-southeast-1"
	f := jetstreamtest.NewFleet(t, nil, home, other)
	conns := map[string]*jetstream.Conn{}
	for _, name := range []string{other, home} { // the copy comes first
		conns[name] = jetstreamtest.Dial(t, f.Regions[name].ClientURL(), func(c *jetstream.Config) { c.Region = name })
		for range 2 {
			if err := conns[name].Provision(t.Context(), jetstream.Topology{Primary: home}); err != nil {
				t.Fatal(err)
			}
		}
		// Who is told nothing leaves it as it is.
		if err := conns[name].Provision(t.Context(), jetstream.Topology{}); err != nil {
			t.Fatal(err)
		}
		if got, err := conns[name].Documents(jetstream.BucketOrgs).Primary(t.Context()); err != nil || got != home {
			t.Fatalf("%s: primary %q, %v", name, got, err)
		}
	}
	var there, here documents
	there.watch(t, conns[other].Documents(jetstream.BucketOrgs))
	here.watch(t, conns[home].Documents(jetstream.BucketOrgs))

	orgs := conns[home].Documents(jetstream.BucketOrgs)
	put := func(name, value string) {
		t.Helper()
		_, revision, err := orgs.Get(t.Context(), name)
		if err == nil {
			err = orgs.Put(t.Context(), name, []byte(value), revision)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("acme", "1")
	here.await(t, "acme", "1")
	there.await(t, "acme", "1")
	put("acme", "2")
	there.await(t, "acme", "2")
	if err := orgs.Put(t.Context(), "acme", []byte("3"), 1); !errors.Is(err, primary.ErrConflict) {
		t.Errorf("a change of what has changed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := conns[other].Documents(jetstream.BucketOrgs).Put(ctx, "acme", []byte("x"), 0); err == nil {
		t.Error("the copy was written")
	}

	f.Links[other].Cut()
	put("acme", "4")
	put("zenith", "1")
	jetstreamtest.Eventually(t, 15*time.Second, "the copy is known to be old", func() bool { return there.age() > 4*time.Second })
	var afresh documents // as after a restart
	afresh.watch(t, conns[other].Documents(jetstream.BucketOrgs))
	afresh.await(t, "acme", "2")
	if age := afresh.age(); age < 4*time.Second {
		t.Errorf("who begins to read the copy now takes it for %v old", age)
	}
	if age := here.age(); age > 3*time.Second {
		t.Errorf("in the primary region the organizations are %v old", age)
	}
	f.Links[other].Heal()
	there.await(t, "acme", "4")
	there.await(t, "zenith", "1")
	jetstreamtest.Eventually(t, 15*time.Second, "the copy is known to be fresh", func() bool { return there.age() < 3*time.Second })
}
