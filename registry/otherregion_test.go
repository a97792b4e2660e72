package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// remote returns a server of us-east-1 as brought by a view update.
func remote(id string, seq uint64) events.Server {
	return events.Server{
		Server: id, Region: "us-east-1", URL: "https://" + id + ".example.com", Boot: boot(1), State: events.StateUp,
		Since: start, SeenAt: start, IntervalMS: 1000, Capacity: 100, Load: events.Load{Utilisation: float64(seq) / 100},
		Location: events.Location{Lat: 39, Lon: -77}, Seq: seq,
	}
}

// update returns a view update of us-east-1.
func update(seq uint64, change func(*events.ViewUpdate), servers ...events.Server) *events.ViewUpdate {
	u := &events.ViewUpdate{
		Version: events.Version, Region: "us-east-1", Seq: seq, At: at(float64(seq)), Part: 1, Of: 1, Servers: servers,
	}
	if change != nil {
		change(u)
	}
	return u
}

func full(part, of int) func(*events.ViewUpdate) {
	return func(u *events.ViewUpdate) { u.Full, u.Part, u.Of = true, part, of }
}

// ids lists the servers of a table as id@seq.
func ids(table *registry.Table) []string {
	list := []string{}
	for _, s := range table.Servers() {
		list = append(list, fmt.Sprintf("%s@%d", s.Server, s.Seq))
	}
	return list
}

func checkIDs(t testing.TB, what string, table *registry.Table, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), ids(table)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestUpdatesOfAnotherRegion(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	reduce := func(u *events.ViewUpdate) []registry.Effect {
		return table.Reduce(registry.UpdateSeen{Update: u}, at(0))
	}
	reduce(update(1, full(1, 1), remote("a", 1), remote("b", 1)))
	reduce(update(2, nil, remote("c", 2)))
	checkIDs(t, "full, then one", table, "a@1", "b@1", "c@2")
	told := table.Tell(at(1))
	keys := []string{}
	for _, v := range told.Values {
		keys = append(keys, v.Key())
	}
	if diff := cmp.Diff([]string{"us-east-1.a", "us-east-1.b", "us-east-1.c"}, keys); diff != "" {
		t.Errorf("told the bucket (-want +got):\n%s", diff)
	}

	checkWords(t, "only the count", reduce(update(2, nil)))
	checkWords(t, "3 is missing", reduce(update(3, nil)), "missed us-east-1")
	checkWords(t, "4 is missing too", reduce(update(5, nil, remote("a", 5))), "missed us-east-1")
	checkWords(t, "4 comes late", reduce(update(4, nil, remote("a", 4), remote("b", 4))))
	checkIDs(t, "the newest of each", table, "a@5", "b@4", "c@2")

	checkWords(t, "half of a full one", reduce(update(6, full(2, 2), remote("d", 3))))
	checkIDs(t, "nobody is gone yet", table, "a@5", "b@4", "c@2", "d@3")
	checkWords(t, "one after it", reduce(update(7, nil, remote("e", 7))))
	checkWords(t, "the other half", reduce(update(6, full(1, 2), remote("a", 5))))
	checkIDs(t, "who is in neither half is gone, who came later is not", table, "a@5", "d@3", "e@7")
	if diff := cmp.Diff([]string{"us-east-1.b", "us-east-1.c"}, table.Tell(at(2)).Gone); diff != "" {
		t.Errorf("gone (-want +got):\n%s", diff)
	}
	checkWords(t, "older than the full one", reduce(update(5, nil, remote("b", 5))), "skipped older")
	checkWords(t, "the full one again", reduce(update(6, full(1, 2), remote("c", 2))), "skipped older")
	checkIDs(t, "as before", table, "a@5", "d@3", "e@7")
}

func TestARegionThatLostItsStoreBeginsAnew(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	reduce := func(u *events.ViewUpdate) { table.Reduce(registry.UpdateSeen{Update: u}, at(0)) }
	reduce(update(500, full(1, 1), remote("a", 400), remote("b", 500)))
	later := func(change func(*events.ViewUpdate)) func(*events.ViewUpdate) {
		return func(u *events.ViewUpdate) { change(u); u.At = at(1000 + float64(u.Seq)) }
	}
	reduce(update(1, later(full(1, 2)), remote("a", 1)))
	reduce(update(1, later(full(2, 2)), remote("c", 1)))
	checkIDs(t, "what it says now", table, "a@1", "c@1")
	reduce(update(2, later(func(*events.ViewUpdate) {}), remote("a", 2)))
	checkIDs(t, "and goes on saying", table, "a@2", "c@1")
	reduce(update(500, full(1, 1), remote("b", 500)))
	// An update of before comes late: it counts further, and heals with what follows.
	reduce(update(3, later(full(1, 1)), remote("a", 2)))
	checkIDs(t, "in the end", table, "a@2")
}

