package registry_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// wish returns what operators want as an event: these servers drained until so many seconds
// after start.
func wish(revision uint64, drains map[string]float64) registry.WishesSeen {
	w := &registry.Wishes{Servers: map[string]registry.Drain{}}
	for id, until := range drains {
		if id == "" {
			w.Region = &registry.Drain{Until: at(until), At: start}
			continue
		}
		w.Servers[id] = registry.Drain{Until: at(until), At: start}
	}
	return registry.WishesSeen{Wishes: w, Revision: revision}
}

// checkDrain compares a server's state, reason and deadline, in seconds after start; 0: none.
func checkDrain(t *testing.T, what string, table *registry.Table, id string, state events.State, reason string, until float64) {
	t.Helper()
	s := server(t, table, id)
	var want time.Time
	if until != 0 {
		want = at(until)
	}
	if s.State != state || s.Reason != reason || !s.DrainUntil.Equal(want) {
		t.Errorf("%s: %s is %s (%s) until %s, want %s (%s) until %s", what, id, s.State, s.Reason, s.DrainUntil, state, reason, want)
	}
}

func TestAnOperatorDrainsAServer(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 1)
	const id = "eu-west-1-001"
	s := w.byID[id]
	checkWords(t, "drain", w.table.Reduce(wish(1, map[string]float64{id: 600, "eu-west-1-never": 600}), w.now), "draining<up operator")
	checkDrain(t, "at once", w.table, id, events.StateDraining, "operator", 600)
	checkDrain(t, "at once", w.table, "eu-west-1-000", events.StateUp, "heartbeat", 0)
	checkWords(t, "the same again", w.table.Reduce(wish(1, nil), w.now), "skipped older")
	since := server(t, w.table, id).Since
	w.run(5 * time.Second)
	checkDrain(t, "while it says that it is up", w.table, id, events.StateDraining, "operator", 600)
	checkWords(t, "another deadline", w.table.Reduce(wish(2, map[string]float64{id: 60}), w.now))
	checkDrain(t, "another deadline", w.table, id, events.StateDraining, "operator", 60)
	if got := server(t, w.table, id).Since; !got.Equal(since) {
		t.Errorf("draining since %s, then since %s", since, got)
	}

	// The dead are dead, and drain again when they are back.
	w.kill(s)
	w.run(6 * time.Second)
	checkDrain(t, "dead", w.table, id, events.StateDown, "missed_heartbeats", 60)
	w.boots(s)
	w.run(2 * time.Second)
	checkDrain(t, "back", w.table, id, events.StateDraining, "operator", 60)

	checkWords(t, "undrain", w.table.Reduce(wish(3, nil), w.now), "up<draining heartbeat")
	w.run(2 * time.Second)
	checkDrain(t, "undrained", w.table, id, events.StateUp, "heartbeat", 0)
}

func TestAnOperatorDrainsARegion(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 1)
	const early, silent, late = "eu-west-1-000", "eu-west-1-001", "eu-west-1-003"
	w.byID[silent].mute = w.now.Add(20 * time.Second)
	w.run(3 * time.Second)
	checkDrain(t, "silent", w.table, silent, events.StateSuspect, "missed_heartbeats", 0)
	w.reduce(wish(1, map[string]float64{"": 600, early: 60}))
	checkDrain(t, "the earlier deadline", w.table, early, events.StateDraining, "operator", 60)
	checkDrain(t, "suspect stays suspect", w.table, silent, events.StateSuspect, "missed_heartbeats", 600)
	checkDrain(t, "the region's", w.table, "eu-west-1-002", events.StateDraining, "operator", 600)
	w.reduce(live(beat(late, boot(1), 1)))
	checkDrain(t, "a new server", w.table, late, events.StateDraining, "operator", 600)
	w.reduce(wish(2, map[string]float64{early: 60}))
	checkDrain(t, "its own drain remains", w.table, early, events.StateDraining, "operator", 60)
	checkDrain(t, "the region's is over", w.table, late, events.StateUp, "heartbeat", 0)
	checkDrain(t, "not known to be well", w.table, silent, events.StateSuspect, "missed_heartbeats", 0)
}

