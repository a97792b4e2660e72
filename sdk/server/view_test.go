package server_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

func putServer(t testing.TB, kv natsjs.KeyValue, id string, state events.State, utilisation float64) {
	t.Helper()
	s := events.Server{
		Server: id, Region: region, URL: "https://" + id, State: state, Capacity: 100, IntervalMS: 1000,
		Load: events.Load{Utilisation: utilisation}, SeenAt: time.Now().UTC(), Since: time.Now().UTC(), Seq: 1,
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), s.Key(), data); err != nil {
		t.Fatal(err)
	}
}

// seen is what a test looks at of a view.
func seen(v *registry.View) map[string]float64 {
	m := map[string]float64{}
	for _, s := range v.Servers {
		if s.State == events.StateUp {
			m[s.Server] = s.Load.Utilisation
		}
	}
	return m
}

func TestViewIsASnapshotThenChanges(t *testing.T) {
	url := jetstreamtest.Shared(t)
	direct := jetstreamtest.Provisioned(t, url)
	kv, err := direct.JetStream().KeyValue(t.Context(), jetstream.BucketServers)
	if err != nil {
		t.Fatal(err)
	}
	putServer(t, kv, "a", events.StateUp, 0.1)
	putServer(t, kv, "b", events.StateUp, 0.2)
	proxy := jetstreamtest.NewProxy(t, direct.NATS().ConnectedAddr())
	conn := jetstreamtest.Dial(t, through(proxy, url))
	a, _ := start(t, config(t, conn))

	views := make(chan *registry.View, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.WatchView(ctx, func(v *registry.View) { views <- v })
	}()
	t.Cleanup(func() { cancel(); <-done })
	expect := func(what string, want map[string]float64) {
		t.Helper()
		deadline := time.After(5 * time.Second)
		var last map[string]float64
		for {
			select {
			case v := <-views:
				if last = seen(v); cmp.Equal(last, want) {
					if !cmp.Equal(seen(a.View()), want) {
						t.Errorf("%s: View is behind what WatchView told", what)
					}
					return
				}
			case <-deadline:
				t.Fatalf("%s: last view %v, want %v", what, last, want)
			}
		}
	}
	expect("the snapshot", map[string]float64{"a": 0.1, "b": 0.2})
	fresh := func() bool { return a.View().Age(time.Now()) < 3*time.Second }
	jetstreamtest.Eventually(t, 5*time.Second, "the view is proven to be fresh", fresh)
	putServer(t, kv, "a", events.StateUp, 0.5)
	expect("a change of load", map[string]float64{"a": 0.5, "b": 0.2})
	putServer(t, kv, "b", events.StateDown, 0)
	expect("a death", map[string]float64{"a": 0.5})
	putServer(t, kv, "c", events.StateUp, 0.3)
	expect("a new server", map[string]float64{"a": 0.5, "c": 0.3})

	proxy.Cut()
	jetstreamtest.Eventually(t, 5*time.Second, "the connection is away", func() bool { return !conn.NATS().IsConnected() })
	if err := kv.Delete(t.Context(), region+".a"); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the view grows old", func() bool { return a.View().Age(time.Now()) > 2*time.Second })
	if got := seen(a.View()); !cmp.Equal(got, map[string]float64{"a": 0.5, "c": 0.3}) {
		t.Errorf("without NATS the view is %v", got)
	}
	proxy.Heal()
	expect("what was missed", map[string]float64{"c": 0.3})
	jetstreamtest.Eventually(t, 5*time.Second, "the view is fresh again", fresh)
}
