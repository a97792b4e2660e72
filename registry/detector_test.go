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

// A scene is one server's life in a table that ticks every 50 ms. Times are in seconds.
type scene struct {
	table *registry.Table
	// beats are when heartbeats arrive; after them it is silent.
	beats []float64
	// event returns other events at a time, nil for none.
	event func(seconds float64) []registry.Event
	// probe returns what a probe that begins then finds, and how long it takes.
	probe func(seconds float64) (good bool, takes float64)
	// refuses says that a probe that fails was refused.
	refuses bool
	// until is when the scene ends.
	until float64
	// paused says that the registry stands still then.
	paused func(seconds float64) bool
	// asked is called when other regions are to be asked; nil: nobody is.
	asked func(seconds float64, due registry.WitnessDue)
}

// play runs a scene and returns what the table wanted, each with its time, probes as "probe".
func (s scene) play() []string {
	var log []string
	type result struct {
		due  float64
		good bool
	}
	var results []result
	note := func(now float64, effects []registry.Effect) {
		for _, e := range effects {
			if due, ok := e.(registry.ProbeDue); ok {
				good, takes := s.probe(now)
				results = append(results, result{now + takes, good})
				log = append(log, fmt.Sprintf("%.2f probe", now))
				if !strings.HasPrefix(due.URL, "https://eu-west-1-a.example.com") {
					log = append(log, "probe of "+due.URL)
				}
				continue
			}
			if due, ok := e.(registry.WitnessDue); ok && s.asked != nil {
				s.asked(now, due)
			}
			log = append(log, fmt.Sprintf("%.2f %s", now, words([]registry.Effect{e})[0]))
		}
	}
	sent := 0
	for i := 0; ; i++ {
		now := float64(i) * 0.05
		if now > s.until {
			return log
		}
		if s.paused != nil && s.paused(now) {
			continue
		}
		for sent < len(s.beats) && s.beats[sent] <= now {
			sent++
			note(now, s.table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(sent))), at(now)))
		}
		if s.event != nil {
			for _, e := range s.event(now) {
				note(now, s.table.Reduce(e, at(now)))
			}
		}
		for len(results) > 0 && results[0].due <= now {
			r := results[0]
			results = results[1:]
			note(now, s.table.Reduce(registry.ProbeDone{Server: "eu-west-1-a", Boot: boot(1), OK: r.good, Refused: s.refuses && !r.good}, at(now)))
		}
		note(now, s.table.Reduce(registry.Ticked{}, at(now)))
	}
}

func refused(float64) (bool, float64)   { return false, 0 }
func timesOut(float64) (bool, float64)  { return false, 1 }
func answering(float64) (bool, float64) { return true, 0.01 }

// seconds returns first, first+1, … last.
func seconds(first, last int) []float64 {
	var all []float64
	for i := first; i <= last; i++ {
		all = append(all, float64(i))
	}
	return all
}

