package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// seen is a heartbeat and when it arrived.
type seen struct {
	event registry.Event
	at    time.Time
}

// history is what a region's heartbeats said in half a minute: a server that drains and says
// goodbye, one that is started anew, one with three members of which one drains and one
// restarts, one that just lives, and one that leaves its load to central telemetry. What a
// stream had kept of some of them is in between, and what operators want, at last that the one
// with three members drains.
func history() []seen {
	var all []seen
	add := func(h *events.Heartbeat, seconds float64) { all = append(all, seen{live(h), at(seconds)}) }
	for i := range 20 {
		s := float64(i)
		load := utilised(float64(i%7) / 10)
		add(beat("eu-west-1-a", boot(1), uint64(i+1), load), s)
		state := events.StateUp
		if i > 12 {
			state = events.StateDraining
		}
		if i == 19 {
			state = events.StateLeft
		}
		add(beat("eu-west-1-b", boot(2), uint64(i+1), load, saying(state)), s+0.1)
		if i < 8 {
			add(beat("eu-west-1-c", boot(3), uint64(i+1), load, saying(state)), s+0.2)
		} else if i > 9 {
			add(beat("eu-west-1-c", boot(4), uint64(i-9), load, func(h *events.Heartbeat) { h.URL += ":8443" }), s+0.2)
		}
		add(beat("eu-west-1-d", boot(5), uint64(i+1), load, member("m1")), s+0.3)
		add(beat("eu-west-1-d", boot(6), uint64(i+1), load, member("m2"), saying(state)), s+0.4)
		third := boot(7 + i/10)
		add(beat("eu-west-1-d", third, uint64(i+1), load, member("m3")), s+0.5)
	}
	for i := range 4 {
		// Central telemetry speaks of one that says nothing of its load itself, and of a cell.
		s := 5 * float64(i)
		all = append(all,
			seen{report("eu-west-1-e", s, events.Load{Sessions: 10 * i, CPU: 0.1}, "sessions", "cpu"), at(s + 0.7)},
			seen{report("eu-west-1-e", s, events.Load{Utilisation: 0.1 * float64(i)}, "utilisation"), at(s + 0.8)},
			seen{report("eu-west-1-d", s, events.Load{Utilisation: 0.2 * float64(i)}, "utilisation"), at(s + 0.6)})
	}
	for i := range 19 {
		add(beat("eu-west-1-e", boot(20), uint64(i+1), loading(events.Load{})), float64(i)+0.6)
	}
	kept := []*events.Heartbeat{
		beat("eu-west-1-a", boot(1), 9, utilised(0.8)), beat("eu-west-1-b", boot(2), 15, saying(events.StateDraining)),
		beat("eu-west-1-c", boot(3), 8), beat("eu-west-1-d", boot(7), 5, member("m3")),
	}
	for _, h := range kept {
		all = append(all, seen{stored(h), at(15.5)})
	}
	const a, d = "eu-west-1-a", "eu-west-1-d"
	for i, drains := range []map[string]float64{{a: 60, d: 80}, {"": 90}, {d: 70}} {
		all = append(all, seen{wish(uint64(i+1), drains), at(5 * float64(i))})
	}
	return all
}

// fold returns the view after a history and a moment in which its last word is told.
func fold(all []seen) *registry.View {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for _, s := range all {
		table.Reduce(s.event, s.at)
	}
	table.Reduce(registry.Ticked{}, at(20))
	table.Tell(at(20))
	return viewOf(table)
}

func TestAnyOrderFoldsToTheSameView(t *testing.T) {
	recorded := history()
	want := fold(recorded)
	states := map[string]events.State{}
	for _, s := range want.Servers {
		states[s.Server] = s.State
	}
	wantStates := map[string]events.State{
		"eu-west-1-a": events.StateUp, "eu-west-1-b": events.StateLeft, "eu-west-1-c": events.StateUp, "eu-west-1-d": events.StateDraining,
		"eu-west-1-e": events.StateUp,
	}
	if diff := cmp.Diff(wantStates, states); diff != "" {
		t.Fatalf("states in the order as recorded (-want +got):\n%s", diff)
	}
	shuffled := func(t *rapid.T) []seen {
		all := slices.Clone(recorded)
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(recorded)-1), 0, 60).Draw(t, "again") {
			again := recorded[i]
			again.at = again.at.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "later")) * time.Millisecond)
			all = append(all, again)
		}
		return rapid.Permutation(all).Draw(t, "order")
	}
	t.Run("each at its own time", rapid.MakeCheck(func(t *rapid.T) {
		// When a state was noticed depends on what was known by then; that it holds does not.
		ignore := cmpopts.IgnoreFields(events.Server{}, "Since")
		if diff := cmp.Diff(want.Servers, fold(shuffled(t)).Servers, ignore); diff != "" {
			t.Fatalf("another view (-want +got):\n%s", diff)
		}
	}))
	t.Run("all at once", rapid.MakeCheck(func(t *rapid.T) {
		once := func(all []seen) []seen {
			all = slices.Clone(all)
			for i := range all {
				all[i].at = at(20)
			}
			return all
		}
		first := fold(once(recorded))
		other := fold(once(shuffled(t)))
		if diff := cmp.Diff(first.Servers, other.Servers); diff != "" {
			t.Fatalf("another view (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(first.Regions, other.Regions, cmpopts.IgnoreUnexported(first.Regions[0])); diff != "" {
			t.Fatalf("another view for placement (-want +got):\n%s", diff)
		}
	}))
}