// TestUndrainOfASilentServer: one that fell silent while it drained is not taken to be up.
func TestUndrainOfASilentServer(t *testing.T) {
	w := newWorld(t, 3, 50*time.Millisecond, 1)
	const id = "eu-west-1-001"
	w.reduce(wish(1, map[string]float64{id: 600}))
	w.byID[id].mute = w.now.Add(time.Hour)
	w.run(10 * time.Second)
	checkDrain(t, "silent, but it answers probes", w.table, id, events.StateDraining, "operator", 600)
	w.reduce(wish(2, nil))
	checkDrain(t, "undrained", w.table, id, events.StateSuspect, "missed_heartbeats", 0)
}

func TestAServerAnnouncesItsDrain(t *testing.T) {
	until := func(seconds float64) func(*events.Heartbeat) {
		return func(h *events.Heartbeat) { h.State, h.DrainUntil = events.StateDraining, at(seconds) }
	}
	const a, b = "eu-west-1-a", "eu-west-1-b"
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(live(beat(a, boot(1), 1)), at(0))
	table.Reduce(live(beat(b, boot(1), 1)), at(0))
	checkWords(t, "announced", table.Reduce(live(beat(a, boot(1), 2, saying(events.StateDraining))), at(1)), "draining<up announced")
	checkDrain(t, "the default", table, a, events.StateDraining, "announced", 601)
	table.Reduce(live(beat(a, boot(1), 3, saying(events.StateDraining))), at(2))
	checkDrain(t, "said again", table, a, events.StateDraining, "announced", 601)
	table.Reduce(live(beat(b, boot(1), 2, until(30))), at(2))
	checkDrain(t, "its own deadline", table, b, events.StateDraining, "announced", 30)

	// An operator's drain besides: the earlier deadline counts, and an undrain ends only that.
	table.Reduce(wish(1, map[string]float64{a: 60, b: 60}), at(3))
	checkDrain(t, "wished earlier", table, a, events.StateDraining, "announced", 60)
	checkDrain(t, "wished later", table, b, events.StateDraining, "announced", 30)
	table.Reduce(wish(2, nil), at(4))
	checkDrain(t, "undrained", table, a, events.StateDraining, "announced", 601)
	checkDrain(t, "undrained", table, b, events.StateDraining, "announced", 30)
	table.Reduce(live(beat(a, boot(1), 4)), at(5))
	checkDrain(t, "it has changed its mind", table, a, events.StateUp, "heartbeat", 0)
	table.Reduce(live(beat(b, boot(1), 3, saying(events.StateLeft))), at(5))
	checkDrain(t, "gone", table, b, events.StateLeft, "announced", 0)

	// The other way round: drained by an operator, it goes by itself.
	table.Reduce(wish(3, map[string]float64{a: 600}), at(6))
	checkDrain(t, "drained", table, a, events.StateDraining, "operator", 600)
	checkWords(t, "then announced", table.Reduce(live(beat(a, boot(1), 5, until(30))), at(7)))
	checkDrain(t, "then announced", table, a, events.StateDraining, "announced", 30)
	table.Reduce(wish(4, nil), at(8))
	checkDrain(t, "undrained", table, a, events.StateDraining, "announced", 30)
}

// TestACellDrainsOnceAllItsMembersDo: members that drain one after another are a rolling
// deploy, of which the cell's sessions need not know.
func TestACellDrainsOnceAllItsMembersDo(t *testing.T) {
	const id = "eu-west-1-a"
	table := registry.NewTable("eu-west-1", registry.Detection{})
	say := func(name string, seq uint64, seconds, until float64) {
		h := beat(id, boot(1), seq, member(name))
		if until != 0 {
			h.State, h.DrainUntil = events.StateDraining, at(until)
		}
		table.Reduce(live(h), at(seconds))
	}
	say("m1", 1, 0, 0)
	say("m2", 1, 0, 0)
	say("m1", 2, 1, 30)
	checkDrain(t, "one drains", table, id, events.StateUp, "heartbeat", 0)
	say("m2", 2, 2, 40)
	checkDrain(t, "both do", table, id, events.StateDraining, "announced", 40)
}

