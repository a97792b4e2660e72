package registry_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// said writes what a table has to tell as lines: an update as "update 3 full: a@3 b@2", what
// goes to the bucket as "put a@3" and "gone a".
func said(told registry.Told) []string {
	var lines []string
	for _, u := range told.Updates {
		line := fmt.Sprintf("update %d", u.Seq)
		if u.Full {
			line += " full"
		}
		line += ":"
		for _, s := range u.Servers {
			line += fmt.Sprintf(" %s@%d", strings.TrimPrefix(s.Server, "eu-west-1-"), s.Seq)
		}
		lines = append(lines, line)
	}
	for _, s := range told.Values {
		lines = append(lines, fmt.Sprintf("put %s@%d", strings.TrimPrefix(s.Server, "eu-west-1-"), s.Seq))
	}
	for _, key := range told.Gone {
		lines = append(lines, "gone "+key)
	}
	return lines
}

func checkTold(t *testing.T, table *registry.Table, seconds float64, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, said(table.Tell(at(seconds)))); diff != "" {
		t.Errorf("told at %v (-want +got):\n%s", seconds, diff)
	}
}

func TestWhatIsToldWhen(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	seq := map[string]uint64{}
	hear := func(id string, seconds float64, change ...func(*events.Heartbeat)) {
		seq[id]++
		table.Reduce(live(beat("eu-west-1-"+id, boot(1), seq[id], change...)), at(seconds))
	}
	hear("b", 0)
	hear("a", 0)
	checkTold(t, table, 0, "update 1 full: a@1 b@1", "put a@1", "put b@1")
	hear("c", 0.01)
	checkTold(t, table, 0.03, "put c@2") // the bucket has it at once
	checkTold(t, table, 0.04)
	checkTold(t, table, 0.05, "update 2: c@2")
	// Load waits for the second, and small changes of it for longer.
	hear("a", 0.5, utilised(0.5))
	hear("b", 0.5, utilised(0.119))
	checkTold(t, table, 0.6)
	checkTold(t, table, 1.05, "update 3: a@3", "put a@3")
	hear("a", 1.5, utilised(0.519))
	checkTold(t, table, 2.05, "update 3:") // the count, so that a loss shows
	hear("b", 2.5, utilised(0.121))
	checkTold(t, table, 3.05, "update 4: b@4", "put b@4")
	// A new state takes what else is due along.
	hear("a", 3.1, utilised(0.6))
	hear("b", 3.2, saying(events.StateDraining))
	checkTold(t, table, 3.2, "update 5: a@5 b@5", "put a@5", "put b@5")
	// Other regions' servers go to the bucket only, at once.
	table.Reduce(registry.UpdateSeen{Update: update(9, nil, remote("us-east-1-a", 9))}, at(3.21))
	checkTold(t, table, 3.21, "put us-east-1-a@9")
	hear("c", 4, func(h *events.Heartbeat) { h.URL = "https://c2.example.com" })
	checkTold(t, table, 4, "update 6: c@6", "put c@6")
	// After a gap the others may have missed something too.
	table.Reduce(registry.Gap{}, at(4.5))
	checkTold(t, table, 4.6)
	checkTold(t, table, 5, "update 7 full: a@5 b@5 c@6")
}

// TestFullUpdatesUnderConstantChange: a region in which some state changes all the time is told
// of as a whole now and then, all the same.
func TestFullUpdatesUnderConstantChange(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	var fulls []float64
	for i := range 700 {
		now := at(float64(i) / 10)
		state := events.StateUp
		if i%2 == 1 {
			state = events.StateDraining
		}
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), saying(state))), now)
		for _, u := range table.Tell(now).Updates {
			if u.Full {
				fulls = append(fulls, float64(i)/10)
			}
		}
	}
	if diff := cmp.Diff([]float64{0, 30, 60}, fulls); diff != "" {
		t.Errorf("full updates (-want +got):\n%s", diff)
	}
}

