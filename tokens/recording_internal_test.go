package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// seenView is a view of one server, as busy as n says.
func seenView(n int) *registry.View {
	s := events.Server{Server: "a", Region: "eu-west-1", URL: "http://a", State: events.StateUp, Capacity: 10, Seq: uint64(n)}
	s.Load.Utilisation = float64(n) / 100
	return registry.NewView([]events.Server{s}, map[string]uint64{"eu-west-1": uint64(n)}, new(atomic.Int64), time.Unix(0, 0))
}

// recordingTo returns a recording on a bus, and what ends it.
func recordingTo(t *testing.T, bus Bus) (r *recording, lost *lossCounter, end func()) {
	t.Helper()
	lost = new(lossCounter)
	r = newRecording("eu-west-1", newOutbox(bus, slog.New(slog.DiscardHandler), lost))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(ctx)
	}()
	return r, lost, func() { cancel(); <-ended }
}

// sights returns what a bus has stored, by number.
func (b *awayBus) sights(t *testing.T) (list []events.Sight) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for data := range b.stored {
		var s events.Sight
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b events.Sight) int { return int(a.Number) - int(b.Number) })
	return list
}

// TestViewsAreRecordedOnce: each view that decisions name has one number, and one sight, which says what
// has changed; every half a minute all is told.
func TestViewsAreRecordedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &awayBus{stored: map[string]bool{}}
		r, lost, end := recordingTo(t, bus)
		views := []*registry.View{seenView(1), seenView(2), seenView(3)}
		for range 3 {
			for i, v := range views {
				if n := r.sight(v, time.Now()); n != uint64(i+1) {
					t.Errorf("view %d has number %d", i+1, n)
				}
			}
		}
		time.Sleep(wholeEvery)
		if n := r.sight(views[0], time.Now()); n != 4 {
			t.Errorf("half a minute later it has number %d", n)
		}
		end()
		var got []string
		for _, s := range bus.sights(t) {
			got = append(got, fmt.Sprintf("%d since %d, whole: %t, %d servers, %v", s.Number, s.Since, s.Whole, len(s.Servers), s.Utilisation))
		}
		want := []string{
			"1 since 0, whole: true, 1 servers, map[]", "2 since 1, whole: false, 0 servers, map[a:0.02]",
			"3 since 2, whole: false, 0 servers, map[a:0.03]", "4 since 3, whole: true, 1 servers, map[]",
		}
		if !slices.Equal(got, want) || lost.n.Load() != 0 {
			t.Errorf("recorded, %d lost:\n%q, want\n%q", lost.n.Load(), got, want)
		}
	})
}

// TestWhatDoesNotFitIsNotRecorded: while NATS is away nobody waits, nothing grows, and what is recorded
// afterwards stands by itself.
func TestWhatDoesNotFitIsNotRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &awayBus{stored: map[string]bool{}, back: time.Now().Add(20 * time.Second)}
		r, lost, end := recordingTo(t, bus)
		const views = 1000
		for i := range views {
			if n := r.sight(seenView(i+1), time.Now()); n != uint64(i+1) {
				t.Fatalf("view %d has number %d", i+1, n)
			}
			synctest.Wait()
		}
		if n := len(r.queue); n > recordingSize {
			t.Errorf("%d views wait", n)
		}
		time.Sleep(25 * time.Second)
		r.sight(seenView(5000), time.Now())
		end()
		list := bus.sights(t)
		if len(list)+int(lost.n.Load()) != views+1 || len(list) < recordingSize {
			t.Errorf("%d recorded, %d lost of %d", len(list), lost.n.Load(), views+1)
		}
		for i, s := range list[1:] {
			if s.Since != list[i].Number {
				t.Errorf("%d since %d, after %d", s.Number, s.Since, list[i].Number)
			}
		}
		if last := list[len(list)-1]; last.Number != views+1 {
			t.Errorf("the last is %+v", last)
		}
	})
}

// BenchmarkSight is what it costs a decision to name its view.
func BenchmarkSight(b *testing.B) {
	r := newRecording("eu-west-1", newOutbox(&awayBus{}, slog.New(slog.DiscardHandler), new(lossCounter)))
	view, now := seenView(1), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		r.sight(view, now)
	}
}
