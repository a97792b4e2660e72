package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// desk is a registry with some servers, whose operators are served.
type desk struct {
	*registry.Registry
	t *testing.T
}

// newDesk starts a registry on a connection of its own and waits until it knows all servers.
func newDesk(t *testing.T, url string, servers int, change ...func(*registry.Config)) *desk {
	t.Helper()
	r := newRegistry(t, jetstreamtest.Dial(t, url), change...)
	run(t, r.Run)
	jetstreamtest.Eventually(t, 10*time.Second, "all servers", func() bool {
		v := r.View()
		return v != nil && len(v.Servers) == servers
	})
	return &desk{Registry: r, t: t}
}

func (d *desk) shows(id string, state events.State) {
	d.t.Helper()
	jetstreamtest.Eventually(d.t, 10*time.Second, id+" "+string(state), func() bool {
		s, _ := d.View().Server(id)
		return s.State == state
	})
}

// startServers sends the heartbeats of servers a, b, … of eu-west-1.
func startServers(t *testing.T, c *jetstream.Conn, n int) []string {
	t.Helper()
	var ids []string
	for i := range n {
		id := fmt.Sprintf("eu-west-1-%c", 'a'+i)
		run(t, newAgent(c, id, refusing(t), time.Second).run(t))
		ids = append(ids, id)
	}
	return ids
}