// TestDrainsOutliveTheRegistry: a registry that starts with what the bucket holds, or takes
// over from another, knows of all drains.
func TestDrainsOutliveTheRegistry(t *testing.T) {
	const a, b, c = "eu-west-1-a", "eu-west-1-b", "eu-west-1-c"
	before := registry.NewTable("eu-west-1", registry.Detection{})
	for _, id := range []string{a, b, c} {
		before.Reduce(live(beat(id, boot(1), 1)), at(0))
	}
	before.Reduce(live(beat(c, boot(1), 2, saying(events.StateDraining))), at(1))
	before.Reduce(wish(7, map[string]float64{a: 60, b: 90}), at(2))
	stored := before.Servers()
	for name, first := range map[string]registry.Event{
		"restored": registry.Restored{Servers: stored},
		"elected":  registry.Elected{Servers: stored, Told: registry.Sayings{}},
	} {
		t.Run(name, func(t *testing.T) {
			// While no registry ran, b was undrained.
			table := registry.NewTable("eu-west-1", registry.Detection{})
			table.Reduce(wish(8, map[string]float64{a: 60}), at(10))
			table.Reduce(first, at(10))
			checkDrain(t, "known", table, a, events.StateDraining, "operator", 60)
			checkDrain(t, "undrained meanwhile, not heard yet", table, b, events.StateSuspect, "stored_heartbeat", 0)
			checkDrain(t, "announced", table, c, events.StateDraining, "announced", 601)
			for _, id := range []string{a, b} {
				table.Reduce(live(beat(id, boot(1), 5)), at(11))
			}
			table.Reduce(live(beat(c, boot(1), 5, saying(events.StateDraining))), at(11))
			checkDrain(t, "heard", table, a, events.StateDraining, "operator", 60)
			checkDrain(t, "heard", table, b, events.StateUp, "heartbeat", 0)
			checkDrain(t, "heard", table, c, events.StateDraining, "announced", 601)
		})
	}
}

// TestOrphansAreWishesForServersThatAreGone: only those, and only after a while.
func TestOrphansAreWishesForServersThatAreGone(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	if got := table.Orphans(at(0)); got != nil {
		t.Errorf("orphans %v of no wishes", got)
	}
	table.Reduce(live(beat("eu-west-1-a", boot(1), 1)), at(0))
	table.Reduce(wish(1, map[string]float64{"eu-west-1-a": 60, "eu-west-1-c": 60, "eu-west-1-b": 60}), at(0))
	if got := table.Orphans(at(3599)); got != nil {
		t.Errorf("orphans %v within the hour", got)
	}
	if diff := cmp.Diff([]string{"eu-west-1-b", "eu-west-1-c"}, table.Orphans(at(3600))); diff != "" {
		t.Errorf("orphans (-want +got):\n%s", diff)
	}
}

// TestADrainedServerIsNotUsedForWant: under fail_open, too, operators have their way.
func TestADrainedServerIsNotUsedForWant(t *testing.T) {
	w := newWorld(t, 4, 50*time.Millisecond, 1)
	for _, s := range w.servers {
		s.mute = w.now.Add(time.Hour)
	}
	w.run(5 * time.Second)
	w.reduce(wish(1, map[string]float64{"eu-west-1-001": 600}))
	w.run(time.Second)
	v := viewAt(w.table, w.now)
	usable := map[string]events.State{}
	for _, s := range w.servers {
		at, _ := v.Find(s.id)
		usable[s.id] = v.State(at)
	}
	want := map[string]events.State{
		"eu-west-1-000": events.StateUp, "eu-west-1-001": events.StateSuspect, "eu-west-1-002": events.StateUp, "eu-west-1-003": events.StateUp,
	}
	if diff := cmp.Diff(want, usable); diff != "" {
		t.Errorf("for placement (-want +got):\n%s", diff)
	}
}

