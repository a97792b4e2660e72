package placement_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// TestChangesMakeTheView: what a view is since another one makes it of that, to the last bit, also by
// way of With; and nothing is said of what did not change.
func TestChangesMakeTheView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		if rapid.Bool().Draw(t, "the same servers") {
			b.servers, b.settings = append([]placement.Server(nil), a.servers...), a.settings
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				if len(b.servers) == 0 {
					break
				}
				s := &b.servers[rapid.IntRange(0, len(b.servers)-1).Draw(t, "server")]
				s.Utilisation = rapid.Float64Range(0, 2).Draw(t, "utilisation")
				s.State = choice(t, "state", s.State, events.StateUp, events.StateDown, events.StateDraining)
				s.DrainUntil = choice(t, "until", s.DrainUntil, noon)
				s.RejoinedAt = choice(t, "rejoined", s.RejoinedAt, noon)
			}
		}
		before, after := placement.NewView(a.servers, a.settings...), placement.NewView(b.servers, b.settings...)
		change := after.Since(&before)
		if diff := cmp.Diff(after, before.After(change), everything); diff != "" {
			t.Fatalf("after its change (-want +got):\n%s\n%+v", diff, change)
		}
		if next, ok := before.With(change.Servers...); ok && len(change.Gone) == 0 {
			if list := next.Since(&before).Servers; len(list) != len(change.Servers) && a.servers != nil {
				t.Fatalf("With has changed %v, not %v", list, change.Servers)
			}
		}
		if same := after.Since(&after); len(same.Servers)+len(same.Gone) > 0 {
			t.Fatalf("since itself: %+v", same)
		}
		none := placement.View{}
		if diff := cmp.Diff(after, none.After(after.Since(&none)), everything); diff != "" {
			t.Fatalf("as a whole (-want +got):\n%s", diff)
		}
		for i := range after.Regions {
			for k, id := range after.Regions[i].ID {
				if s := after.At(placement.Ref{Region: i, Server: k}); s.ID != id || s.Region != after.Regions[i].Name {
					t.Fatalf("at %d, %d stands %+v", i, k, s)
				}
			}
		}
	})
}

// TestAServerThatMovesToAnotherRegion is one that goes there, and comes from here.
func TestAServerThatMovesToAnotherRegion(t *testing.T) {
	here := placement.Server{ID: "x", Region: "eu-west-1", State: events.StateUp, Capacity: 1}
	there := here
	there.Region = "us-east-1"
	before, after := placement.NewView([]placement.Server{here}), placement.NewView([]placement.Server{there})
	change := after.Since(&before)
	if diff := cmp.Diff(placement.Change{Servers: []placement.Server{there}}, change); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(after, before.After(change), everything); diff != "" {
		t.Errorf("after it (-want +got):\n%s", diff)
	}
}

// BenchmarkSince finds ten servers of 10 200 that have changed.
func BenchmarkSince(b *testing.B) {
	servers := fleet(850)
	before := placement.NewView(servers)
	changed := append([]placement.Server(nil), servers[:10]...)
	for i := range changed {
		changed[i].Utilisation += 0.1
	}
	after, _ := before.With(changed...)
	b.ReportAllocs()
	for b.Loop() {
		if n := len(after.Since(&before).Servers); n != len(changed) {
			b.Fatal(n)
		}
	}
}
