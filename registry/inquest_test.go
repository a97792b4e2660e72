package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// cutOff is a fleet in fake time: a table of eu-west-1, us-east-1 of which no update has come
// since 0 s, and others, whose updates come each second until silent (0: always).
type cutOff struct {
	servers int
	others  []string
	silent  float64
	// finds is what a region finds when it probes then; an empty Finding: it does not answer.
	finds func(region string, seconds float64) registry.Finding
	// sees is what the others say they see.
	sees map[string]int64
	// event returns other events at a time.
	event func(seconds float64) []registry.Event
	until float64
	// surveys are those that were asked for.
	surveys []registry.SurveyDue
}

// play returns what was said of us-east-1, with its times, to a tenth of a second.
func (c *cutOff) play(table *registry.Table) (said []string) {
	var servers []events.Server
	for i := range c.servers {
		servers = append(servers, remote(fmt.Sprintf("us-east-1-%03d", i), 1))
	}
	table.Reduce(registry.UpdateSeen{Update: update(1, full(1, 1), servers...)}, at(0))
	var results []registry.Surveyed
	var due []float64
	note := func(now float64, effects []registry.Effect) {
		for _, e := range effects {
			switch e := e.(type) {
			case registry.RegionChanged:
				if e.State.Region == "us-east-1" {
					said = append(said, fmt.Sprintf("%.1f %s", now, e.State.State))
				}
			case registry.SurveyDue:
				if e.Region != "us-east-1" {
					continue
				}
				c.surveys = append(c.surveys, e)
				r := registry.Surveyed{Region: e.Region, Round: e.Round, Found: map[string]registry.Finding{}}
				for _, region := range append([]string{"eu-west-1"}, e.Ask...) {
					if f := c.finds(region, now); f != (registry.Finding{}) {
						r.Found[region] = f
					}
				}
				results, due = append(results, r), append(due, now+0.5)
			}
		}
	}
	for i := 0; float64(i)*0.05 <= c.until; i++ {
		now := float64(i) * 0.05
		if i%20 == 0 && (c.silent == 0 || now < c.silent) {
			for _, name := range c.others {
				note(now, table.Reduce(region(name, 1, func(u *events.ViewUpdate) { u.Sees = c.sees }), at(now)))
			}
		}
		if c.event != nil {
			for _, e := range c.event(now) {
				note(now, table.Reduce(e, at(now)))
			}
		}
		for len(due) > 0 && due[0] <= now {
			note(now, table.Reduce(results[0], at(now)))
			results, due = results[1:], due[1:]
		}
		note(now, table.Reduce(registry.Ticked{}, at(now)))
	}
	return said
}

