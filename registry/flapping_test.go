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

// holds collects what is said of one server's holds and returns, in minutes from now.
func holds(w *world, id string) *[]string {
	begun, said := w.now, new([]string)
	w.seen = func(e registry.Effect) {
		c, ok := e.(registry.StateChanged)
		if !ok || c.State.Server != id {
			return
		}
		if c.State.Reason == "flapping" {
			s := server(w.t, w.table, id)
			*said = append(*said, fmt.Sprintf("%.0f held for %v", w.now.Sub(begun).Minutes(), s.HeldUntil.Sub(w.now)))
		}
		if c.State.Previous == events.StateDown && c.State.State != events.StateDown {
			*said = append(*said, fmt.Sprintf("%.0f %s", w.now.Sub(begun).Minutes(), c.State.State))
		}
	}
	return said
}

func TestTheThirdReturnOfABootIsHeldDown(t *testing.T) {
	w := newWorld(t, 8, 50*time.Millisecond, 1)
	s := w.servers[0]
	said := holds(w, s.id)
	for range 9 {
		s.stopped = w.now.Add(10 * time.Second)
		w.run(time.Minute)
	}
	want := []string{"0 up", "1 up", "2 held for 1m0s", "3 up", "4 up", "5 up", "6 held for 2m0s"}
	if len(*said) < len(want) {
		t.Fatalf("said %q", *said)
	}
	if diff := cmp.Diff(want, (*said)[:len(want)]); diff != "" {
		t.Logf("all: %q", *said)
		t.Errorf("holds and returns (-want +got):\n%s", diff)
	}
}

func TestAHoldEndsAndIsForgiven(t *testing.T) {
	w := newWorld(t, 8, 100*time.Millisecond, 2)
	s := w.servers[0]
	said := holds(w, s.id)
	flap := func() {
		for range 3 {
			s.stopped = w.now.Add(8 * time.Second)
			w.run(30 * time.Second)
		}
	}
	var got []string
	for _, calm := range []time.Duration{2 * time.Minute, 20 * time.Minute, time.Minute} {
		flap()
		for _, line := range *said {
			if _, what, ok := strings.Cut(line, " held for "); ok {
				got = append(got, what)
			}
		}
		*said = nil
		if state := server(t, w.table, s.id); state.State != events.StateDown || state.Reason != "flapping" {
			t.Errorf("it is %s (%s), want held down", state.State, state.Reason)
		}
		w.run(calm)
	}
	if diff := cmp.Diff([]string{"1m0s", "2m0s", "1m0s"}, got); diff != "" {
		t.Errorf("held for (-want +got):\n%s", diff)
	}
}

func TestBootLoopsAreHeldDown(t *testing.T) {
	w := newWorld(t, 8, 50*time.Millisecond, 3)
	s := w.servers[0]
	for i := range 10 {
		checkState(t, w.table, s.id, events.StateUp)
		if i < 9 {
			w.boots(s)
			w.run(3 * time.Second)
		}
	}
	w.boots(s) // the eleventh
	w.run(time.Second)
	got := server(t, w.table, s.id)
	if got.State != events.StateDown || got.Reason != "flapping" || got.HeldUntil.IsZero() {
		t.Errorf("after the eleventh boot: %s (%s) until %v, want held down", got.State, got.Reason, got.HeldUntil)
	}
	w.run(62 * time.Second)
	checkState(t, w.table, s.id, events.StateUp)
}

func TestAHoldOutlivesTheRegistry(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(registry.Restored{Servers: []events.Server{{
		Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://eu-west-1-a.example.com", Boot: boot(1), State: events.StateDown,
		Reason: "flapping", Since: start, HeldUntil: at(30), IntervalMS: 1000, Capacity: 10, Seq: 7,
	}}}, at(0))
	for i := range 29 {
		checkWords(t, fmt.Sprint(i), table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1))), at(1+float64(i))))
	}
	checkWords(t, "then", table.Reduce(live(beat("eu-west-1-a", boot(1), 40)), at(30)), "up<down heartbeat")
}

func TestAMemberThatCrashesIsNoReasonToHoldItsCell(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 30 {
		now := at(float64(i))
		table.Reduce(live(beat("eu-west-1-a", boot(i), 1, member("m1"))), now)
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), member("m2"))), now)
	}
	checkState(t, table, "eu-west-1-a", events.StateUp)
}