func TestVerdicts(t *testing.T) {
	tests := []struct {
		name  string
		scene scene
		want  []string
	}{
		{
			name:  "killed: connections are refused",
			scene: scene{beats: seconds(0, 3), probe: refused, until: 12},
			want: []string{
				"0.00 up< heartbeat", "5.00 probe", "5.20 suspect<up missed_heartbeats", "5.50 probe",
				"6.00 probe", "6.50 probe", "7.00 probe", "7.20 down<suspect missed_heartbeats",
			},
		},
		{
			name:  "stopped: probes end after a second",
			scene: scene{beats: seconds(0, 3), probe: timesOut, until: 9},
			want: []string{
				"0.00 up< heartbeat", "5.00 probe", "5.20 suspect<up missed_heartbeats", "6.00 probe", "7.00 probe",
				"7.20 down<suspect missed_heartbeats",
			},
		},
		{
			name:  "stopped for five seconds, then back",
			scene: scene{beats: []float64{0, 1, 6, 7, 8}, probe: timesOut, until: 9},
			want: []string{
				"0.00 up< heartbeat", "3.00 probe", "3.20 suspect<up missed_heartbeats", "4.00 probe", "5.00 probe",
				"5.20 down<suspect missed_heartbeats", "6.00 up<down heartbeat",
			},
		},
		{
			name:  "cut off from the bus, still serving",
			scene: scene{beats: []float64{0, 1, 20}, probe: answering, until: 20},
			want: []string{
				"0.00 up< heartbeat", "3.00 probe", "3.20 suspect<up missed_heartbeats", "5.00 probe", "7.00 probe", "9.00 probe",
				"11.00 probe", "13.00 probe", "15.00 probe", "17.00 probe", "19.00 probe", "20.00 up<suspect heartbeat",
			},
		},
		{
			name: "cut off, then dead too",
			scene: scene{beats: []float64{0, 1}, until: 9, probe: func(s float64) (bool, float64) {
				return s < 6, 0.01
			}},
			want: []string{
				"0.00 up< heartbeat", "3.00 probe", "3.20 suspect<up missed_heartbeats", "5.00 probe", "7.00 probe", "7.50 probe",
				"7.55 down<suspect missed_heartbeats",
			},
		},
		{
			name: "one failed probe between good ones kills nobody",
			scene: scene{beats: []float64{0, 1}, until: 11, probe: func(s float64) (bool, float64) {
				return s < 5 || s > 5.2, 0.01
			}},
			want: []string{
				"0.00 up< heartbeat", "3.00 probe", "3.20 suspect<up missed_heartbeats", "5.00 probe", "5.50 probe", "7.50 probe", "9.50 probe",
			},
		},
		{
			name: "down, then it answers probes again",
			scene: scene{beats: []float64{0}, until: 17, probe: func(s float64) (bool, float64) {
				return s > 10, 0
			}},
			want: []string{
				"0.00 up< heartbeat", "2.00 probe", "2.20 suspect<up missed_heartbeats", "2.50 probe", "3.00 probe", "3.50 probe", "4.00 probe",
				"4.20 down<suspect missed_heartbeats", "14.00 probe", "14.05 suspect<down probe_answered", "16.00 probe",
			},
		},
		{
			name:  "one heartbeat is lost, the next is late",
			scene: scene{beats: []float64{0, 1, 3.2, 4.2}, probe: answering, until: 5},
			want:  []string{"0.00 up< heartbeat", "3.00 probe"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.scene.table = registry.NewTable("eu-west-1", registry.Detection{})
			if diff := cmp.Diff(test.want, test.scene.play()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNoVerdictAfterAFaultOfOnesOwn(t *testing.T) {
	// The server dies at 3. What the registry itself missed does not count.
	gapAt := func(when float64) func(float64) []registry.Event {
		return func(s float64) []registry.Event {
			if s == when {
				return []registry.Event{registry.Gap{}}
			}
			return nil
		}
	}
	tests := []struct {
		name  string
		scene scene
		want  []string
	}{
		{
			name:  "its connection came back",
			scene: scene{beats: seconds(0, 3), event: gapAt(4), probe: refused, until: 9},
			want: []string{
				"0.00 up< heartbeat", "4.00 eu-west-1 protected", "6.00 probe", "6.20 suspect<up missed_heartbeats", "6.50 probe", "7.00 probe", "7.50 probe", "8.00 probe",
				"8.20 down<suspect missed_heartbeats",
			},
		},
		{
			name:  "its connection came back while it probed",
			scene: scene{beats: seconds(0, 3), event: gapAt(7), probe: refused, until: 10},
			want: []string{
				"0.00 up< heartbeat", "5.00 probe", "5.20 suspect<up missed_heartbeats", "5.50 probe", "6.00 probe", "6.50 probe",
				"7.00 eu-west-1 protected", "9.00 probe", "9.50 probe", "10.00 probe",
			},
		},
		{
			name: "it was stopped",
			scene: scene{beats: seconds(0, 3), probe: refused, until: 24, paused: func(s float64) bool {
				return s > 3.5 && s < 20
			}},
			want: []string{
				"0.00 up< heartbeat", "20.00 eu-west-1 protected", "22.00 probe", "22.20 suspect<up missed_heartbeats",
				"22.50 probe", "23.00 probe", "23.50 probe", "24.00 probe",
			},
		},
		{
			name: "it was stopped, and the server lives",
			scene: scene{beats: append(seconds(0, 3), seconds(20, 24)...), probe: refused, until: 24, paused: func(s float64) bool {
				return s > 3.5 && s < 20
			}},
			want: []string{"0.00 up< heartbeat", "20.00 eu-west-1 protected"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.scene.table = registry.NewTable("eu-west-1", registry.Detection{})
			if diff := cmp.Diff(test.want, test.scene.play()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestARestartedRegistryKillsNobody(t *testing.T) {
	was := func(state events.State, since time.Time) []registry.Event {
		return []registry.Event{registry.Restored{Servers: []events.Server{{
			Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://eu-west-1-a.example.com", Boot: boot(1), State: state,
			Since: since, SeenAt: start.Add(-time.Hour), IntervalMS: 1000, Capacity: 10, Seq: 7,
		}}}}
	}
	restored := func(state events.State) func(float64) []registry.Event {
		return func(s float64) []registry.Event {
			if s == 0 {
				return was(state, start.Add(-time.Hour))
			}
			return nil
		}
	}
	tests := []struct {
		name  string
		scene scene
		want  []string
	}{
		{
			name:  "a server that lives",
			scene: scene{event: restored(events.StateUp), beats: seconds(1, 8), probe: refused, until: 8},
		},
		{
			name:  "a server that has died meanwhile",
			scene: scene{event: restored(events.StateUp), probe: refused, until: 5},
			want: []string{
				"2.00 probe", "2.20 suspect<up missed_heartbeats", "2.50 probe", "3.00 probe", "3.50 probe", "4.00 probe",
				"4.20 down<suspect missed_heartbeats",
			},
		},
		{
			name:  "a dead server stays dead",
			scene: scene{event: restored(events.StateDown), probe: refused, until: 13},
			want:  []string{"2.00 probe", "12.00 probe"},
		},
		{
			name:  "a dead server is back",
			scene: scene{event: restored(events.StateDown), beats: seconds(1, 3), probe: refused, until: 3},
			want:  []string{"1.00 up<down heartbeat"},
		},
		{
			name:  "one that drains goes on draining until it is down",
			scene: scene{event: restored(events.StateDraining), probe: refused, until: 5},
			want: []string{
				"2.00 probe", "2.50 probe", "3.00 probe", "3.50 probe", "4.00 probe", "4.20 down<draining missed_heartbeats",
			},
		},
		{
			name:  "one that left is not missed",
			scene: scene{event: restored(events.StateLeft), probe: refused, until: 5},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// One that left an hour ago would be forgotten.
			test.scene.table = registry.NewTable("eu-west-1", registry.Detection{Keep: 2 * time.Hour})
			if diff := cmp.Diff(test.want, test.scene.play()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestTheDeadAreForgotten(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{MaxServers: 1})
	down := events.Server{
		Server: "eu-west-1-a", Region: "eu-west-1", URL: "https://a.example.com", Boot: boot(1), State: events.StateDown,
		Since: start, IntervalMS: 1000, Capacity: 10, Seq: 7,
	}
	table.Reduce(registry.Restored{Servers: []events.Server{down}}, at(0))
	day, hour := 24*time.Hour, time.Hour
	tick := func(now time.Time) []string {
		var changes []string
		// A pause is nobody's death: time passes in small steps.
		for i := range 10 {
			for _, w := range words(table.Reduce(registry.Ticked{}, now.Add(time.Duration(i)*500*time.Millisecond))) {
				if !strings.HasPrefix(w, "probe") {
					changes = append(changes, w)
				}
			}
		}
		return changes
	}
	if got := tick(start.Add(day - time.Minute)); got != nil {
		t.Errorf("before a day: %v", got)
	}
	if diff := cmp.Diff([]string{"eu-west-1 protected", "left<down forgotten"}, tick(start.Add(day))); diff != "" {
		t.Errorf("after a day (-want +got):\n%s", diff)
	}
	table.Tell(start.Add(day + time.Minute))
	if got := len(table.Servers()); got != 1 {
		t.Fatalf("%d servers, want the one that left", got)
	}
	tick(start.Add(day + hour + time.Minute))
	if got := table.Servers(); len(got) != 0 {
		t.Errorf("an hour later there is still %v", got)
	}
	if got := table.Tell(start.Add(day + hour + 2*time.Minute)).Gone; !cmp.Equal(got, []string{"eu-west-1.eu-west-1-a"}) {
		t.Errorf("gone from the bucket: %v", got)
	}
	checkWords(t, "there is room again", table.Reduce(live(beat("eu-west-1-b", boot(1), 1)), start.Add(2*day)), "up< heartbeat")
}

func TestAProbeOfAnEarlierSilenceSaysNothing(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{Pause: time.Minute})
	failed := registry.ProbeDone{Server: "eu-west-1-a", Boot: boot(1)}
	steps := []struct {
		at    float64
		event registry.Event
		want  []string
	}{
		{0, live(beat("eu-west-1-a", boot(1), 1)), []string{"up< heartbeat"}},
		{2, registry.Ticked{}, []string{"probe https://eu-west-1-a.example.com/healthz"}},
		{2.1, live(beat("eu-west-1-a", boot(1), 2)), nil},
		{2.2, failed, nil},
		{4.1, registry.Ticked{}, []string{"probe https://eu-west-1-a.example.com/healthz"}},
		{4.3, failed, []string{"suspect<up missed_heartbeats"}},
		// Just one has failed in this silence, and one of another boot.
		{6.3, registry.ProbeDone{Server: "eu-west-1-a", Boot: boot(2)}, nil},
		{6.4, registry.Ticked{}, []string{"probe https://eu-west-1-a.example.com/healthz"}},
		{6.5, failed, []string{"down<suspect missed_heartbeats"}},
	}
	for _, s := range steps {
		checkWords(t, fmt.Sprintf("at %v", s.at), table.Reduce(s.event, at(s.at)), s.want...)
	}
}

func TestOthersRegionsOutOfReach(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	update := func(seq uint64, now float64) []registry.Effect {
		return table.Reduce(registry.UpdateSeen{Update: update(seq, full(1, 1), remote("us-east-1-a", seq))}, at(now))
	}
	update(1, 0)
	tick := func(now float64) []registry.Effect { return table.Reduce(registry.Ticked{}, at(now)) }
	for s := 0.5; s < 10; s += 0.5 {
		checkWords(t, fmt.Sprint(s), tick(s))
	}
	checkWords(t, "after 10 s", tick(10), "us-east-1 unreachable")
	checkState(t, table, "us-east-1-a", events.StateSuspect)
	checkWords(t, "once", tick(10.5), "survey of 1 in us-east-1 with ")
	checkWords(t, "it is back", update(2, 11), "us-east-1 up")
	checkState(t, table, "us-east-1-a", events.StateUp)
}
