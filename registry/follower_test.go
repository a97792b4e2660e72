package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// script is a Watcher that does what a test says.
type script func(ctx context.Context, apply func([]registry.Entry, bool), proof func(time.Time)) error

func (s script) Watch(ctx context.Context, bucket string, apply func([]registry.Entry, bool), proof func(time.Time)) error {
	if bucket != registry.Bucket {
		return fmt.Errorf("bucket %s", bucket)
	}
	return s(ctx, apply, proof)
}

// put returns the entry of a server of eu-west-1.
func put(id string, state events.State, seq uint64) registry.Entry {
	s := events.Server{Server: id, Region: "eu-west-1", URL: "https://" + id + ".example.com", State: state, Capacity: 1, Seq: seq}
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return registry.Entry{Key: s.Key(), Value: data, Revision: seq}
}

func gone(id string) registry.Entry { return registry.Entry{Key: "eu-west-1." + id, Deleted: true} }

// states lists what a view shows as id=state.
func states(v *registry.View) []string {
	list := []string{}
	for _, s := range v.Servers {
		list = append(list, s.Server+"="+string(s.State))
	}
	return list
}

func TestFollowerShowsWhatTheBucketHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		views := make(chan string, 20)
		began := time.Now()
		watcher := script(func(ctx context.Context, apply func([]registry.Entry, bool), proof func(time.Time)) error {
			apply([]registry.Entry{put("x", events.StateUp, 1)}, false) // half of a snapshot shows nothing
			time.Sleep(10 * time.Millisecond)
			apply([]registry.Entry{put("b", events.StateUp, 2), put("a", events.StateUp, 3)}, true)
			proof(time.Now())
			time.Sleep(time.Second)
			apply([]registry.Entry{put("a", events.StateSuspect, 4)}, false)
			for seq := range uint64(24) { // 7 ms apart: the new state is told at once, the rest every 50 ms
				time.Sleep(7 * time.Millisecond)
				apply([]registry.Entry{put("b", events.StateDraining, 5+seq)}, false)
			}
			time.Sleep(time.Second)
			apply([]registry.Entry{gone("b"), {Key: "eu-west-1.a", Value: []byte("no JSON")}, {Key: "other.key", Value: put("c", events.StateUp, 9).Value}}, false)
			time.Sleep(time.Second)
			proof(time.Now())
			time.Sleep(time.Second)
			apply([]registry.Entry{put("d", events.StateUp, 90)}, true)
			<-ctx.Done()
			return nil
		})
		f := registry.NewFollower(watcher, func(v *registry.View) {
			views <- fmt.Sprintf("%d %v %d", time.Since(began).Milliseconds(), states(v), v.Seqs()["eu-west-1"])
		}, nil)
		if f.View() != nil {
			t.Error("there is a view before anything was read")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		var got []string
		for range len(views) {
			got = append(got, <-views)
		}
		want := []string{
			"10 [a=up b=up] 3", "1010 [a=suspect b=up] 4", "1017 [a=suspect b=draining] 5", "1067 [a=suspect b=draining] 12",
			"1117 [a=suspect b=draining] 19", "1167 [a=suspect b=draining] 26", "1217 [a=suspect b=draining] 28", "2178 [] 0",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("views (-want +got):\n%s", diff)
		}
		if got := f.View().Age(time.Now()); got != 822*time.Millisecond {
			t.Errorf("age %v, want the time since the last proof", got)
		}
		if f.Skipped() != 2 {
			t.Errorf("%d values skipped, want 2", f.Skipped())
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"d=up"}, states(f.View())); diff != "" {
			t.Errorf("after a second snapshot (-want +got):\n%s", diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("end: %v", err)
		}
	})
}

func TestFollowerEndsWithItsWatch(t *testing.T) {
	broken := errors.New("connection is closed")
	f := registry.NewFollower(script(func(context.Context, func([]registry.Entry, bool), func(time.Time)) error { return broken }), nil, nil)
	if err := f.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v, want what the watch failed with", err)
	}
}
