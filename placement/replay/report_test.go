package replay_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
)

// example is a fleet whose server a is busy, and b idle, with far in another region.
func example() placement.View {
	return placement.NewView([]placement.Server{
		{ID: "a", Region: "eu-west-1", State: events.StateUp, Capacity: 10, Utilisation: 0.9, Location: events.Location{Lat: 53.35, Lon: -6.26}},
		{ID: "b", Region: "eu-west-1", State: events.StateUp, Capacity: 10, Utilisation: 0.86, Location: events.Location{Lat: 53.35, Lon: -6.26}},
		{ID: "far", Region: "us-east-1", State: events.StateUp, Capacity: 20, Utilisation: 0.2, Location: events.Location{Lat: 39, Lon: -77.5}},
	})
}

// decided is the event of a decision by the view of the first sight.
func decided(t *testing.T, view placement.View, c replay.Case, changes ...func(*events.Decision)) *events.Decision {
	t.Helper()
	d := placement.Decide(c.Request, &view, c.Policy, c.At)
	e := c.Event(d, d)
	e.Region, e.Instance, e.Sight = "eu-west-1", instance, 1
	for _, change := range changes {
		change(e)
	}
	return wire(t, e)
}

func TestReport(t *testing.T) {
	view := example()
	head := events.Sight{Version: 1, Region: "eu-west-1", Instance: instance, At: noon, Number: 1, Whole: true}
	stays := func(session string, after time.Duration, critical bool) replay.Case {
		return replay.Case{At: noon.Add(after), Request: placement.Request{
			Session: session, Server: "a", Arrived: "eu-west-1", ClosestServer: "far", Critical: critical,
			RTT: []placement.RTT{{ServerID: "a", MS: 80}, {ServerID: "far", MS: 75}},
		}}
	}
	again := replay.New(replay.Config{Candidate: func(string) placement.Policy { return placement.Policy{Name: placement.PolicyLiteral} }})
	for _, e := range []*events.Decision{
		decided(t, view, stays("s1", 0, false)),
		decided(t, view, stays("s2", 2*time.Second, true), func(e *events.Decision) { e.Sampled = 5 }),
		decided(t, view, stays("s3", 3*time.Second, false), func(e *events.Decision) { e.Reason, e.To = "already_best", "b" }),
		// What became of these is not what the rules said, or no rule was asked.
		decided(t, view, stays("s4", 4*time.Second, false), func(e *events.Decision) {
			e.Decided, e.Reason = &events.Decided{Verdict: e.Verdict, Reason: e.Reason, To: e.To}, "target_refused"
		}),
		decided(t, view, stays("s5", time.Second, false), func(e *events.Decision) { e.Reason = "store_unavailable" }),
		decided(t, view, stays("s6", time.Second, false), func(e *events.Decision) { e.Sight = 2 }),
		decided(t, view, stays("s7", time.Second, false), func(e *events.Decision) { e.Instance, e.Sight = "", 0 }),
		decided(t, view, stays("s8", time.Second, false), func(e *events.Decision) { e.Policy = "of-tomorrow" }),
		decided(t, view, stays("s9", time.Second, false), func(e *events.Decision) { e.Limits = &events.Limits{Cooldown: "soon"} }),
	} {
		again.Decision(e)
	}
	for _, s := range replay.Sights(head, &view, nil) {
		if wanted := again.Sight(wire(t, s)); !wanted {
			t.Error("nobody waits for the second sight")
		}
	}
	got := again.Report()
	got.Candidate.Policy = "literal"
	var text strings.Builder
	if err := got.Table(&text, true); err != nil {
		t.Fatal(err)
	}
	const want = `  decisions  agree  differ  not_recorded  no_rule  unreadable  stand_for  sights
          9      3       1             2        1           2         13       1
FAIL 2026-11-21T12:00:03.000000001Z s3/0 at a: stay already_best b -> stay within_band a

literal: 3 decisions would change, 3 of them the server

before             after               decisions
stay within_band   move closer_region  2
stay already_best  move closer_region  1

                         before  after
                  moves       0      3
        between_regions       0      3
                mean_ms    80.0   76.2
                 p95_ms    80.0   80.0
     sessions eu-west-1       4      1
  utilisation eu-west-1   0.880  0.730
     sessions us-east-1       0      3
  utilisation us-east-1   0.200  0.350
2026-11-21T12:00:00.000000001Z s1/0 at a: stay within_band a -> move closer_region far
2026-11-21T12:00:03.000000001Z s3/0 at a: stay already_best b -> move closer_region far
2026-11-21T12:00:04.000000001Z s4/0 at a: stay within_band a -> move closer_region far
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	var encoded strings.Builder
	if err := got.JSON(&encoded); err != nil {
		t.Fatal(err)
	}
	var back replay.Report
	if err := json.Unmarshal([]byte(encoded.String()), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*got, back); diff != "" {
		t.Errorf("as JSON (-want +got):\n%s", diff)
	}
}

// TestALargeViewComesInParts, each of which is far below what a message may hold.
func TestALargeViewComesInParts(t *testing.T) {
	var servers []placement.Server
	for i := range 4000 {
		id := strings.Repeat("x", 60) + strconv.Itoa(i)
		servers = append(servers, placement.Server{ID: id, Region: "eu-west-1", State: events.StateUp, Capacity: 100.123456789, Utilisation: 0.123456789, DrainUntil: noon})
	}
	one := placement.NewView(servers[:3900])
	for i := range servers {
		servers[i].Utilisation++
	}
	two := placement.NewView(servers[100:])
	head := events.Sight{Version: 1, Region: "eu-west-1", Instance: instance, At: noon, Number: 1, Whole: true}
	sights := replay.Sights(head, &one, nil)
	head.Number, head.Since, head.Whole = 2, 1, false
	sights = append(sights, replay.Sights(head, &two, &one)...)
	again := replay.New(replay.Config{})
	c := replay.Case{At: noon, Request: placement.Request{Session: "s", Server: servers[200].ID}, Policy: placement.Policy{Name: placement.PolicyLiteral}}
	d := placement.Decide(c.Request, &two, c.Policy, c.At)
	e := c.Event(d, d)
	e.Region, e.Instance, e.Sight = "eu-west-1", instance, 2
	again.Decision(e)
	for _, s := range sights {
		if data, err := events.Encode(s); err != nil || len(data) > events.MaxViewPart {
			t.Fatalf("part %d of %d has %d bytes: %v", s.Part, s.Of, len(data), err)
		}
		again.Sight(s)
	}
	if got := again.Report(); got.Agree != 1 || len(sights) < 8 {
		t.Errorf("in %d parts: %+v", len(sights), got)
	}
}