// TestWishesHoldWhateverHappens: servers live, fall silent, announce drains and leave, and
// operators change their minds, in any order. Nobody is shown up whom operators want drained,
// nobody drains whom nobody wants drained, and deadlines are the earliest that anyone named.
func TestWishesHoldWhateverHappens(t *testing.T) {
	ids := []string{"eu-west-1-a", "eu-west-1-b", "eu-west-1-c"}
	rapid.Check(t, func(t *rapid.T) {
		table := registry.NewTable("eu-west-1", registry.Detection{})
		now, revision := start, uint64(0)
		wanted := map[string]float64{}
		seq, says, until := map[string]uint64{}, map[string]events.State{}, map[string]time.Time{}
		learn := func(e registry.Event) {
			for _, effect := range table.Reduce(e, now) {
				if due, ok := effect.(registry.ProbeDue); ok {
					table.Reduce(registry.ProbeDone{Server: due.Server, Boot: due.Boot, OK: rapid.Bool().Draw(t, "answers")}, now)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"heartbeat": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "server")
				state := rapid.SampledFrom([]events.State{events.StateUp, events.StateUp, events.StateUp, events.StateDraining, events.StateLeft}).Draw(t, "says")
				seq[id]++
				h := beat(id, boot(1), seq[id], saying(state))
				if state == events.StateDraining && rapid.Bool().Draw(t, "named") {
					h.DrainUntil = now.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "for")) * time.Second)
				}
				says[id], until[id] = state, h.DrainUntil
				learn(live(h))
			},
			"wish": func(t *rapid.T) {
				key := rapid.SampledFrom(append([]string{""}, ids...)).Draw(t, "of")
				if rapid.Bool().Draw(t, "undrain") {
					delete(wanted, key)
				} else {
					wanted[key] = now.Sub(start).Seconds() + float64(rapid.IntRange(1, 900).Draw(t, "for"))
				}
				revision++
				learn(wish(revision, wanted))
			},
			"time": func(t *rapid.T) {
				for range rapid.IntRange(1, 120).Draw(t, "ticks") {
					now = now.Add(50 * time.Millisecond)
					learn(registry.Ticked{})
				}
			},
			"restart": func(t *rapid.T) {
				stored := table.Servers()
				table = registry.NewTable("eu-west-1", registry.Detection{})
				learn(wish(revision, wanted))
				learn(registry.Restored{Servers: stored})
				clear(until) // what a server named it has to name again
			},
			"": func(t *rapid.T) {
				for _, s := range table.Servers() {
					var want time.Time
					for _, key := range []string{"", s.Server} {
						if seconds, ok := wanted[key]; ok && (want.IsZero() || at(seconds).Before(want)) {
							want = at(seconds)
						}
					}
					announced := says[s.Server] == events.StateDraining
					switch {
					case s.State == events.StateUp && (!want.IsZero() || announced):
						t.Fatalf("%+v is up; it says %s, operators want it drained until %s", s, says[s.Server], want)
					case s.State == events.StateDraining && want.IsZero() && !announced:
						t.Fatalf("%+v drains; it says %s", s, says[s.Server])
					case s.State == events.StateDraining && s.DrainUntil.IsZero():
						t.Fatalf("%+v drains for ever", s)
					case s.State == events.StateLeft && !s.DrainUntil.IsZero():
						t.Fatalf("%+v has left and is to drain", s)
					}
					if s.State == events.StateDraining && announced && !until[s.Server].IsZero() && (want.IsZero() || until[s.Server].Before(want)) {
						want = until[s.Server]
					} else if s.State == events.StateDraining && announced {
						continue // a time that this test does not know
					}
					if s.State != events.StateLeft && !s.DrainUntil.Equal(want) {
						t.Fatalf("%+v is to drain until %s", s, want)
					}
				}
			},
		})
	})
}
