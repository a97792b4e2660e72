package registry_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// placed returns the capacity that placement sees of a server.
func placed(t testing.TB, v *registry.View, id string) float64 {
	t.Helper()
	at, ok := v.Find(id)
	if !ok {
		t.Fatalf("no server %s", id)
	}
	return v.Regions[at.Region].Capacity[at.Server]
}

func TestSlowStartAfterDeath(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 1)
	s := w.servers[0]
	if got := placed(t, viewAt(w.table, w.now), s.id); got != 1000 {
		t.Errorf("new: capacity %v, want all 1000", got)
	}
	w.kill(s)
	w.run(6 * time.Second)
	checkState(t, w.table, s.id, events.StateDown)
	w.boots(s)
	w.step()
	back := w.now
	checkState(t, w.table, s.id, events.StateUp)
	for _, step := range []struct {
		after time.Duration
		want  float64
	}{{0, 100}, {15 * time.Second, 325}, {30 * time.Second, 550}, {59 * time.Second, 985}, {time.Minute, 1000}} {
		w.run(step.after - w.now.Sub(back))
		if got := placed(t, viewAt(w.table, w.now), s.id); math.Abs(got-step.want) > 1 {
			t.Errorf("%v after its return: capacity %v, want %v", step.after, got, step.want)
		}
		if got := server(t, w.table, s.id).Capacity; got != 1000 {
			t.Errorf("the record's capacity is %d, want all", got)
		}
	}
	if got := server(t, w.table, s.id); !got.RejoinedAt.Equal(back) || !got.Settled {
		t.Errorf("the record bears %v, settled: %t: a reader with a slow clock would go on", got.RejoinedAt, got.Settled)
	}
	w.run(10*time.Minute - w.now.Sub(back))
	if got := server(t, w.table, s.id); !got.RejoinedAt.IsZero() || got.Settled {
		t.Errorf("ten minutes later the record still bears %v, settled: %t", got.RejoinedAt, got.Settled)
	}
}

func TestADeployIsNoSlowStart(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 2)
	s := w.servers[0]
	w.beat(s, saying(events.StateLeft))
	w.kill(s)
	w.run(10 * time.Second)
	checkState(t, w.table, s.id, events.StateLeft)
	w.boots(s)
	w.step()
	if got := placed(t, viewAt(w.table, w.now), s.id); got != 1000 {
		t.Errorf("capacity %v, want all", got)
	}
}

func TestSlowStartByWayOfSuspect(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 3)
	s := w.servers[0]
	s.mute, s.stopped = w.now.Add(40*time.Second), w.now.Add(8*time.Second)
	w.run(7 * time.Second)
	checkState(t, w.table, s.id, events.StateDown)
	w.run(20 * time.Second)
	checkState(t, w.table, s.id, events.StateSuspect)
	w.run(15 * time.Second)
	checkState(t, w.table, s.id, events.StateUp)
	if got := placed(t, viewAt(w.table, w.now), s.id); got > 200 {
		t.Errorf("capacity %v, want that of a slow start", got)
	}
}

func TestEffectiveOfOtherClocks(t *testing.T) {
	s := events.Server{Capacity: 1000, RejoinedAt: start}
	for after, want := range map[time.Duration]float64{-5 * time.Minute: 100, 5 * time.Minute: 1000} {
		if got := registry.Effective(&s, start.Add(after)); got != want {
			t.Errorf("%v after: %v, want %v", after, got, want)
		}
	}
}

func TestAFollowerSeesTheSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := events.Server{
			Server: "eu-west-1-a", Region: "eu-west-1", State: events.StateUp, Capacity: 1000, RejoinedAt: time.Now(),
		}
		value, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		views := 0
		watcher := script(func(ctx context.Context, apply func([]registry.Entry, bool), proof func(time.Time)) error {
			apply([]registry.Entry{{Key: s.Key(), Value: value, Revision: 1}}, true)
			proof(time.Now())
			<-ctx.Done()
			return nil
		})
		f := registry.NewFollower(watcher, func(*registry.View) { views++ }, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		for _, want := range []float64{100, 550, 1000} {
			synctest.Wait()
			if got := placed(t, f.View(), s.Server); math.Abs(got-want) > 16 {
				t.Errorf("capacity %v, want %v to a second", got, want)
			}
			if want < 1000 {
				<-time.After(30*time.Second + 500*time.Millisecond)
			}
		}
		<-time.After(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if views > 70 {
			t.Errorf("%d views, want no more once it is over", views)
		}
	})
}
