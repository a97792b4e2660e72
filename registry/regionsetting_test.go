package registry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// setting returns what operators have set of the own region.
func setting(revision uint64, role events.Role, weight int) registry.WishesSeen {
	return registry.WishesSeen{Wishes: &registry.Wishes{Role: role, Weight: &weight}, Revision: revision}
}

// set returns how a region is set in a view of the values, as "standby 40".
func set(values []events.Server, region string) string {
	v := registry.NewView(values, nil, nil, start)
	i, _ := v.Region(region)
	return fmt.Sprint(v.Regions[i].Role, " ", v.Regions[i].Weight)
}

// toldBucket is a bucket that a table tells.
type toldBucket map[string]events.Server

func (b toldBucket) take(told registry.Told) {
	for _, v := range told.Values {
		b[v.Key()] = *v
	}
	for _, key := range told.Gone {
		delete(b, key)
	}
}

func (b toldBucket) values() []events.Server {
	var list []events.Server
	for _, key := range sortedKeys(b) {
		list = append(list, b[key])
	}
	return list
}

// TestARegionsSettingIsToldByOneWrite: its own registry and another's each write one value at
// once, by which every reader knows; the others follow with the refreshes.
func TestARegionsSettingIsToldByOneWrite(t *testing.T) {
	const n = 40
	own, other := registry.NewTable("eu-west-1", registry.Detection{}), registry.NewTable("us-east-1", registry.Detection{})
	here, there := toldBucket{}, toldBucket{}
	seq := uint64(0)
	tell := func(seconds float64) (mine, theirs int) {
		told := own.Tell(at(seconds))
		here.take(told)
		for _, u := range told.Updates {
			for i := range u.Servers {
				if u.Servers[i].RegionRole != "" || u.Servers[i].RegionWeight != nil {
					t.Errorf("update %d carries the setting in each server", u.Seq)
				}
			}
			other.Reduce(registry.UpdateSeen{Update: u}, at(seconds))
		}
		passed := other.Tell(at(seconds))
		there.take(passed)
		return len(told.Values), len(passed.Values)
	}
	beats := func(seconds float64) {
		seq++
		for i := range n {
			own.Reduce(live(beat(fmt.Sprintf("eu-west-1-%02d", i), boot(1), seq)), at(seconds))
		}
	}
	both := func(want string) {
		t.Helper()
		for name, b := range map[string]toldBucket{"here": here, "there": there} {
			if got := set(b.values(), "eu-west-1"); got != want {
				t.Errorf("%s the region is %s, want %s", name, got, want)
			}
		}
		if got := set(own.Servers(), "eu-west-1"); got != want {
			t.Errorf("in its registry the region is %s, want %s", got, want)
		}
	}
	beats(0)
	tell(0)
	both("active 100")
	own.Reduce(setting(1, events.RoleStandby, 40), at(0.1))
	if mine, theirs := tell(0.1); mine != 1 || theirs != 1 {
		t.Errorf("%d and %d writes at once, want one each", mine, theirs)
	}
	both("standby 40")
	for s := 1; s <= 60; s++ {
		beats(float64(s))
		if mine, _ := tell(float64(s)); mine > n/4 {
			t.Errorf("second %d: %d writes", s, mine)
		}
		both("standby 40")
	}
	for key, v := range there {
		if v.RegionRole != events.RoleStandby || events.WeightOf(v.RegionWeight) != 40 {
			t.Errorf("a minute later %s says %q, %d", key, v.RegionRole, events.WeightOf(v.RegionWeight))
		}
	}

	// Both outlive their registries.
	for _, event := range []registry.Event{registry.Restored{Servers: there.values()}, registry.Elected{Servers: there.values()}} {
		anew := registry.NewTable("us-east-1", registry.Detection{})
		anew.Reduce(event, at(61))
		if got := set(anew.Servers(), "eu-west-1"); got != "standby 40" {
			t.Errorf("after %T the region is %s", event, got)
		}
	}
	own.Reduce(setting(2, "", 100), at(61))
	tell(61.1)
	both("active 100")
}

// TestALateUpdateChangesNoSetting: of a region's settings the newest counts, in whatever order
// updates arrive.
func TestALateUpdateChangesNoSetting(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	with := func(weight int) func(*events.ViewUpdate) {
		return func(u *events.ViewUpdate) { u.Weight = &weight }
	}
	for _, u := range []*events.ViewUpdate{
		update(3, with(30), remote("us-east-1-a", 3)), update(2, with(20), remote("us-east-1-b", 2)), update(1, with(10)),
	} {
		table.Reduce(registry.UpdateSeen{Update: u}, at(5))
	}
	if got := set(table.Servers(), "us-east-1"); got != "active 30" {
		t.Errorf("the region is %s", got)
	}
}

// TestASettingOutlivesTheServerThatCarriedIt: one value told of it, and that server goes before
// the others were refreshed. Readers of the bucket know all the same, in every region.
func TestASettingOutlivesTheServerThatCarriedIt(t *testing.T) {
	table, other := registry.NewTable("eu-west-1", registry.Detection{Keep: 5 * time.Second}), registry.NewTable("us-east-1", registry.Detection{})
	here, there := toldBucket{}, toldBucket{}
	tell := func(seconds float64) {
		table.Reduce(registry.Ticked{}, at(seconds))
		told := table.Tell(at(seconds))
		here.take(told)
		for _, u := range told.Updates {
			other.Reduce(registry.UpdateSeen{Update: u}, at(seconds))
		}
		there.take(other.Tell(at(seconds)))
	}
	both := func(what string) {
		t.Helper()
		for name, b := range map[string]toldBucket{"here": here, "there": there} {
			if got := set(b.values(), "eu-west-1"); got != "standby 40" {
				t.Errorf("%s: %s the region is %s", what, name, got)
			}
		}
	}
	beats := func(seconds float64, first int, change ...func(*events.Heartbeat)) {
		for i := first; i < 4; i++ {
			table.Reduce(live(beat(fmt.Sprint("eu-west-1-", i), boot(1), uint64(1+10*seconds), change...)), at(seconds))
		}
	}
	beats(0, 0)
	tell(0)
	table.Reduce(setting(1, events.RoleStandby, 40), at(0.1))
	tell(0.1)
	both("set")
	for key, s := range here {
		if carries := key == "eu-west-1.eu-west-1-0"; carries != (s.RegionRole == events.RoleStandby) {
			t.Errorf("%s says %q", key, s.RegionRole)
		}
	}
	table.Reduce(live(beat("eu-west-1-0", boot(1), 100, saying(events.StateLeft))), at(0.2))
	for s := 1; s < 10; s++ {
		beats(float64(s), 1)
		tell(float64(s))
		both(fmt.Sprint("second ", s))
	}
	if len(here) != 3 {
		t.Errorf("%d servers are left, want 3", len(here))
	}
}
