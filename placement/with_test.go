package placement_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// everything compares unexported fields, too.
var everything = cmp.Options{cmp.Exporter(func(reflect.Type) bool { return true }), cmpopts.EquateNaNs()}

// TestWithIsANewView: a view that is changed is the view of the changed servers, and the one
// before stays as it was.
func TestWithIsANewView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := source(rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "servers"))
		servers := s.servers()
		slices.SortStableFunc(servers, func(a, b placement.Server) int {
			return strings.Compare(a.Region+" "+a.ID, b.Region+" "+b.ID)
		})
		servers = slices.CompactFunc(servers, func(a, b placement.Server) bool { return a.Region == b.Region && a.ID == b.ID })
		v := placement.NewView(servers)
		before := placement.NewView(servers)
		changes := map[int]placement.Server{}
		for range rapid.IntRange(0, 6).Draw(t, "changes") {
			if len(servers) == 0 {
				break
			}
			i := rapid.IntRange(0, len(servers)-1).Draw(t, "index")
			c := servers[i]
			if _, ok := v.Find(c.ID); !ok {
				continue
			}
			c.State = rapid.SampledFrom([]events.State{events.StateUp, events.StateDown, events.StateDraining}).Draw(t, "state")
			c.Capacity = rapid.Float64().Draw(t, "capacity")
			c.Utilisation = rapid.Float64Range(0, 2).Draw(t, "utilisation")
			if rapid.Bool().Draw(t, "moved") {
				c.Location = events.Location{Lat: rapid.Float64Range(-90, 90).Draw(t, "lat"), Lon: 3}
				c.DrainingSince = noon
			}
			if rapid.Bool().Draw(t, "rejoined") {
				c.RejoinedAt = noon.Add(-time.Minute)
			}
			changes[i] = c
		}
		var list []placement.Server
		for i, c := range changes {
			servers[i] = c
			list = append(list, c)
		}
		got, ok := v.With(list...)
		if !ok {
			t.Fatal("a server of the view is called new")
		}
		if diff := cmp.Diff(placement.NewView(servers), got, everything); diff != "" {
			t.Fatalf("changed (-anew +With):\n%s", diff)
		}
		if diff := cmp.Diff(before, v, everything); diff != "" {
			t.Fatalf("the view before (-was +is):\n%s", diff)
		}
	})
}

func TestWithTakesNobodyNew(t *testing.T) {
	v := placement.NewView(fleet(2))
	if _, ok := v.With(placement.Server{ID: "new", Region: "eu-west-1"}); ok {
		t.Error("a new server was taken")
	}
}

// BenchmarkWith changes ten servers of 10 200, which are in one region or in twelve.
func BenchmarkWith(b *testing.B) {
	for _, many := range []bool{false, true} {
		servers := fleet(850)
		name := "one region"
		if many {
			name = "twelve regions"
		} else {
			for i := range servers {
				servers[i].Region = "eu-west-1"
			}
		}
		v := placement.NewView(servers)
		changed := slices.Clone(servers[:10])
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for i := range changed {
					changed[i].Utilisation += 0.001
				}
				if _, ok := v.With(changed...); !ok {
					b.Fatal("not changed")
				}
			}
		})
	}
}

// TestAddedIsANewView: what is added to servers counts as if they had reported it, and the view before
// stays as it was.
func TestAddedIsANewView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := draw(t)
		v, before := placement.NewView(s.servers, s.settings...), placement.NewView(s.servers, s.settings...)
		added := placement.Added{"unknown": 3}
		changed := slices.Clone(s.servers)
		for i := range changed {
			if rapid.Bool().Draw(t, "more") {
				more := rapid.Float64Range(-1.5, 1.5).Draw(t, "added")
				added[changed[i].ID] = more
				changed[i].Utilisation = max(0, changed[i].Utilisation+more)
			}
		}
		if diff := cmp.Diff(placement.NewView(changed, s.settings...), v.WithAdded(added), everything); diff != "" {
			t.Fatalf("changed (-anew +WithAdded):\n%s", diff)
		}
		if diff := cmp.Diff(before, v, everything); diff != "" {
			t.Fatalf("the view before (-was +is):\n%s", diff)
		}
	})
}

// TestTimesOrderFallbacks: who is nearest by kilometres is not who answers first.
func TestTimesOrderFallbacks(t *testing.T) {
	at := func(id string, lat, lon float64) placement.Server {
		return placement.Server{ID: id + "-a", Region: id, State: events.StateUp, Capacity: 1, Location: events.Location{Lat: lat, Lon: lon}}
	}
	v := placement.NewView([]placement.Server{
		at("cape-town", -33.9, 18.4), at("sao-paulo", -23.5, -46.6), at("london", 51.5, -0.1), at("sydney", -33.9, 151.2),
	})
	names := func(v *placement.View) (list []string) {
		for _, i := range v.Fallbacks("cape-town") {
			list = append(list, v.Regions[i].Name)
		}
		return list
	}
	if diff := cmp.Diff([]string{"sao-paulo", "london", "sydney"}, names(&v)); diff != "" {
		t.Errorf("by distance (-want +got):\n%s", diff)
	}
	measured := v.WithTimes(func(from, to string) (float64, bool) {
		ms, ok := map[string]float64{"cape-town sao-paulo": 329, "cape-town london": 143}[from+" "+to]
		return ms, ok
	})
	if diff := cmp.Diff([]string{"london", "sydney", "sao-paulo"}, names(&measured)); diff != "" {
		t.Errorf("by time (-want +got):\n%s", diff)
	}
}