// TestEveryRegistryTakesAndKnowsWishes: two of a region, of which either is asked.
func TestEveryRegistryTakesAndKnowsWishes(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	ids := startServers(t, c, 3)
	first, second := newDesk(t, url, 3), newDesk(t, url, 3)
	for i, d := range []*desk{first, second} {
		reply, err := d.Drain(t.Context(), registry.DrainRequest{Server: ids[i], Deadline: "5m", By: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(reply.Until); reply.Server != ids[i] || reply.Servers != 1 || reply.Sessions != 100 || left > 5*time.Minute || left < 4*time.Minute {
			t.Errorf("drain: %+v", reply)
		}
	}
	for _, d := range []*desk{first, second} {
		d.shows(ids[0], events.StateDraining)
		d.shows(ids[1], events.StateDraining)
	}
	reply, err := second.Drain(t.Context(), registry.DrainRequest{Server: ids[2]})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"no other server of eu-west-1, and no other region, takes sessions: those of " + ids[2] + " stay until one does, and logins fail (503)"}
	if diff := cmp.Diff(want, reply.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}

	// What is stored can be read, and says who and when.
	value, revision, err := c.Wishes().Get(t.Context())
	if err != nil || revision == 0 {
		t.Fatalf("revision %d: %v", revision, err)
	}
	var stored registry.Wishes
	if err := json.Unmarshal(value, &stored); err != nil {
		t.Fatal(err)
	}
	if d := stored.Servers[ids[0]]; len(stored.Servers) != 3 || d.By != "ada" || time.Since(d.At) > time.Minute {
		t.Errorf("stored %s", value)
	}

	// A third that starts now knows them from its first view on, whomever it has heard yet.
	third := newDesk(t, url, 3)
	for _, id := range ids {
		if s, _ := third.View().Server(id); s.State == events.StateUp || s.DrainUntil.IsZero() {
			t.Errorf("the new registry shows %s %s (%s) until %s", id, s.State, s.Reason, s.DrainUntil)
		}
	}
	for _, id := range ids {
		third.shows(id, events.StateDraining)
	}
	for _, id := range ids {
		if reply, err := third.Undrain(t.Context(), registry.DrainRequest{Server: id}); err != nil || !reply.Changed {
			t.Errorf("undrain: %+v, %v", reply, err)
		}
		first.shows(id, events.StateUp)
	}
	if reply, err := first.Undrain(t.Context(), registry.DrainRequest{Server: ids[0]}); err != nil || reply.Changed {
		t.Errorf("undrained twice: %+v, %v", reply, err)
	}
}

// TestWishesAtTheSameMoment: none is lost.
func TestWishesAtTheSameMoment(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	ids := startServers(t, c, 6)
	desks := []*desk{newDesk(t, url, 6), newDesk(t, url, 6)}
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			for { // as a person would that is told to try again
				_, err := desks[i%2].Drain(t.Context(), registry.DrainRequest{Server: id})
				if err == nil {
					return
				}
				var refused *registry.Refusal
				if !errors.As(err, &refused) || refused.Code != registry.RefusedConflict {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	for _, id := range ids {
		desks[0].shows(id, events.StateDraining)
	}
}

// TestADrainOfTheRegion names what an undrain leaves drained.
func TestADrainOfTheRegion(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	ids := startServers(t, c, 2)
	d := newDesk(t, url, 2)
	reply, err := d.Drain(t.Context(), registry.DrainRequest{})
	if err != nil || reply.Servers != 2 || reply.Sessions != 200 || len(reply.Warnings) != 1 {
		t.Errorf("drain: %+v, %v", reply, err)
	}
	if _, err := d.Drain(t.Context(), registry.DrainRequest{Server: ids[0]}); err != nil {
		t.Error(err)
	}
	d.shows(ids[1], events.StateDraining)
	if _, err := d.Undrain(t.Context(), registry.DrainRequest{Server: ids[1]}); err == nil || err.Error() != "server eu-west-1-b drains with its region: undrain eu-west-1" {
		t.Errorf("undrain of a server that drains with its region: %v", err)
	}
	undrained := func(server string, want ...string) {
		t.Helper()
		reply, err := d.Undrain(t.Context(), registry.DrainRequest{Server: server})
		if err != nil || !reply.Changed {
			t.Errorf("undrain: %+v, %v", reply, err)
		}
		if diff := cmp.Diff(want, reply.Warnings); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
	}
	undrained(ids[0], "it drains on with its region: undrain eu-west-1")
	if _, err := d.Drain(t.Context(), registry.DrainRequest{Server: ids[0]}); err != nil {
		t.Error(err)
	}
	undrained("", "drained by themselves, so still draining: eu-west-1-a")
	undrained(ids[0])
	d.shows(ids[0], events.StateUp)
	d.shows(ids[1], events.StateUp)
}

// TestSettingsOfARegion: each stays as it is unless it is named.
func TestSettingsOfARegion(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	startServers(t, c, 1)
	d := newDesk(t, url, 1)
	for _, step := range []struct {
		request registry.RegionRequest
		want    string
	}{
		{registry.RegionRequest{}, "active 100"},
		{registry.RegionRequest{Weight: new(40)}, "active 40"},
		{registry.RegionRequest{Role: events.RoleStandby}, "standby 40"},
		{registry.RegionRequest{Role: events.RoleActive, Weight: new(0)}, "active 0"},
		{registry.RegionRequest{Weight: new(100)}, "active 100"},
	} {
		reply, err := d.SetRegion(t.Context(), step.request)
		if got := fmt.Sprint(reply.Role, " ", reply.Weight); err != nil || got != step.want || reply.Region != "eu-west-1" {
			t.Fatalf("%+v: %+v, %v, want %s", step.request, reply, err, step.want)
		}
		if alone := reply.Role == events.RoleStandby || reply.Weight == 0; alone != (len(reply.Warnings) == 1) {
			t.Errorf("%s: warnings %q", step.want, reply.Warnings)
		}
		jetstreamtest.Eventually(t, 10*time.Second, step.want, func() bool {
			list, err := d.Regions(time.Now())
			return err == nil && len(list) == 1 && fmt.Sprint(list[0].Role, " ", list[0].Weight) == step.want && list[0].Up == 1 &&
				list[0].Usable == 1 && list[0].Sessions == 100 && list[0].Capacity == 1000 && list[0].Reachable
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	startServers(t, c, 3)
	d := newDesk(t, url, 3)
	drain := func(q registry.DrainRequest) func() error {
		return func() error { _, err := d.Drain(t.Context(), q); return err }
	}
	set := func(q registry.RegionRequest) func() error {
		return func() error { _, err := d.SetRegion(t.Context(), q); return err }
	}
	for _, test := range []struct {
		try  func() error
		code int
		want string
	}{
		{drain(registry.DrainRequest{Server: "eu-west-1-bb"}), 404, `region eu-west-1 has no server "eu-west-1-bb"; nearest: eu-west-1-b, eu-west-1-a, eu-west-1-c`},
		{func() error { _, err := d.Undrain(t.Context(), registry.DrainRequest{Server: "x"}); return err }, 404, `region eu-west-1 has no server "x"; nearest: eu-west-1-a, eu-west-1-b, eu-west-1-c`},
		{drain(registry.DrainRequest{Deadline: "soon"}), 400, `deadline "soon": want a duration such as 10m`},
		{drain(registry.DrainRequest{Deadline: "0s"}), 400, "deadline 0s: want more than 0 and at most 168h0m0s"},
		{drain(registry.DrainRequest{Deadline: "-1m"}), 400, "deadline -1m0s: want more than 0 and at most 168h0m0s"},
		{drain(registry.DrainRequest{Deadline: "169h"}), 400, "deadline 169h0m0s: want more than 0 and at most 168h0m0s"},
		{drain(registry.DrainRequest{By: strings.Repeat("x", 129)}), 400, "by: want at most 128 bytes"},
		{set(registry.RegionRequest{Role: "spare"}), 400, `role "spare": want active or standby`},
		{set(registry.RegionRequest{Weight: new(101)}), 400, "weight 101: want 0 to 100"},
		{set(registry.RegionRequest{Weight: new(-1)}), 400, "weight -1: want 0 to 100"},
	} {
		var refused *registry.Refusal
		if err := test.try(); !errors.As(err, &refused) || refused.Code != test.code || refused.Detail != test.want {
			t.Errorf("refused by %v, want %d %s", err, test.code, test.want)
		}
	}
	if _, revision, err := c.Wishes().Get(t.Context()); err != nil || revision != 0 {
		t.Errorf("revision %d after nothing but refusals, %v", revision, err)
	}
	if s := registry.Suggest("x", nil); s != "" {
		t.Errorf("suggested %q", s)
	}
}

// TestGarbledWishes: a value that somebody has broken stops no registry, and is not replaced
// by a command that knows nothing of what it was.
func TestGarbledWishes(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	ids := startServers(t, c, 1)
	before := newDesk(t, url, 1)
	if _, err := before.Drain(t.Context(), registry.DrainRequest{Server: ids[0]}); err != nil {
		t.Fatal(err)
	}
	before.shows(ids[0], events.StateDraining)
	_, revision, err := c.Wishes().Get(t.Context())
	if err == nil {
		revision, err = c.Wishes().Put(t.Context(), []byte(`{"weight": "much"}`), revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	newDesk(t, url, 1)
	before.shows(ids[0], events.StateDraining)
	var refused *registry.Refusal
	if _, err := before.Drain(t.Context(), registry.DrainRequest{}); !errors.As(err, &refused) || refused.Code != registry.RefusedUnavailable || !strings.Contains(refused.Detail, "garbled") {
		t.Errorf("drain: %v", err)
	}
	if _, err := c.Wishes().Put(t.Context(), []byte(`{}`), revision); err != nil {
		t.Fatal(err)
	}
	before.shows(ids[0], events.StateUp)
}

// wishStore is a WishStore in memory whose faults have names.
type wishStore struct {
	mu       sync.Mutex
	value    []byte
	revision uint64
	// fault is what happens to the next write: "" nothing, "lost" it is not done, "unknown" it
	// is done and the writer hears of an error.
	fault string
	fn    func([]byte, uint64, bool)
}

func (s *wishStore) Get(context.Context) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.revision, nil
}

func (s *wishStore) Put(_ context.Context, value []byte, revision uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := s.fault
	s.fault = ""
	if fault == "lost" {
		return 0, errors.New("no leader")
	}
	if revision != s.revision {
		return 0, fmt.Errorf("%w: revision %d", registry.ErrFenced, s.revision)
	}
	s.value, s.revision = value, revision+1
	if s.fn != nil {
		s.fn(value, s.revision, false)
	}
	if fault == "unknown" {
		return 0, errors.New("no answer")
	}
	return s.revision, nil
}

func (s *wishStore) Watch(ctx context.Context, fn func([]byte, uint64, bool)) error {
	s.mu.Lock()
	s.fn = fn
	fn(s.value, s.revision, true)
	s.mu.Unlock()
	<-ctx.Done()
	return nil
}

// TestAnUncertainWishIsSaidToBe: the operator hears that it may have been noted; what is so is
// what registries show.
func TestAnUncertainWishIsSaidToBe(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Provisioned(t, url)
	ids := startServers(t, c, 1)
	store := &wishStore{}
	d := newDesk(t, url, 1, func(c *registry.Config) { c.Wishes = store })
	for _, fault := range []string{"lost", "unknown"} {
		store.mu.Lock()
		store.fault = fault
		store.mu.Unlock()
		var refused *registry.Refusal
		if _, err := d.Drain(t.Context(), registry.DrainRequest{Server: ids[0]}); !errors.As(err, &refused) || refused.Code != registry.RefusedUnavailable {
			t.Errorf("%s: %v", fault, err)
		}
	}
	d.shows(ids[0], events.StateDraining)
}

// TestDrainsOneByOneAreBounded: what is stored has to fit into a message.
func TestDrainsOneByOneAreBounded(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	ids := startServers(t, jetstreamtest.Provisioned(t, url), 1)
	full := registry.Wishes{Servers: map[string]registry.Drain{}}
	for i := range 2000 {
		full.Servers[fmt.Sprintf("%s-%060d", "eu", i)] = registry.Drain{Until: start, At: start, By: strings.Repeat("x", 128)}
	}
	value, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	if len(value) > 1<<20 {
		t.Errorf("so many drains are %d bytes, more than a message may have", len(value))
	}
	d := newDesk(t, url, 1, func(c *registry.Config) { c.Wishes = &wishStore{value: value, revision: 1} })
	var refused *registry.Refusal
	if _, err := d.Drain(t.Context(), registry.DrainRequest{Server: ids[0]}); !errors.As(err, &refused) || refused.Code != registry.RefusedConflict {
		t.Errorf("drained one more: %v", err)
	}
	if _, err := d.Drain(t.Context(), registry.DrainRequest{}); err != nil {
		t.Errorf("the region: %v", err)
	}
}

// TestWishesForTheGoneAreRemoved: by the registry that leads, once nobody can want them.
func TestWishesForTheGoneAreRemoved(t *testing.T) {
	t.Parallel()
	url := refusing(t)
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		c := connect()
		r := newRegistry(t, c)
		run(t, r.Run)
		leaves := newAgent(c, "eu-west-1-a", url, time.Second)
		stop := run(t, leaves.run(t))
		run(t, newAgent(c, "eu-west-1-b", url, time.Second).run(t))
		time.Sleep(3 * time.Second)
		for _, id := range []string{"eu-west-1-a", "eu-west-1-b"} {
			if _, err := r.Drain(t.Context(), registry.DrainRequest{Server: id}); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		leaves.h.State = events.StateLeft
		leaves.send(t)
		noted := func() string {
			value, _, err := c.Wishes().Get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var w registry.Wishes
			if err := json.Unmarshal(value, &w); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(sortedKeys(w.Servers))
		}
		time.Sleep(55 * time.Minute)
		if got := noted(); got != "[eu-west-1-a eu-west-1-b]" {
			t.Errorf("after 55 min %s", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := noted(); got != "[eu-west-1-b]" {
			t.Errorf("after 65 min %s", got)
		}
	})
}
