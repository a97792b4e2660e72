package registry_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

func TestViewFindsServers(t *testing.T) {
	in := func(region, id string, state events.State) events.Server {
		return events.Server{
			Server: id, Region: region, State: state, Since: start, Capacity: 10,
			Load: events.Load{Utilisation: 0.5}, Location: events.Location{Lat: 1, Lon: 2},
		}
	}
	// An id in two regions is a fault of the fleet; the first counts and nobody else suffers.
	servers := []events.Server{
		in("a-1", "a-1-a", events.StateUp), in("a-1", "twice", events.StateUp),
		in("b-1", "b-1-a", events.StateDraining), in("b-1", "twice", events.StateUp), in("b-1", "zz", events.StateUp),
		in("c-1", "c-1-a", events.StateDown),
	}
	var current atomic.Int64
	current.Store(start.UnixNano())
	v := registry.NewView(servers, map[string]uint64{"a-1": 3}, &current, start)
	for _, want := range servers {
		got, ok := v.Server(want.Server)
		if want.Server == "twice" {
			want = servers[1]
		}
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("server %s (-want +got):\n%s", want.Server, diff)
		}
		if at, ok := v.Find(want.Server); !ok || v.RegionName(at) != want.Region || v.State(at) != want.State {
			t.Errorf("placement's view has %s in %s, %s", want.Server, v.RegionName(at), v.State(at))
		}
	}
	if _, ok := v.Server("nobody"); ok {
		t.Error("found a server that is not there")
	}
	if got := v.Age(start.Add(3 * time.Second)); got != 3*time.Second {
		t.Errorf("age %v, want 3s", got)
	}
	current.Store(start.Add(2 * time.Second).UnixNano())
	if got := v.Age(start.Add(3 * time.Second)); got != time.Second {
		t.Errorf("age %v after it was proven again, want 1s", got)
	}
	v.Seqs()["a-1"] = 9
	if diff := cmp.Diff(map[string]uint64{"a-1": 3}, v.Seqs()); diff != "" {
		t.Errorf("sequences (-want +got):\n%s", diff)
	}
}