func TestEverythingIsToldNowAndThen(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	const servers = 60
	seen := make(map[string][]float64)
	var fulls []float64
	for s := range 90 {
		now := at(float64(s))
		for i := range servers {
			h := beat(fmt.Sprintf("eu-west-1-%02d", i), boot(1), uint64(s+1), func(h *events.Heartbeat) {
				h.Replication = map[string]string{"us-east-1": fmt.Sprint(s)}
			})
			table.Reduce(live(h), now)
		}
		told := table.Tell(now)
		if len(told.Updates) != 1 {
			t.Fatalf("%d updates at %d, want 1", len(told.Updates), s)
		}
		if u := told.Updates[0]; u.Full {
			fulls = append(fulls, float64(s))
			if len(u.Servers) != servers {
				t.Errorf("%d servers in a full update, want %d", len(u.Servers), servers)
			}
		}
		// All began together; their refreshes do not stay together.
		if s > 0 && len(told.Values) > 5 {
			t.Errorf("%d values told at %d, want at most 5", len(told.Values), s)
		}
		for _, v := range told.Values {
			seen[v.Server] = append(seen[v.Server], float64(s))
		}
	}
	if diff := cmp.Diff([]float64{0, 30, 60}, fulls); diff != "" {
		t.Errorf("full updates (-want +got):\n%s", diff)
	}
	for id, times := range seen {
		if len(times) != 3 {
			t.Errorf("%s was told at %v, want thrice", id, times)
		}
	}
}

func TestALargeRegionIsToldInParts(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	const servers = 2000
	for i := range servers {
		h := beat(fmt.Sprintf("eu-west-1-%04d", i), boot(1), 1, func(h *events.Heartbeat) {
			h.URL = fmt.Sprintf("https://eu-west-1-%04d.example.com/?a=b&c=<d>", i)
			h.Replication = map[string]string{"us-east-1": strings.Repeat("9", 200)}
		})
		table.Reduce(live(h), at(0))
	}
	check := func(what string, updates []*events.ViewUpdate) {
		t.Helper()
		found := map[string]bool{}
		for i, u := range updates {
			data, err := events.Encode(u)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > events.MaxViewPart {
				t.Errorf("%s: part %d is %d bytes, want at most %d", what, i, len(data), events.MaxViewPart)
			}
			if u.Full && (u.Part != i+1 || u.Of != len(updates) || u.Seq != updates[0].Seq) {
				t.Errorf("%s: part %d of %d, sequence %d", what, u.Part, u.Of, u.Seq)
			}
			if !u.Full && (u.Of != 1 || u.Seq != updates[0].Seq+uint64(i)) {
				t.Errorf("%s: update %d has sequence %d, part %d of %d", what, i, u.Seq, u.Part, u.Of)
			}
			for _, s := range u.Servers {
				found[s.Server] = true
			}
		}
		if len(found) != servers || len(updates) < 2 {
			t.Errorf("%s: %d servers in %d updates", what, len(found), len(updates))
		}
	}
	check("full", table.Tell(at(0)).Updates)
	for i := range servers {
		id := fmt.Sprintf("eu-west-1-%04d", i)
		table.Reduce(live(beat(id, boot(1), 2, saying(events.StateDraining))), at(1))
	}
	check("changes", table.Tell(at(1)).Updates)
}

