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

// region returns a view update of another region that has no servers.
func region(name string, seq uint64, change ...func(*events.ViewUpdate)) registry.Event {
	return registry.UpdateSeen{Update: update(seq, func(u *events.ViewUpdate) {
		u.Region = name
		for _, f := range change {
			f(u)
		}
	})}
}

// TestWitnesses plays a server that falls silent after 3 s and fails its probes, while other
// regions, of which updates come each second, say what they find.
func TestWitnesses(t *testing.T) {
	const good, failed, nothing = "good", "failed", "nothing"
	tests := []struct {
		name   string
		others []string
		// says is what the others answer to a question that is asked then, 300 ms later.
		says    func(region string, seconds float64) string
		probe   func(float64) (bool, float64)
		refuses bool
		gone    bool // its connection ends too
		until   float64
		want    []string
	}{
		{
			name: "it answers nobody", others: []string{"us-east-1"}, probe: timesOut, until: 9,
			says: func(string, float64) string { return failed },
			want: []string{"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: us-east-1", "7.20 down<suspect missed_heartbeats"},
		},
		{
			name: "nobody says", others: []string{"us-east-1"}, probe: timesOut, until: 9,
			says: func(string, float64) string { return nothing },
			want: []string{"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: us-east-1", "7.20 down<suspect missed_heartbeats"},
		},
		{
			name: "it answers elsewhere, until it dies", others: []string{"us-east-1"}, probe: timesOut, until: 17,
			says: func(_ string, s float64) string {
				if s < 9 {
					return good
				}
				return failed
			},
			want: []string{
				"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: us-east-1", "6.30 suspect<suspect probe_answered_elsewhere",
				"8.00 witnesses for eu-west-1-a: us-east-1", "10.00 witnesses for eu-west-1-a: us-east-1", "10.30 down<suspect missed_heartbeats",
			},
		},
		{
			name: "it answers elsewhere, until nobody says any more", others: []string{"us-east-1"}, probe: timesOut, until: 17,
			says: func(_ string, s float64) string {
				if s < 9 {
					return good
				}
				return nothing
			},
			want: []string{
				"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: us-east-1", "6.30 suspect<suspect probe_answered_elsewhere",
				"8.00 witnesses for eu-west-1-a: us-east-1", "10.00 witnesses for eu-west-1-a: us-east-1", "12.00 witnesses for eu-west-1-a: us-east-1",
				"13.00 down<suspect missed_heartbeats",
			},
		},
		{
			name: "its port refuses: no witness is needed", others: []string{"us-east-1"}, probe: refused, refuses: true, until: 9,
			says: func(string, float64) string { return good },
			want: []string{"5.20 suspect<up missed_heartbeats", "7.20 down<suspect missed_heartbeats"},
		},
		{
			name: "there is no other region", probe: timesOut, until: 9,
			want: []string{"5.20 suspect<up missed_heartbeats", "7.20 down<suspect missed_heartbeats"},
		},
		{
			name: "it answers one of two", others: []string{"a", "b"}, probe: timesOut, until: 11,
			says: func(region string, s float64) string {
				if (region == "b") == (s < 7) { // its word comes second, and in the other rounds first
					return good
				}
				return failed
			},
			want: []string{
				"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: a b", "6.30 suspect<suspect probe_answered_elsewhere",
				"8.00 witnesses for eu-west-1-a: a b", "10.00 witnesses for eu-west-1-a: a b",
			},
		},
		{
			name: "two of many are asked, others each time", others: []string{"a", "b", "c", "d"}, probe: timesOut, until: 8.5,
			says: func(string, float64) string { return good },
			want: []string{
				"5.20 suspect<up missed_heartbeats", "6.00 witnesses for eu-west-1-a: a b", "6.30 suspect<suspect probe_answered_elsewhere",
				"8.00 witnesses for eu-west-1-a: b c",
			},
		},
		{
			name: "its connection ended, its port refuses: down at once", others: []string{"us-east-1"}, probe: refused, refuses: true, gone: true, until: 9,
			says: func(string, float64) string { return good },
			want: []string{"3.10 down<up disconnected"},
		},
		{
			name: "its connection ended, and it answers elsewhere", others: []string{"us-east-1"}, probe: func(float64) (bool, float64) { return false, 0.1 },
			gone: true, until: 7.5,
			says: func(string, float64) string { return good },
			want: []string{
				"3.20 witnesses for eu-west-1-a: us-east-1", "5.20 witnesses for eu-west-1-a: us-east-1", "5.20 suspect<up missed_heartbeats",
				"5.50 suspect<suspect probe_answered_elsewhere", "7.20 witnesses for eu-west-1-a: us-east-1",
			},
		},
		{
			name: "its connection ended, and nobody says: the verdict waits half a second", others: []string{"us-east-1"},
			probe: func(float64) (bool, float64) { return false, 0.01 }, gone: true, until: 4,
			want: []string{"3.15 witnesses for eu-west-1-a: us-east-1", "3.65 down<up disconnected"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := scene{table: registry.NewTable("eu-west-1", registry.Detection{}), beats: seconds(0, 3), probe: test.probe, refuses: test.refuses, until: test.until}
			var answers []registry.Event
			var due []float64
			s.asked = func(now float64, w registry.WitnessDue) {
				if test.says == nil {
					return
				}
				for _, name := range w.Regions {
					said := test.says(name, now)
					answers = append(answers, registry.Witnessed{Server: w.Server, Boot: w.Boot, Good: said == good, Failed: said == failed})
					due = append(due, now+0.3)
				}
			}
			second := 0
			s.event = func(now float64) (list []registry.Event) {
				for ; float64(second) <= now; second++ {
					for _, name := range test.others {
						list = append(list, region(name, 1))
					}
				}
				if test.gone && now == 3.1 {
					list = append(list, registry.Disconnected{Server: "eu-west-1-a", Boot: boot(1)})
				}
				for len(due) > 0 && at(due[0]).Compare(at(now)) <= 0 {
					list = append(list, answers[0])
					due, answers = due[1:], answers[1:]
				}
				return list
			}
			var got []string
			for _, line := range s.play() {
				if !strings.HasSuffix(line, "probe") && !strings.Contains(line, "ask ") && !strings.HasPrefix(line, "0.00") {
					got = append(got, line)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAWitnessOfBeforeSaysNothing(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	table.Reduce(live(beat("eu-west-1-a", boot(1), 1)), at(0))
	for _, w := range []registry.Witnessed{
		{Server: "eu-west-1-a", Boot: boot(1), Good: true},
		{Server: "eu-west-1-a", Boot: boot(7), Good: true},
		{Server: "nobody", Boot: boot(1), Good: true},
	} {
		checkWords(t, fmt.Sprint(w), table.Reduce(w, at(0.1)))
	}
	for s := 0.2; s < 8; s += 0.05 {
		for _, e := range table.Reduce(registry.Ticked{}, at(s)) {
			if due, ok := e.(registry.ProbeDue); ok {
				table.Reduce(registry.ProbeDone{Server: due.Server, Boot: due.Boot}, at(s).Add(time.Millisecond))
			}
		}
	}
	checkState(t, table, "eu-west-1-a", events.StateDown)
}

// TestARegistryThatReachesNobodyKillsNobody cuts a registry off from its servers, by NATS and by
// HTTP, while another region reaches them all but those that die meanwhile.
func TestARegistryThatReachesNobodyKillsNobody(t *testing.T) {
	for _, witnessed := range []bool{true, false} {
		t.Run(fmt.Sprint("witnesses ", witnessed), func(t *testing.T) {
			const seed = 1
			w := newWorld(t, 100, 50*time.Millisecond, seed)
			down, asked := map[string]time.Time{}, 0
			var answers []registry.Witnessed
			w.seen = func(e registry.Effect) {
				switch e := e.(type) {
				case registry.StateChanged:
					if e.State.State == events.StateDown {
						down[e.State.Server] = w.now
					}
				case registry.WitnessDue:
					asked++
					dead := w.byID[e.Server].dead
					answers = append(answers, registry.Witnessed{Server: e.Server, Boot: e.Boot, Good: !dead, Failed: dead})
				}
			}
			w.blind = true
			for _, s := range w.servers {
				s.mute = w.now.Add(time.Minute)
			}
			for i := range 60 * 20 {
				if witnessed && i%20 == 0 {
					w.reduce(region("us-east-1", 1))
				}
				if i == 15*20 {
					w.kill(w.servers[7])
				}
				w.step()
				answered := answers
				answers = nil
				for _, a := range answered {
					w.reduce(a)
				}
			}
			if !witnessed {
				if len(down) == 0 {
					t.Error("without witnesses nobody dies: this test shows nothing")
				}
				return
			}
			died, ok := down[w.servers[7].id]
			if len(down) != 1 || !ok || died.Sub(w.servers[7].since) > 5*time.Second {
				t.Errorf("down are %v, want only %s, within 5 s of %v", down, w.servers[7].id, w.servers[7].since)
			}
			if most := 100 * 30; asked > most {
				t.Errorf("asked %d times in a minute, want at most %d", asked, most)
			}
		})
	}
}
