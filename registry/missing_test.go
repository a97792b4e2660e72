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

// answer is a region's answer to a question for its view, nil if it does not answer.
func answer(u *events.ViewUpdate) registry.Event {
	return registry.ViewAnswered{Region: "us-east-1", Update: u}
}

func told(u *events.ViewUpdate) registry.Event { return registry.UpdateSeen{Update: u} }

// TestALostUpdateIsAskedFor plays what arrives at which second, with a tick every 50 ms, and
// compares when the region is asked.
func TestALostUpdateIsAskedFor(t *testing.T) {
	type step struct {
		at    float64
		event registry.Event
	}
	begin := step{0, told(update(1, full(1, 1), remote("a", 1)))}
	beats := func(from, to int, seq uint64) (steps []step) {
		for s := from; s <= to; s++ {
			steps = append(steps, step{float64(s), told(update(seq, nil))})
		}
		return steps
	}
	tests := []struct {
		name  string
		steps []step
		until float64
		want  []string
	}{
		{
			name: "nothing is missing", until: 5,
			steps: []step{begin, {1, told(update(2, nil, remote("a", 2)))}, {2, told(update(3, nil, remote("a", 3)))}},
		},
		{
			name: "overtaken by a later one", until: 5,
			steps: []step{begin, {1, told(update(3, nil, remote("a", 3)))}, {1.1, told(update(2, nil, remote("b", 2)))}},
		},
		{
			name: "lost", until: 5,
			steps: []step{begin, {1, told(update(3, nil, remote("a", 3)))}, {1.5, answer(update(3, full(1, 1), remote("a", 3), remote("b", 2)))}},
			want:  []string{"1.20 ask us-east-1"},
		},
		{
			name: "lost, and the count alone shows it", until: 5,
			steps: []step{begin, {1, told(update(2, nil))}, {1.5, answer(update(2, full(1, 1), remote("a", 1)))}},
			want:  []string{"1.20 ask us-east-1"},
		},
		{
			name: "a full one comes before the answer", until: 5,
			steps: []step{begin, {1, told(update(3, nil, remote("a", 3)))}, {2, told(update(4, full(1, 1), remote("a", 3)))}, {2.5, answer(nil)}},
			want:  []string{"1.20 ask us-east-1"},
		},
		{
			name: "one question at a time", until: 8,
			steps: append([]step{begin, {1, told(update(3, nil, remote("a", 3)))}}, beats(2, 8, 5)...),
			want:  []string{"1.20 ask us-east-1"},
		},
		{
			name: "no answer: asked ever more seldom", until: 9,
			steps: append([]step{begin, {1, told(update(3, nil, remote("a", 3)))}, {1.3, answer(nil)}, {3.5, answer(nil)}, {7.5, answer(nil)}}, beats(2, 9, 3)...),
			want:  []string{"1.20 ask us-east-1", "3.20 ask us-east-1", "7.20 ask us-east-1"},
		},
		{
			name: "after it has healed, the next loss is asked for at once", until: 6,
			steps: []step{
				begin,
				{1, told(update(3, nil, remote("a", 3)))},
				{1.3, answer(nil)},
				{3.3, answer(nil)},
				{3.5, told(update(4, full(1, 1), remote("a", 3)))},
				{4.5, told(update(6, nil, remote("a", 6)))},
			},
			want: []string{"1.20 ask us-east-1", "3.20 ask us-east-1", "4.70 ask us-east-1"},
		},
		{
			name: "the answer is of before: asked again", until: 5,
			steps: []step{
				begin,
				{1, told(update(3, nil, remote("a", 3)))},
				{1.3, told(update(5, nil, remote("a", 5)))},
				{1.4, answer(update(3, full(1, 1), remote("a", 3)))},
				{3.5, answer(update(5, full(1, 1), remote("a", 5)))},
			},
			want: []string{"1.20 ask us-east-1", "3.20 ask us-east-1"},
		},
		{
			name: "a part of a full one is lost", until: 5,
			steps: []step{begin, {1, told(update(2, full(1, 2), remote("a", 1)))}, {2.5, answer(update(2, full(1, 1), remote("a", 1)))}},
			want:  []string{"2.20 ask us-east-1"},
		},
		{
			name: "first heard by a change alone", until: 5,
			steps: []step{{0, told(update(7, nil, remote("a", 7)))}, {0.5, answer(update(7, full(1, 1), remote("a", 7), remote("b", 3)))}},
			want:  []string{"0.20 ask us-east-1"},
		},
		{
			name: "known from the bucket", until: 5,
			steps: []step{{0, registry.Restored{Servers: []events.Server{remote("a", 7)}}}, {0.5, answer(update(9, full(1, 1), remote("a", 9)))}},
			want:  []string{"0.20 ask us-east-1"},
		},
		{
			name: "more than can be counted are missing", until: 5,
			steps: []step{begin, {1, told(update(5000, nil, remote("a", 5000)))}, {1.5, answer(update(5000, full(1, 1), remote("a", 5000)))}},
			want:  []string{"1.20 ask us-east-1"},
		},
		{
			name: "an answer that is another region's helps nobody", until: 4,
			steps: []step{begin, {1, told(update(3, nil, remote("a", 3)))}, {1.5, answer(update(3, func(u *events.ViewUpdate) {
				full(1, 1)(u)
				u.Region = "ap-southeast-1"
			}))}},
			want: []string{"1.20 ask us-east-1", "3.20 ask us-east-1"},
		},
		{
			name: "out of reach: not asked until it is back", until: 15.5,
			steps: []step{begin, {1, told(update(1, nil))}, {1.05, told(update(3, nil, remote("a", 3)))}, {1.3, answer(nil)}, {4, answer(nil)}, {8, answer(nil)}, {14, told(update(3, nil))}},
			want:  []string{"1.25 ask us-east-1", "3.25 ask us-east-1", "7.25 ask us-east-1", "15.20 ask us-east-1"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := registry.NewTable("eu-west-1", registry.Detection{})
			var got []string
			for i := 0; float64(i)*0.05 <= test.until; i++ {
				now := at(float64(i) * 0.05)
				for len(test.steps) > 0 && !at(test.steps[0].at).After(now) {
					table.Reduce(test.steps[0].event, now)
					test.steps = test.steps[1:]
				}
				for _, e := range table.Reduce(registry.Ticked{}, now) {
					if _, ok := e.(registry.ViewDue); ok {
						got = append(got, fmt.Sprintf("%.2f %s", now.Sub(start).Seconds(), words([]registry.Effect{e})[0]))
					}
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestWhatIsLostComesWithAnAnswer has a region live, loses, repeats and mixes up its updates,
// asks it for its view in parts while it lives on, and compares in the end.
func TestWhatIsLostComesWithAnAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := registry.NewTable("us-east-1", registry.Detection{})
		table := registry.NewTable("eu-west-1", registry.Detection{})
		now, seq := start, uint64(0)
		live := func() []*events.ViewUpdate {
			now = now.Add(time.Second)
			for range rapid.IntRange(0, 3).Draw(t, "beats") {
				seq++
				id := fmt.Sprintf("us-east-1-%d", rapid.IntRange(0, 5).Draw(t, "server"))
				says := rapid.SampledFrom([]events.State{events.StateUp, events.StateDraining, events.StateLeft}).Draw(t, "says")
				source.Reduce(registry.HeartbeatSeen{Heartbeat: beat(id, boot(1), seq, saying(says), func(h *events.Heartbeat) { h.Region = "us-east-1" })}, now)
			}
			return source.Tell(now).Updates
		}
		var sent []*events.ViewUpdate
		for range rapid.IntRange(2, 20).Draw(t, "seconds") {
			sent = append(sent, live()...)
		}
		order := rapid.Permutation(append(slices.Clone(sent), sent[:len(sent)/2]...)).Draw(t, "order")
		for _, u := range order[:rapid.IntRange(1, len(order)).Draw(t, "arrive")] {
			table.Reduce(told(u), start)
		}
		// The parts are of different times, and what is told meanwhile arrives.
		of := rapid.IntRange(1, 4).Draw(t, "parts")
		whole := source.Part(1, of, now)
		whole.Part, whole.Of = 1, 1
		var meanwhile []*events.ViewUpdate
		for part := 2; part <= of; part++ {
			meanwhile = append(meanwhile, live()...)
			whole.Servers = append(whole.Servers, source.Part(part, of, now).Servers...)
		}
		late := rapid.IntRange(0, len(meanwhile)).Draw(t, "late")
		for _, u := range meanwhile[late:] {
			table.Reduce(told(u), start)
		}
		table.Reduce(answer(whole), start)
		for _, u := range meanwhile[:late] {
			table.Reduce(told(u), start)
		}
		list := func(table *registry.Table) (list []string) {
			for _, s := range table.Servers() {
				list = append(list, fmt.Sprintf("%s@%d %s", s.Server, s.Seq, s.State))
			}
			return list
		}
		if diff := cmp.Diff(list(source), list(table)); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func TestSees(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(registry.Restored{Servers: []events.Server{remote("a", 7)}}, at(0))
	if got := table.Sees(at(1)); len(got) != 0 {
		t.Errorf("sees %v, but has heard nobody", got)
	}
	if _, _, ok := table.SeesOf("us-east-1"); ok {
		t.Error("a region that has said nothing sees others")
	}
	table.Reduce(answer(update(8, full(1, 1), remote("a", 8))), at(2))
	if got := table.Sees(at(3)); len(got) != 0 {
		t.Errorf("sees %v, for an answer; it has heard no update", got)
	}
	says := func(seq uint64, sees map[string]int64) *events.ViewUpdate {
		return update(seq, func(u *events.ViewUpdate) { u.Sees = sees })
	}
	table.Reduce(told(says(9, map[string]int64{"ap-southeast-1": 40})), at(4))
	table.Reduce(told(says(8, map[string]int64{"ap-southeast-1": 9000})), at(4.5)) // of before
	if diff := cmp.Diff(map[string]int64{"us-east-1": 1500}, table.Sees(at(6))); diff != "" {
		t.Errorf("sees (-want +got):\n%s", diff)
	}
	sees, said, ok := table.SeesOf("us-east-1")
	if diff := cmp.Diff(map[string]int64{"ap-southeast-1": 40}, sees); diff != "" || !ok || !said.Equal(at(4)) {
		t.Errorf("it sees %v, said at %v, %v", sees, said, ok)
	}
	table.Reduce(registry.UpdateSeen{Update: update(10, func(u *events.ViewUpdate) {
		u.Sees = map[string]int64{}
		for i := range 1000 {
			u.Sees[fmt.Sprint(i)] = 1
		}
	})}, at(7))
	if sees, _, _ := table.SeesOf("us-east-1"); len(sees) != 1 {
		t.Errorf("it sees %d regions", len(sees))
	}
}