func TestTheCountGoesOnAfterARestart(t *testing.T) {
	before := registry.NewTable("eu-west-1", registry.Detection{})
	other := registry.NewTable("us-east-1", registry.Detection{})
	pass := func(table *registry.Table, now float64) (values []events.Server) {
		told := table.Tell(at(now))
		for _, u := range told.Updates {
			other.Reduce(registry.UpdateSeen{Update: u}, at(now))
		}
		for _, v := range told.Values {
			values = append(values, *v)
		}
		return values
	}
	before.Reduce(live(beat("eu-west-1-a", boot(1), 1)), at(0))
	bucket := pass(before, 0)
	// Its successor never saw what it said last.
	before.Reduce(live(beat("eu-west-1-a", boot(1), 2, saying(events.StateDraining))), at(1))
	pass(before, 1)
	checkState(t, other, "eu-west-1-a", events.StateDraining)

	after := registry.NewTable("eu-west-1", registry.Detection{})
	after.Reduce(registry.Restored{Servers: bucket}, at(2))
	after.Reduce(live(beat("eu-west-1-a", boot(2), 1)), at(2))
	pass(after, 2)
	if got := server(t, other, "eu-west-1-a"); got.State != events.StateUp || got.Boot != boot(2) {
		t.Errorf("the other region has %s with boot %s, want what the new registry said", got.State, got.Boot)
	}
	if got := server(t, after, "eu-west-1-a"); got.Seq <= 1000 {
		t.Errorf("sequence %d, want one well beyond what was stored", got.Seq)
	}
	// Another registry of the region counts too.
	after.Reduce(registry.UpdateSeen{Update: &events.ViewUpdate{Region: "eu-west-1", Seq: 5000, Part: 1, Of: 1}}, at(3))
	after.Reduce(live(beat("eu-west-1-a", boot(3), 1)), at(3))
	pass(after, 3)
	if got := server(t, other, "eu-west-1-a"); got.Seq != 5001 {
		t.Errorf("sequence %d, want 5001", got.Seq)
	}
}

func TestUpdatesSayWhatTheRegionSees(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(registry.UpdateSeen{Update: update(1, nil)}, at(1))
	u := table.Tell(at(3.5)).Updates[0]
	if diff := cmp.Diff(map[string]int64{"us-east-1": 2500}, u.Sees); diff != "" {
		t.Errorf("sees (-want +got):\n%s", diff)
	}
	data, err := events.Encode(u)
	if err != nil {
		t.Fatal(err)
	}
	var plain struct{ Servers *[]any }
	if err := json.Unmarshal(data, &plain); err != nil || plain.Servers == nil {
		t.Errorf("servers of an empty region are %v (%v), want an empty list in %s", plain.Servers, err, data)
	}
	if u.Seq != 1 || !u.Full || !u.At.Equal(start.Add(3500*time.Millisecond)) {
		t.Errorf("first update: %+v", u)
	}
}

// TestAnAnswerAheadOfAnUpdateFreezesNothing: a region that is asked just after its bucket was told
// of a new state, and before the update that brings it, answers with what that update may yet
// change. The update still counts where the answer went.
func TestAnAnswerAheadOfAnUpdateFreezesNothing(t *testing.T) {
	table, other := registry.NewTable("eu-west-1", registry.Detection{}), registry.NewTable("us-east-1", registry.Detection{})
	seq := uint64(0)
	say := func(seconds float64, state events.State) {
		seq++
		table.Reduce(live(beat("eu-west-1-a", boot(1), seq, saying(state))), at(seconds))
	}
	send := func(seconds float64, updates int) {
		t.Helper()
		told := table.Tell(at(seconds))
		if len(told.Updates) != updates {
			t.Errorf("%d updates at %v, want %d", len(told.Updates), seconds, updates)
		}
		for _, u := range told.Updates {
			other.Reduce(registry.UpdateSeen{Update: u}, at(seconds))
		}
	}
	say(0, events.StateUp)
	send(0, 1)
	say(0.5, events.StateDraining)
	send(0.5, 1)
	say(0.51, events.StateUp)
	send(0.51, 0) // ahead, to the bucket only
	other.Reduce(registry.ViewAnswered{Region: "eu-west-1", Update: table.Part(1, 1, at(0.52))}, at(0.52))
	say(0.52, events.StateLeft)
	send(0.56, 1)
	checkState(t, other, "eu-west-1-a", events.StateLeft)
	if here, there := server(t, table, "eu-west-1-a").Seq, server(t, other, "eu-west-1-a").Seq; here != there {
		t.Errorf("sequence %d elsewhere, want %d", there, here)
	}
}