func TestAHeartbeatTwiceChangesNothing(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	checkWords(t, "first", table.Reduce(live(beat("eu-west-1-a", boot(1), 7)), at(0)), "up< heartbeat")
	table.Tell(at(0))
	before := table.Changes()
	checkWords(t, "again", table.Reduce(live(beat("eu-west-1-a", boot(1), 7)), at(1)), "skipped older")
	checkWords(t, "sequence back", table.Reduce(live(beat("eu-west-1-a", boot(1), 3, saying(events.StateDraining))), at(1)), "skipped older", "eu-west-1 bad_heartbeats")
	table.Tell(at(1))
	if got := table.Changes(); got != before {
		t.Errorf("%d changes, want none", got-before)
	}
	if got := server(t, table, "eu-west-1-a"); !got.SeenAt.Equal(at(0)) {
		t.Errorf("seen at %s: one that came twice is no new sign of life", got.SeenAt)
	}
}

func TestTheSendersClockDoesNotCount(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 10 {
		skew := time.Duration(i-5) * time.Minute
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), func(h *events.Heartbeat) { h.At = start.Add(skew) })), at(float64(i)))
		checkWords(t, "tick", table.Reduce(registry.Ticked{}, at(float64(i))))
	}
	if got := server(t, table, "eu-west-1-a"); !got.SeenAt.Equal(at(9)) || got.State != events.StateUp {
		t.Errorf("%s, seen at %s, want up, seen at %s", got.State, got.SeenAt, at(9))
	}
}

func TestBoundsAndForeignHeartbeatsAreSkipped(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{MaxServers: 3, MaxMembers: 2})
	for i := range 100 {
		table.Reduce(live(beat(fmt.Sprintf("eu-west-1-%03d", i), boot(1), 1)), at(0))
	}
	checkWords(t, "one too many", table.Reduce(live(beat("eu-west-1-zzz", boot(1), 1)), at(0)), "skipped too_many")
	checkWords(t, "a second member", table.Reduce(live(beat("eu-west-1-000", boot(1), 1, member("x"))), at(0)))
	checkWords(t, "a third member", table.Reduce(live(beat("eu-west-1-000", boot(1), 1, member("y"))), at(0)), "skipped too_many", "eu-west-1 bad_heartbeats")
	checkWords(t, "another region's", table.Reduce(live(beat("eu-west-1-000", boot(1), 2, func(h *events.Heartbeat) { h.Region = "us-east-1" })), at(0)), "skipped foreign_region")
	if got := len(table.Servers()); got != 3 {
		t.Errorf("%d servers, want 3", got)
	}
}

func TestTwoLiveBootsOfOneServer(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	var disputes []string
	reduce := func(h *events.Heartbeat, now time.Time) {
		for _, e := range table.Reduce(live(h), now) {
			if r, ok := e.(registry.RegionChanged); ok {
				disputes = append(disputes, fmt.Sprintf("%.1f %s", now.Sub(start).Seconds(), r.State.State))
				if !strings.Contains(r.State.Reason, boot(1)) || !strings.Contains(r.State.Reason, boot(2)) {
					t.Errorf("reason %q names not both boots", r.State.Reason)
				}
			}
		}
	}
	for i := range 70 {
		s := float64(i)
		reduce(beat("eu-west-1-a", boot(1), uint64(i+1), func(h *events.Heartbeat) { h.Capacity = 1 }), at(s))
		if i >= 3 {
			reduce(beat("eu-west-1-a", boot(2), uint64(i), func(h *events.Heartbeat) { h.Capacity = 2 }), at(s+0.5))
			if got := server(t, table, "eu-west-1-a"); got.Boot != boot(2) || got.Capacity != 2 {
				t.Fatalf("at %v boot %s with capacity %d counts, want the later", s, got.Boot, got.Capacity)
			}
		}
	}
	// The second boot came at 3.5: 2 intervals later it is no late message any more.
	if diff := cmp.Diff([]string{"6.0 duplicate_id", "66.0 duplicate_id"}, disputes); diff != "" {
		t.Errorf("disputes (-want +got):\n%s", diff)
	}
}

func TestARestartIsNoDispute(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 5 {
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1))), at(float64(i)))
	}
	checkWords(t, "the new boot", table.Reduce(live(beat("eu-west-1-a", boot(2), 1)), at(4.8)))
	checkWords(t, "a late word of the old", table.Reduce(live(beat("eu-west-1-a", boot(1), 6, saying(events.StateLeft))), at(4.9)), "skipped older_boot")
	checkState(t, table, "eu-west-1-a", events.StateUp)
}