func TestWhenARegionIsDown(t *testing.T) {
	all := func(good, failed int) func(string, float64) registry.Finding {
		return func(string, float64) registry.Finding { return registry.Finding{Good: good, Failed: failed} }
	}
	// each answers by region; who is not in it does not answer.
	each := func(found map[string]registry.Finding) func(string, float64) registry.Finding {
		return func(region string, _ float64) registry.Finding { return found[region] }
	}
	dead, alive := registry.Finding{Failed: 10}, registry.Finding{Good: 10}
	once := func(when float64, e registry.Event) func(float64) []registry.Event {
		return func(s float64) []registry.Event {
			if at(s).Equal(at(when)) {
				return []registry.Event{e}
			}
			return nil
		}
	}
	tests := []struct {
		name string
		cutOff
		want []string
	}{
		{"its servers answer", cutOff{others: []string{"b"}, finds: all(10, 0), until: 120}, []string{"10.0 unreachable"}},
		{"nine of ten fail here and there", cutOff{others: []string{"b"}, finds: all(1, 9), until: 120}, []string{"10.0 unreachable", "12.6 down"}},
		{"fewer fail", cutOff{others: []string{"b"}, finds: all(12, 88), until: 120}, []string{"10.0 unreachable"}},
		{
			"they answer another region",
			cutOff{others: []string{"b"}, finds: each(map[string]registry.Finding{"eu-west-1": dead, "b": alive}), until: 120},
			[]string{"10.0 unreachable"},
		},
		{
			"they answer one of several",
			cutOff{others: []string{"b", "c"}, finds: each(map[string]registry.Finding{"eu-west-1": dead, "b": dead, "c": alive}), until: 120},
			[]string{"10.0 unreachable"},
		},
		{
			"they answer here",
			cutOff{others: []string{"b"}, finds: each(map[string]registry.Finding{"eu-west-1": alive, "b": dead}), until: 120},
			[]string{"10.0 unreachable"},
		},
		{
			"one of two others does not answer",
			cutOff{others: []string{"b", "c"}, finds: each(map[string]registry.Finding{"eu-west-1": dead, "b": dead}), until: 120},
			[]string{"10.0 unreachable", "12.6 down"},
		},
		{
			"the only other region in reach does not answer",
			cutOff{others: []string{"b"}, finds: each(map[string]registry.Finding{"eu-west-1": dead}), until: 120},
			[]string{"10.0 unreachable"},
		},
		{
			"another region hears it",
			cutOff{others: []string{"b"}, sees: map[string]int64{"us-east-1": 400}, finds: all(0, 10), until: 120},
			[]string{"10.0 unreachable"},
		},
		{"no other region", cutOff{finds: all(0, 10), until: 120}, []string{"10.0 unreachable", "72.5 down"}},
		{
			"no other region, one round is better",
			cutOff{finds: func(_ string, s float64) registry.Finding {
				if s > 29 && s < 31 {
					return alive
				}
				return dead
			}, until: 120},
			[]string{"10.0 unreachable", "94.6 down"},
		},
		{
			"the others are out of reach too, later",
			cutOff{others: []string{"b"}, silent: 30, finds: each(map[string]registry.Finding{"eu-west-1": dead}), until: 120},
			[]string{"10.0 unreachable", "102.6 down"},
		},
		{
			"this registry itself was cut off meanwhile",
			cutOff{others: []string{"b"}, finds: all(0, 10), event: once(12.3, registry.Gap{}), until: 60},
			[]string{"10.0 unreachable", "16.6 down"},
		},
		{
			"its servers come back before it does",
			cutOff{others: []string{"b"}, finds: func(_ string, s float64) registry.Finding {
				if s < 40 {
					return dead
				}
				return alive
			}, event: once(70, registry.UpdateSeen{Update: update(2, nil)}), until: 75},
			[]string{"10.0 unreachable", "12.6 down", "52.6 unreachable", "70.0 up"},
		},
		{
			"it comes back at once",
			cutOff{others: []string{"b"}, finds: all(0, 10), event: once(20, registry.UpdateSeen{Update: update(2, nil)}), until: 25},
			[]string{"10.0 unreachable", "12.6 down", "20.0 up"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.servers = 10
			if diff := cmp.Diff(test.want, test.play(registry.NewTable("eu-west-1", registry.Detection{}))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestARegionThatLivesIsProbedSeldom(t *testing.T) {
	c := cutOff{servers: 10, others: []string{"b"}, until: 130, finds: func(_ string, s float64) registry.Finding {
		if s < 111 {
			return registry.Finding{Good: 10}
		}
		return registry.Finding{Failed: 10}
	}}
	if diff := cmp.Diff([]string{"10.0 unreachable", "120.6 down"}, c.play(registry.NewTable("eu-west-1", registry.Detection{}))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := len(c.surveys); n > 18 {
		t.Errorf("%d rounds of probes in two minutes", n)
	}
}

func TestARegionWithoutLivingServersIsNotProbed(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	c := cutOff{finds: func(string, float64) registry.Finding { return registry.Finding{} }, until: 30}
	c.play(table)
	if len(c.surveys) > 0 {
		t.Errorf("%d surveys of nobody", len(c.surveys))
	}
}

func TestALargeRegionIsSampled(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	c := cutOff{
		servers: 950, others: []string{"b", "c", "d", "e", "f", "g", "h"}, until: 30,
		finds: func(string, float64) registry.Finding { return registry.Finding{Failed: 100} },
	}
	said := c.play(table)
	// The eighth region is asked in the second round; before that nothing is known of it.
	if diff := cmp.Diff([]string{"10.0 unreachable", "14.6 down"}, said); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	asked := map[string]int{}
	probed := map[string]int{}
	for _, s := range c.surveys[:2] {
		if len(s.Servers) != 100 || len(s.Ask) != 4 {
			t.Errorf("%d servers, asking %v", len(s.Servers), s.Ask)
		}
		for _, region := range s.Ask {
			asked[region]++
		}
		for _, p := range s.Servers {
			probed[p.Server]++
		}
	}
	if len(asked) != 7 || len(probed) != 200 {
		t.Errorf("two rounds asked %v and probed %d servers, want all 7, and 200", asked, len(probed))
	}
}

func TestServersOfARegionThatIsDown(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	c := cutOff{servers: 2, others: []string{"b"}, until: 13, finds: func(string, float64) registry.Finding { return registry.Finding{Failed: 2} }}
	draining, left := remote("us-east-1-drains", 2), remote("us-east-1-left", 2)
	draining.State, left.State = events.StateDraining, events.StateLeft
	c.event = func(s float64) []registry.Event {
		if s == 0 {
			return []registry.Event{registry.UpdateSeen{Update: update(2, nil, draining, left)}}
		}
		return nil
	}
	c.play(table)
	check := func(what string, want ...string) {
		t.Helper()
		var got []string
		for _, s := range table.Servers() {
			got = append(got, fmt.Sprintf("%s %s %s", strings.TrimPrefix(s.Server, "us-east-1-"), s.State, s.Reason))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("down", "000 down region_down", "001 down region_down", "drains down region_down", "left left ")
	var values []events.Server
	for _, v := range table.Tell(at(13)).Values {
		values = append(values, *v)
	}

	// A registry that starts now goes on from there, and the first value of the region's own
	// counts although its sequence is no higher.
	sayings := registry.Sayings{}
	sayings.Trust("eu-west-1", values, false)
	next := registry.NewTable("eu-west-1", registry.Detection{})
	next.Reduce(registry.Restored{Servers: values}, at(14))
	checkWords(t, "election", next.Reduce(registry.Elected{Servers: values, Told: sayings}, at(14)))
	table = next
	check("restored", "000 down region_down", "001 down region_down", "drains down region_down", "left left ")
	checkIDs(t, "the updates that brought them", table, "us-east-1-000@1", "us-east-1-001@1", "us-east-1-drains@2", "us-east-1-left@2")
	checkWords(t, "it is back", table.Reduce(registry.UpdateSeen{Update: update(2, nil, draining)}, at(15)), "us-east-1 up")
	table.Reduce(answer(update(2, full(1, 1), remote("us-east-1-000", 1), remote("us-east-1-001", 1), draining)), at(15.3))
	check("back", "000 up ", "001 up ", "drains draining ")
}

func TestASuccessorKnowsWhichRegionsAreDown(t *testing.T) {
	// A standby hears of no survey, and of the verdict.
	table := registry.NewTable("eu-west-1", registry.Detection{})
	c := cutOff{servers: 2, others: []string{"b"}, until: 13, finds: func(string, float64) registry.Finding { return registry.Finding{} }}
	c.play(table)
	sayings := registry.Sayings{}
	sayings.Heard(&events.RegionState{Region: "us-east-1", State: "unreachable", At: at(10)})
	sayings.Heard(&events.RegionState{Region: "us-east-1", State: "down", At: at(12)})
	checkWords(t, "election", table.Reduce(registry.Elected{Told: sayings}, at(13)))
	checkState(t, table, "us-east-1-000", events.StateDown)
	if told := table.Tell(at(13)); !slices.ContainsFunc(told.Values, func(s *events.Server) bool { return s.Reason == "region_down" }) {
		t.Errorf("told %v", told.Values)
	}
	sayings.Heard(&events.RegionState{Region: "us-east-1", State: "up", At: at(14)})
	checkWords(t, "what was told otherwise is told", table.Reduce(registry.Elected{Told: sayings}, at(14)), "us-east-1 down")
}
