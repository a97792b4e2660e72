package registry_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// TestNextIsAll: however often a view is made from the one before, it is the view of the
// servers that there are, and those before stay as they were.
func TestNextIsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var current atomic.Int64
		series := registry.NewSeries(&current)
		servers := map[string]*events.Server{}
		now := start
		var before *registry.View
		var was []events.Server
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			var changed []*events.Server
			var gone []string
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				s := drawServer(t, now)
				if _, ok := servers[s.Key()]; ok && rapid.IntRange(0, 4).Draw(t, "goes") == 0 {
					delete(servers, s.Key())
					changed = slices.DeleteFunc(changed, func(c *events.Server) bool { return c.Key() == s.Key() })
					gone = append(gone, s.Key())
					continue
				}
				gone = slices.DeleteFunc(gone, func(key string) bool { return key == s.Key() })
				servers[s.Key()] = s
				changed = append(changed, s)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
			got := series.Next(changed, gone, now)
			list := slices.SortedFunc(maps.Values(servers), func(a, b *events.Server) int {
				return slices.Compare([]string{a.Region, a.Server}, []string{b.Region, b.Server})
			})
			want := registry.NewSeries(&current).All(list, now)
			if diff := cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true }), cmp.Comparer(sameCount), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("view (-of all +next):\n%s", diff)
			}
			if before != nil {
				if diff := cmp.Diff(was, values(before)); diff != "" {
					t.Fatalf("the view before (-was +is):\n%s", diff)
				}
			}
			before, was = got, values(got)
		}
	})
}

// TestTheNewestValueSetsARegion: of values with one sequence that come together the first by id
// says how its region is set, in whatever order they come, and one that falls back counts no more.
func TestTheNewestValueSetsARegion(t *testing.T) {
	value := func(id string, seq uint64, role events.Role) *events.Server {
		s := remote(id, seq)
		s.RegionRole = role
		return &s
	}
	tests := map[string]struct {
		before, changed []*events.Server
		gone            []string
		want            events.Role
	}{
		"two at once, in order": {
			[]*events.Server{value("a", 5, ""), value("b", 5, "")},
			[]*events.Server{value("a", 6, events.RoleStandby), value("b", 6, "")},
			nil, events.RoleStandby,
		},
		"two at once, the other way round": {
			[]*events.Server{value("a", 5, ""), value("b", 5, "")},
			[]*events.Server{value("b", 6, ""), value("a", 6, events.RoleStandby)},
			nil, events.RoleStandby,
		},
		"one of the sequence that was reached": {
			[]*events.Server{value("a", 5, ""), value("b", 5, "")},
			[]*events.Server{value("a", 5, events.RoleStandby)},
			nil, events.RoleStandby,
		},
		"the only one begins anew": {
			[]*events.Server{value("a", 500, events.RoleStandby)},
			[]*events.Server{value("a", 1, "")},
			nil, events.RoleActive,
		},
		"the newest begins anew": {
			[]*events.Server{value("a", 500, events.RoleStandby), value("b", 400, "")},
			[]*events.Server{value("a", 1, events.RoleStandby)},
			nil, events.RoleActive,
		},
		"the newest goes": {
			[]*events.Server{value("a", 500, events.RoleStandby), value("b", 400, "")},
			nil,
			[]string{"us-east-1.a"},
			events.RoleActive,
		},
		"an older one changes": {
			[]*events.Server{value("a", 500, events.RoleStandby), value("b", 400, "")},
			[]*events.Server{value("b", 450, "")},
			nil, events.RoleStandby,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			series := registry.NewSeries(new(atomic.Int64))
			series.All(test.before, start)
			if got := series.Next(test.changed, test.gone, start).Regions[0].Role; got != test.want {
				t.Errorf("the region is %s, want %s", got, test.want)
			}
		})
	}
}

func sameCount(a, b *atomic.Int64) bool { return a == b }

func values(v *registry.View) (list []events.Server) {
	for _, s := range v.Servers {
		list = append(list, *s)
	}
	return list
}

// drawServer returns a server of one of three regions, of which two may claim the same id.
func drawServer(t *rapid.T, now time.Time) *events.Server {
	s := remote(fmt.Sprint("s-", rapid.IntRange(0, 4).Draw(t, "id")), uint64(rapid.IntRange(1, 9).Draw(t, "seq")))
	s.Region = rapid.SampledFrom([]string{"a-1", "a", "b-1"}).Draw(t, "region")
	if s.Region == "b-1" {
		s.Server = "b-" + s.Server
	}
	s.State = rapid.SampledFrom([]events.State{events.StateUp, events.StateSuspect, events.StateDraining, events.StateDown}).Draw(t, "state")
	s.Protection = rapid.SampledFrom([]string{"", events.FailOpen}).Draw(t, "protection")
	if rapid.Bool().Draw(t, "slow") {
		s.RejoinedAt = now.Add(-time.Duration(rapid.IntRange(0, 90).Draw(t, "rejoined")) * time.Second)
	}
	return &s
}