func TestABootOfAWrongClockComesBack(t *testing.T) {
	// The clock ran ahead when boot 9 began and was set right before boot 1 did, so the ULIDs
	// are in the wrong order. The one that lives counts in the end.
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(live(beat("eu-west-1-a", boot(9), 50)), at(0))
	var changes []string
	for i := range 6 {
		now := at(1 + float64(i))
		for _, e := range []registry.Event{live(beat("eu-west-1-a", boot(1), uint64(i+1))), registry.Ticked{}} {
			effects := table.Reduce(e, now)
			for _, w := range words(effects) {
				if !strings.HasPrefix(w, "probe") {
					changes = append(changes, fmt.Sprintf("%v %s", 1+i, w))
				}
			}
		}
	}
	if got := server(t, table, "eu-west-1-a"); got.Boot != boot(1) || got.State != events.StateUp {
		t.Errorf("%s with boot %s, want up with the one that lives", got.State, got.Boot)
	}
	want := []string{"1 skipped older_boot", "2 skipped older_boot"}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("on the way (-want +got):\n%s", diff)
	}
}

func TestACellIsTheSumOfItsMembers(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	says := func(name string, seq uint64, seconds float64, change ...func(*events.Heartbeat)) []registry.Effect {
		return table.Reduce(live(beat("eu-west-1-a", boot(1), seq, append(change, member(name))...)), at(seconds))
	}
	load := func(sessions int, utilisation, p99 float64) func(*events.Heartbeat) {
		return func(h *events.Heartbeat) {
			h.Load = events.Load{Sessions: sessions, InFlight: 1, MaxInFlight: 10, CPU: utilisation, P99: p99, Utilisation: utilisation}
		}
	}
	says("m1", 1, 0, load(10, 0.1, 5), func(h *events.Heartbeat) { h.Capacity = 3000 })
	says("m2", 1, 0, load(20, 0.5, 9))
	want := events.Load{Sessions: 30, InFlight: 2, MaxInFlight: 20, CPU: 0.2, P99: 9, Utilisation: 0.2}
	got := server(t, table, "eu-west-1-a")
	if got.Capacity != 4000 {
		t.Errorf("capacity %d, want 4000", got.Capacity)
	}
	if diff := cmp.Diff(want, got.Load, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}
	// One drains: the server is up while the other is; then both drain.
	checkWords(t, "m1 drains", says("m1", 2, 1, saying(events.StateDraining)))
	checkWords(t, "m2 drains", says("m2", 2, 1, saying(events.StateDraining)), "draining<up announced")
	checkWords(t, "m2 is back", says("m2", 3, 2), "up<draining heartbeat")
	checkWords(t, "m1 leaves", says("m1", 3, 2, saying(events.StateLeft)))
	checkWords(t, "m2 leaves", says("m2", 4, 3, saying(events.StateLeft)), "left<up announced")
}

func TestASilentMemberChangesLoadOnly(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 8 {
		now := at(float64(i))
		if i < 2 {
			table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), member("m1"))), now)
		}
		effects := table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), member("m2"))), now)
		effects = append(effects, table.Reduce(registry.Ticked{}, now)...)
		if i > 0 && len(effects) > 0 {
			t.Errorf("at %d: %v, want nothing: the server lives", i, words(effects))
		}
	}
	if got := server(t, table, "eu-west-1-a"); got.Capacity != 1000 || got.State != events.StateUp {
		t.Errorf("%s with capacity %d, want up with that of the member that lives", got.State, got.Capacity)
	}
}

func TestStoredHeartbeatsAreNoSignOfLife(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	dead := events.Server{
		Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://a.example.com", Boot: boot(1), State: events.StateDown,
		Since: start, IntervalMS: 1000, Capacity: 10, Seq: 7,
	}
	table.Reduce(registry.Restored{Servers: []events.Server{dead}}, at(0))
	checkWords(t, "what the stream kept of the dead", table.Reduce(stored(beat("eu-west-1-a", boot(1), 40)), at(0)))
	checkState(t, table, "eu-west-1-a", events.StateDown)
	checkWords(t, "what it kept of an unknown", table.Reduce(stored(beat("eu-west-1-b", boot(2), 40)), at(0)), "suspect< stored_heartbeat")
	checkWords(t, "the same, live", table.Reduce(live(beat("eu-west-1-b", boot(2), 40)), at(0.1)), "up<suspect heartbeat")
	checkWords(t, "and then stored", table.Reduce(stored(beat("eu-west-1-b", boot(2), 40)), at(0.2)), "skipped older")
	checkWords(t, "a drain that was missed", table.Reduce(stored(beat("eu-west-1-b", boot(2), 44, saying(events.StateDraining))), at(0.3)), "draining<up announced")
	checkWords(t, "the dead lives", table.Reduce(live(beat("eu-west-1-a", boot(1), 41)), at(0.4)), "up<down heartbeat")
}
