package registry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// regionChanges collects the events about the region, by the second, and counts the deaths.
func regionChanges(w *world) (changes *[]string, deaths *int) {
	begun := w.now
	changes, deaths = new([]string), new(int)
	w.seen = func(e registry.Effect) {
		switch e := e.(type) {
		case registry.RegionChanged:
			said := e.State.State
			if said == "up" {
				said, _, _ = strings.Cut(e.State.Reason, ":")
			}
			*changes = append(*changes, fmt.Sprintf("%.0f %s", w.now.Sub(begun).Seconds(), said))
		case registry.StateChanged:
			if e.State.State == events.StateDown {
				*deaths++
			}
		}
	}
	return changes, deaths
}

// protections counts what protects the servers.
func protections(w *world) map[string]int {
	all := map[string]int{}
	for _, s := range w.table.Servers() {
		if s.Protection != "" {
			all[string(s.State)+" "+s.Protection]++
		}
	}
	return all
}

func TestManySilentServersThatAnswerAreNotDead(t *testing.T) {
	w := newWorld(t, 100, 50*time.Millisecond, 1)
	changes, deaths := regionChanges(w)
	for _, s := range w.servers[:40] {
		s.mute = w.now.Add(30 * time.Second)
	}
	w.run(15 * time.Second)
	if diff := cmp.Diff(map[string]int{"up protected": 60, "suspect protected": 40}, protections(w)); diff != "" {
		t.Errorf("in the records (-want +got):\n%s", diff)
	}
	w.run(45 * time.Second)
	if *deaths != 0 {
		t.Errorf("%d deaths, want none", *deaths)
	}
	if got := w.count(events.StateUp); got != 100 {
		t.Errorf("%d servers are up in the end, want all", got)
	}
	if len(*changes) != 2 || !strings.HasSuffix((*changes)[0], " protected") || !strings.HasSuffix((*changes)[1], " protected ended") {
		t.Errorf("the region was said to be %q, want protected, then no more", *changes)
	}
	if diff := cmp.Diff(map[string]int{}, protections(w)); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}

func TestLostHeartbeatsProtect(t *testing.T) {
	for _, test := range []struct {
		lost float64
		want bool
	}{{0.05, false}, {0.3, true}} {
		w := newWorld(t, 200, 50*time.Millisecond, 2)
		changes, deaths := regionChanges(w)
		for _, s := range w.servers {
			s.lost = test.lost
		}
		w.run(20 * time.Second)
		if got := len(*changes) > 0; got != test.want {
			t.Errorf("with %v of the heartbeats lost: protected %v (%q), want %v", test.lost, got, *changes, test.want)
		}
		if *deaths != 0 {
			t.Errorf("with %v of the heartbeats lost: %d deaths", test.lost, *deaths)
		}
	}
}

func TestFewDieAtATimeUnderProtection(t *testing.T) {
	for _, test := range []struct{ servers, dead, most int }{{100, 50, 5}, {20, 12, 3}} {
		w := newWorld(t, test.servers, 50*time.Millisecond, 3)
		_, deaths := regionChanges(w)
		for _, s := range w.servers[:test.dead] {
			w.kill(s)
		}
		var times []time.Time
		for range 20 * 130 {
			before := *deaths
			w.step()
			for range *deaths - before {
				times = append(times, w.now)
			}
		}
		for i := test.most; i < len(times); i++ {
			if d := times[i].Sub(times[i-test.most]); d < 10*time.Second {
				t.Errorf("%d of %d: deaths %d to %d within %v", test.dead, test.servers, i-test.most, i, d)
			}
		}
		if got := w.count(events.StateDown); got != test.dead {
			t.Errorf("%d of %d: %d are down after two minutes", test.dead, test.servers, got)
		}
	}
}

func TestFewDeathsNeedNoProtection(t *testing.T) {
	w := newWorld(t, 20, 50*time.Millisecond, 4)
	changes, deaths := regionChanges(w)
	w.kill(w.servers[0])
	w.kill(w.servers[1])
	w.run(6 * time.Second)
	if *deaths != 2 || len(*changes) != 0 {
		t.Errorf("%d deaths and %q, want 2 and no protection", *deaths, *changes)
	}
}

func TestFailOpen(t *testing.T) {
	w := newWorld(t, 10, 50*time.Millisecond, 5)
	changes, _ := regionChanges(w)
	for _, s := range w.servers[:6] {
		s.mute = w.now.Add(20 * time.Second)
	}
	w.servers[6].mute = w.now.Add(20 * time.Second)
	w.servers[6].stopped = w.now.Add(20 * time.Second) // its probes fail
	w.run(8 * time.Second)
	got := map[string]events.State{}
	v := viewOf(w.table)
	for _, r := range v.Regions {
		for i, id := range r.ID {
			got[id] = r.State[i]
		}
	}
	want := map[string]events.State{}
	for _, s := range w.servers {
		want[s.id] = events.StateUp
	}
	want[w.servers[6].id] = events.StateDown
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what placement sees (-want +got):\n%s", diff)
	}
	if s, _ := v.Server(w.servers[0].id); s.State != events.StateSuspect || s.Protection != events.FailOpen {
		t.Errorf("the record says %s, %q; want suspect, fail_open", s.State, s.Protection)
	}
	w.run(40 * time.Second)
	if got := fmt.Sprint(*changes); !strings.Contains(got, "fail_open ended") || !strings.Contains(got, "protected ended") {
		t.Errorf("the region was said to be %s, want both protections ended", got)
	}
}

func TestAPauseOfTheRegistryIsNoProtectionsCause(t *testing.T) {
	w := newWorld(t, 50, 50*time.Millisecond, 6)
	changes, deaths := regionChanges(w)
	w.cut = true
	w.run(900 * time.Millisecond)
	w.cut, w.now = false, w.now.Add(20*time.Second) // it was stopped
	for _, s := range w.servers {
		s.next = w.now.Add(time.Duration(w.rng.Int64N(int64(time.Second))))
	}
	w.run(10 * time.Second)
	if diff := cmp.Diff([]string{"21 protected"}, *changes); *deaths != 0 || diff != "" {
		t.Errorf("%d deaths; beside the word of the pause (-want +got):\n%s", *deaths, diff)
	}
}

func TestAProtectionEndsWithItsRegionsReach(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	s := remote("us-east-1-a", 1)
	s.State, s.Protection = events.StateSuspect, events.FailOpen
	table.Reduce(registry.UpdateSeen{Update: update(1, nil, s)}, at(0))
	state := func() events.State {
		v := viewOf(table)
		r, _ := v.Find("us-east-1-a")
		return v.Regions[r.Region].State[r.Server]
	}
	if got := state(); got != events.StateUp {
		t.Errorf("its region fails open, and placement sees it %s", got)
	}
	for i := range 21 {
		table.Reduce(registry.Ticked{}, at(float64(i)/2))
	}
	if got := state(); got != events.StateSuspect {
		t.Errorf("its region is unreachable, and placement sees it %s", got)
	}
}