// TestARegionThatLostItsStoreWhileNobodyListened: this registry comes back with what the bucket
// had of a region, of sequences that the region has not reached again. It goes by what the
// region says now: at the latest from the next time that it says all of it.
func TestARegionThatLostItsStoreWhileNobodyListened(t *testing.T) {
	tests := map[string]struct {
		full   int // every so many updates one is full
		lost   int // an update that does not arrive, so that the region is asked
		within int // by which update all is right
	}{
		"the first that comes is full": {1, 0, 1},
		"one of the next is full":      {30, 0, 30},
		"it is asked":                  {30, 3, 6},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			table := registry.NewTable("eu-west-1", registry.Detection{})
			table.Reduce(registry.Restored{Servers: []events.Server{remote("a", 100_000), remote("vanished", 100_001)}}, at(0))
			bucket := toldBucket{"us-east-1.a": remote("a", 100_000), "us-east-1.vanished": remote("vanished", 100_001)}
			for i := 1; i <= test.within; i++ {
				says := func(f bool) *events.ViewUpdate {
					s := remote("a", uint64(i))
					s.State, s.SeenAt = events.StateDraining, at(float64(i))
					return update(uint64(i), func(u *events.ViewUpdate) { u.Full = f }, s)
				}
				if i != test.lost {
					table.Reduce(registry.UpdateSeen{Update: says(i%test.full == 0)}, at(float64(i)))
				}
				for _, e := range table.Reduce(registry.Ticked{}, at(float64(i))) {
					if _, ok := e.(registry.ViewDue); ok {
						u := says(true)
						u.At = u.At.Add(time.Millisecond)
						table.Reduce(registry.ViewAnswered{Region: "us-east-1", Update: u}, u.At)
					}
				}
				bucket.take(table.Tell(at(float64(i))))
			}
			checkIDs(t, "known", table, fmt.Sprint("a@", test.within))
			checkState(t, table, "a", events.StateDraining)
			if len(bucket) != 1 || bucket["us-east-1.a"].State != events.StateDraining {
				t.Errorf("the bucket has %+v, want a alone, draining", bucket.values())
			}
		})
	}
}

func TestUpdatesFoldInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A region's true course: changes, and now and then everything.
		servers := map[string]events.Server{}
		var sent []*events.ViewUpdate
		last := uint64(rapid.IntRange(5, 30).Draw(t, "updates"))
		for seq := uint64(1); seq <= last; seq++ {
			if seq == last || rapid.IntRange(0, 4).Draw(t, "full") == 0 {
				list := []events.Server{}
				for _, id := range sortedKeys(servers) {
					if rapid.IntRange(0, 9).Draw(t, "gone") == 0 && seq != last {
						delete(servers, id)
						continue
					}
					list = append(list, servers[id])
				}
				half := len(list) / 2
				sent = append(sent, update(seq, full(1, 2), list[:half]...), update(seq, full(2, 2), list[half:]...))
				continue
			}
			id := fmt.Sprintf("s%d", rapid.IntRange(0, 5).Draw(t, "server"))
			servers[id] = remote(id, seq)
			sent = append(sent, update(seq, nil, servers[id]))
		}
		order := rapid.Permutation(append(slices.Clone(sent), sent[:len(sent)/2]...)).Draw(t, "order")
		table := registry.NewTable("eu-west-1", registry.Detection{})
		for _, u := range order {
			table.Reduce(registry.UpdateSeen{Update: u}, start)
		}
		// The two parts of the last full one may have come before others: once more, as 30 s later.
		for _, u := range sent[len(sent)-2:] {
			again := *u
			again.Seq, again.At = u.Seq+1, u.At.Add(30*time.Second)
			table.Reduce(registry.UpdateSeen{Update: &again}, start)
		}
		want := []string{}
		for id, s := range servers {
			want = append(want, fmt.Sprintf("%s@%d", id, s.Seq))
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, ids(table)); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func TestUpdatesBeyondBoundsAreSkipped(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{MaxServers: 2})
	reduce := func(u *events.ViewUpdate) []registry.Effect {
		return table.Reduce(registry.UpdateSeen{Update: u}, at(0))
	}
	checkWords(t, "too many servers", reduce(update(1, nil, remote("a", 1), remote("b", 1), remote("c", 1))), "skipped too_many")
	checkWords(t, "too many parts", reduce(update(2, full(1, 1<<20), remote("a", 2))), "skipped too_many")
	checkWords(t, "a sequence that leaves no room", reduce(update(1<<63, nil, remote("a", 3))), "skipped too_many")
	for i := range 400 {
		reduce(update(1, func(u *events.ViewUpdate) { u.Region = fmt.Sprintf("made-up-%d", i) }))
	}
	if got := len(table.Sees(at(0))); got != 256 {
		t.Errorf("%d regions, want at most 256", got)
	}
	checkIDs(t, "servers", table, "a@1", "b@1")
}

func TestARegionThatIsBackIsToldEverything(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	tell := func(seconds float64) (full bool) {
		for _, u := range table.Tell(at(seconds)).Updates {
			full = full || u.Full
		}
		return full
	}
	hear := func(seq uint64, seconds float64) {
		table.Reduce(registry.UpdateSeen{Update: update(seq, nil)}, at(seconds))
	}
	if !tell(0) {
		t.Error("the first update is not full")
	}
	hear(1, 1)
	if !tell(1.1) {
		t.Error("a region that was never heard before is not told everything")
	}
	for s := 2.0; s < 10; s++ {
		hear(1, s)
		if tell(s + 0.2) {
			t.Errorf("everything is told at %v, for no reason", s)
		}
	}
	hear(1, 11.5)
	if !tell(11.6) {
		t.Error("a region that was away is not told everything")
	}
}
