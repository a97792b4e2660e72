package registry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

func TestASuccessorTellsWhatWasNotTold(t *testing.T) {
	now := time.Unix(1_760_000_000, 0)
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for _, id := range []string{"eu-west-1-a", "eu-west-1-b", "eu-west-1-c"} {
		table.Reduce(live(beat(id, boot(1), 1)), now)
	}
	table.Reduce(stored(beat("eu-west-1-d", boot(1), 1)), now)
	table.Follow(now)

	told := registry.Sayings{}
	say := func(id string, s events.State, at time.Time) {
		told.Heard(&events.ServerState{Server: id, State: s, At: at})
	}
	say("eu-west-1-a", events.StateUp, now)
	say("eu-west-1-a", events.StateDown, now.Add(-time.Second)) // arrives late
	say("eu-west-1-b", events.StateSuspect, now.Add(time.Second))
	say("eu-west-1-d", events.StateUp, now)
	later := now.Add(2 * time.Second)
	held := []events.Server{
		{Server: "eu-west-1-b", Region: "eu-west-1", State: events.StateUp, Seq: 70, Since: later},
		{Server: "eu-west-1-e", Region: "eu-west-1", State: events.StateDown, Seq: 71, Since: now},
	}
	told.Trust("eu-west-1", held, false)
	effects := table.Reduce(registry.Elected{Servers: held, Told: told}, later)
	// a was told; b was told otherwise, though the bucket has it; c never was; d is only known
	// from a stored heartbeat, and e from the bucket.
	checkWords(t, "election", effects, "up<suspect heartbeat", "up< heartbeat")
	checkState(t, table, "eu-west-1-d", events.StateUp)
	checkState(t, table, "eu-west-1-e", events.StateDown)

	out := table.Tell(later)
	if len(out.Values) != 5 || len(out.Updates) != 1 || !out.Updates[0].Full || out.Updates[0].Seq <= 1000 {
		t.Errorf("%d values and updates %+v, want all 5 values, and one full update well beyond 71", len(out.Values), out.Updates)
	}
	told.Heard(effects[0].(registry.StateChanged).State)
	told.Heard(effects[1].(registry.StateChanged).State)
	checkWords(t, "another election", table.Reduce(registry.Elected{Servers: held, Told: told}, later))
}

func TestSayingsAfterAGapTrustTheBucket(t *testing.T) {
	now := time.Unix(1_760_000_000, 0)
	told := registry.Sayings{}
	told.Heard(&events.ServerState{Server: "eu-west-1-a", State: events.StateUp, At: now})
	held := []events.Server{{Server: "eu-west-1-a", Region: "eu-west-1", State: events.StateDown, Since: now.Add(time.Second)}}
	if told.Trust("eu-west-1", held, false); told["eu-west-1-a"].State != events.StateUp {
		t.Errorf("without a gap %v, want what was heard", told)
	}
	if told.Trust("eu-west-1", held, true); told["eu-west-1-a"].State != events.StateDown {
		t.Errorf("after a gap %v, want what is newer", told)
	}
}

// TestProtectionsThatAreOnAreToldByTheNextLeader: the leader before may have died before it said
// so, and nobody else can say when they end.
func TestProtectionsThatAreOnAreToldByTheNextLeader(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 3 {
		table.Reduce(live(beat(fmt.Sprint("eu-west-1-", i), boot(1), 1)), at(0))
	}
	for tick := range 80 { // all fall silent, and nobody has said that they are not dead
		now := at(float64(tick) / 20)
		table.Reduce(registry.Ticked{}, now)
		table.Follow(now)
	}
	told := func() (said []string) {
		for _, e := range table.Reduce(registry.Elected{Told: registry.Sayings{}}, at(4)) {
			if r, ok := e.(registry.RegionChanged); ok {
				said = append(said, r.State.Region+" "+r.State.State)
			}
		}
		return said
	}
	if diff := cmp.Diff([]string{"eu-west-1 protected", "eu-west-1 fail_open"}, told()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
