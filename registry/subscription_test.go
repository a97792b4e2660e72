package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// subscribe returns a subscription that runs.
func subscribe(t *testing.T, c registry.SubscriptionConfig) *registry.Subscription {
	t.Helper()
	s, err := registry.Subscribe(c)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s
}

// watchViews collects what a reader is told, as its servers' states.
func watchViews(t *testing.T, s *registry.Subscription, slow time.Duration) func() []string {
	t.Helper()
	var mu sync.Mutex
	var list []string
	run(t, func(ctx context.Context) error {
		s.Watch(ctx, func(v *registry.View) {
			time.Sleep(slow)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, strings.Join(states(v), " "))
		})
		return nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

// TestSubscribersGetASnapshotThenChanges: who comes late begins with the present view, who is
// slow misses some, and nobody the last.
func TestSubscribersGetASnapshotThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, registry.SubscriptionConfig{Watcher: script(func(ctx context.Context, apply func([]registry.Entry, bool), proof func(time.Time)) error {
			time.Sleep(time.Second)
			apply([]registry.Entry{put("a", events.StateUp, 1)}, true)
			proof(time.Now())
			for i := range uint64(10) {
				time.Sleep(100 * time.Millisecond)
				apply([]registry.Entry{put(fmt.Sprintf("b%d", i), events.StateUp, 2+i)}, false)
			}
			time.Sleep(time.Second)
			apply([]registry.Entry{put("a", events.StateDown, 90)}, true)
			<-ctx.Done()
			return nil
		})})
		early, slow := watchViews(t, s, 0), watchViews(t, s, 450*time.Millisecond)
		time.Sleep(2500 * time.Millisecond)
		late := watchViews(t, s, 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := early(); len(got) != 12 || got[0] != "a=up" || got[1] != "a=up b0=up" || got[11] != "a=down" {
			t.Errorf("from the start: %d views: %q", len(got), got)
		}
		if got := slow(); len(got) != 5 || got[0] != "a=up" || got[4] != "a=down" {
			t.Errorf("a slow one: %d views: %q", len(got), got)
		}
		if got := late(); len(got) != 2 || !strings.HasSuffix(got[0], "b9=up") || got[1] != "a=down" {
			t.Errorf("a late one: %q", got)
		}
	})
}

// TestAStaleViewIsSaid follows the age of a view: until the first, while proofs stay away, and
// while they come but no registry writes.
func TestAStaleViewIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		metrics := prometheus.NewRegistry()
		began := time.Now()
		until := func(d time.Duration) { time.Sleep(d - time.Since(began)) }
		s := subscribe(t, registry.SubscriptionConfig{
			Metrics: metrics, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Watcher: script(func(ctx context.Context, apply func([]registry.Entry, bool), proof func(time.Time)) error {
				until(40 * time.Second)
				for i := 0; ctx.Err() == nil; i++ {
					now := time.Since(began)
					if now < 200*time.Second { // then the registries die
						apply([]registry.Entry{put("a", events.StateUp, uint64(1+i))}, i == 0)
					}
					if now < 60*time.Second || now >= 100*time.Second { // NATS is away between
						proof(time.Now())
					}
					select {
					case <-ctx.Done():
					case <-time.After(time.Second):
					}
				}
				return nil
			}),
		})
		for _, step := range []struct {
			at, age float64
			says    string
		}{
			{1, math.Inf(1), "none was read yet"},
			{45.5, 0.5, ""},
			{88.5, 29.5, ""},
			{92.5, 33.5, "last known to be complete 34s ago"},
			{101.5, 0.5, ""},
			{288.5, 0.5, ""},
			{291.5, 0.5, "no registry has written it for 1m33s"},
		} {
			until(time.Duration(step.at * float64(time.Second)))
			synctest.Wait()
			err := s.Fresh(time.Now())
			if (err == nil) != (step.says == "") || err != nil && (!errors.Is(err, registry.ErrStale) || !strings.Contains(err.Error(), step.says)) {
				t.Errorf("at %v: %v, want %q", step.at, err, step.says)
			}
			if got := gauge(t, metrics, "berth_view_age_seconds"); got != step.age {
				t.Errorf("at %v: age %v, want %v", step.at, got, step.age)
			}
			if got, want := gauge(t, metrics, "berth_view_stale"), step.says != ""; (got == 1) != want {
				t.Errorf("at %v: the metric says stale %v, want %v", step.at, got, want)
			}
		}
		said := []int{strings.Count(log.String(), `"view is stale"`), strings.Count(log.String(), `"view is fresh again"`)}
		if diff := cmp.Diff([]int{3, 2}, said); diff != "" {
			t.Errorf("lines, want one for each time that it begins and ends (-want +got):\n%s\n%s", diff, &log)
		}
	})
}

// TestASubscriptionHasNoGap cuts a real connection while the bucket changes: the view says that
// it is stale, keeps what it had, and has what it missed once the connection is back.
func TestASubscriptionHasNoGap(t *testing.T) {
	t.Parallel()
	nats := jetstreamtest.Shared(t)
	direct := jetstreamtest.Provisioned(t, nats)
	proxy := jetstreamtest.NewProxy(t, direct.NATS().ConnectedAddr())
	through, err := url.Parse(nats)
	if err != nil {
		t.Fatal(err)
	}
	through.Host = proxy.Addr()
	s := subscribe(t, registry.SubscriptionConfig{Watcher: jetstreamtest.Dial(t, through.String()), Bound: 3 * time.Second, Log: jetstreamtest.Log(t)})
	got := watchViews(t, s, 0)
	write := func(id string, state events.State) {
		t.Helper()
		e := put(id, state, 1)
		kv, err := direct.JetStream().KeyValue(t.Context(), registry.Bucket)
		if err == nil {
			_, err = kv.Put(t.Context(), e.Key, e.Value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("a", events.StateUp)
	write("b", events.StateUp)
	last := func(want string) func() bool {
		return func() bool {
			list := got()
			return len(list) > 0 && list[len(list)-1] == want
		}
	}
	jetstreamtest.Eventually(t, 5*time.Second, "both servers", last("a=up b=up"))
	jetstreamtest.Eventually(t, 5*time.Second, "a fresh view", func() bool { return s.Fresh(time.Now()) == nil })
	proxy.Cut()
	jetstreamtest.Eventually(t, 10*time.Second, "it is stale", func() bool { return errors.Is(s.Fresh(time.Now()), registry.ErrStale) })
	write("a", events.StateDown)
	write("c", events.StateUp)
	if v := states(s.View()); !slices.Equal(v, []string{"a=up", "b=up"}) {
		t.Errorf("without NATS the view is %v", v)
	}
	proxy.Heal()
	jetstreamtest.Eventually(t, 10*time.Second, "what was missed", last("a=down b=up c=up"))
	jetstreamtest.Eventually(t, 5*time.Second, "a fresh view again", func() bool { return s.Fresh(time.Now()) == nil })
}

func TestSubscribeRefuses(t *testing.T) {
	for _, c := range []registry.SubscriptionConfig{{}, {Watcher: script(nil), Bound: -1}} {
		if _, err := registry.Subscribe(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestASubscriptionEndsWithItsWatch(t *testing.T) {
	broken := errors.New("connection is closed")
	s, err := registry.Subscribe(registry.SubscriptionConfig{
		Watcher: script(func(context.Context, func([]registry.Entry, bool), func(time.Time)) error { return broken }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v, want what the watch failed with", err)
	}
}
