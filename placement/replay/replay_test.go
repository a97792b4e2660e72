package replay_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 1, time.UTC)

// recorder plays a token service: it decides by one view after the other, and writes both down.
type recorder struct {
	t        *rapid.T
	servers  []placement.Server
	settings []placement.Setting
	number   uint64
	view     placement.View
	// sights are what was written, made what was decided, by which view.
	sights []*events.Sight
	made   []made
}

type made struct {
	event *events.Decision
	view  placement.View
	c     replay.Case
}

const instance = "01k9zj4q8r5t6v7w8x9y0z1a2e"

func pick[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// regions of the fleet.
var regions = []string{"eu-west-1", "us-east-1", "ap-southeast-1"}

func (r *recorder) server(id, region string) placement.Server {
	t := r.t
	return placement.Server{
		ID: id, Region: region,
		State: pick(t, "state", events.StateUp, events.StateUp, events.StateUp, events.StateSuspect, events.StateDraining, events.StateDown),
		// Some in slow start.
		Capacity: pick(t, "capacity", 100.0, 100, 1000, 0, 100*rapid.Float64Range(0.1, 1).Draw(t, "share")), Utilisation: rapid.Float64Range(0, 1.2).Draw(t, "u"),
		Location:      pick(t, "place", events.Location{Lat: 53.3, Lon: -6.3}, events.Location{Lat: 39, Lon: -77.5}, events.Location{}),
		DrainingSince: pick(t, "since", time.Time{}, noon.Add(-5*time.Minute)), DrainUntil: pick(t, "until", time.Time{}, noon.Add(9*time.Minute), noon.Add(-time.Second)),
	}
}

// look makes the next view, of which a little has changed, or much, and writes it down.
func (r *recorder) look() {
	t := r.t
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		at := slices.IndexFunc(r.servers, func(s placement.Server) bool { return s.ID == id })
		switch change := rapid.IntRange(0, 9).Draw(t, "change of "+id); {
		case at < 0 && change < 5:
			r.servers = append(r.servers, r.server(id, pick(t, "region", regions...)))
		case at >= 0 && change == 0:
			r.servers = slices.Delete(r.servers, at, at+1)
		case at >= 0 && change == 1:
			r.servers[at] = r.server(id, pick(t, "region", r.servers[at].Region, r.servers[at].Region, regions[0]))
		case at >= 0 && change < 5:
			r.servers[at].Utilisation = rapid.Float64Range(0, 1.2).Draw(t, "u")
		}
	}
	if pick(t, "set", false, false, false, true) {
		r.settings = []placement.Setting{{Region: regions[0], Role: pick(t, "role", events.RoleStandby, ""), Weight: pick(t, "weight", 100, 40, 0)}}
	}
	before := r.view
	r.view = placement.NewView(slices.Clone(r.servers), r.settings...)
	since := r.number
	r.number += pick(t, "numbers that were not recorded", uint64(1), 1, 1, 3)
	head := events.Sight{
		Version: 1, Region: regions[0], Instance: instance, At: noon.Add(time.Duration(r.number) * time.Second), Number: r.number, Since: since,
		Whole: since == 0 || pick(t, "whole", false, false, false, false, true),
	}
	r.sights = append(r.sights, replay.Sights(head, &r.view, &before)...)
}

// decide decides about some session, and writes that down.
func (r *recorder) decide() {
	t := r.t
	id := func(label string) string { return pick(t, label, "a", "b", "c", "d", "e", "f", "", "x") }
	ago := func(label string) time.Time {
		return pick(t, label, time.Time{}, noon.Add(-time.Minute), noon.Add(-time.Hour))
	}
	c := replay.Case{At: noon.Add(rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "at"))
	}).Draw(t, "at")), Request: placement.Request{
		Session: fmt.Sprintf("s%d", len(r.made)), Generation: rapid.Uint64Range(0, 9).Draw(t, "generation"), Server: id("server"), ClosestServer: id("closest"),
		Arrived: pick(t, "arrived", regions...), Critical: pick(t, "critical", false, false, true), CriticalSince: ago("critical since"), MovedAt: ago("moved"),
		Home: pick(t, "home", "", "", regions[1]), Dead: pick(t, "dead", false, false, true), Unreachable: pick(t, "unreachable", false, false, true),
		Stale: pick(t, "stale", false, false, false, true), Allowed: pick(t, "allowed", nil, nil, []string{}, regions[:1], []string{regions[2], regions[1]}),
	}, Policy: placement.Policy{
		Name: pick(t, "policy", append(placement.Policies(), "")...), Variant: pick(t, "variant", "", "v"), MaxRTTMs: pick(t, "bound", 0, 90.5),
		CriticalBound: pick(t, "critical bound", 0, 30*time.Second, 90*time.Minute), Cooldown: pick(t, "cooldown", 0, 30*time.Second+time.Nanosecond),
		DrainDeadline: pick(t, "deadline", 0, time.Minute), RefreshInterval: pick(t, "refresh", 0, time.Minute),
	}}
	if rapid.Bool().Draw(t, "located") {
		c.Request.Location = &events.Location{Lat: rapid.Float64Range(-90, 90).Draw(t, "lat"), Lon: rapid.Float64Range(-180, 180).Draw(t, "lon")}
	}
	for _, server := range []string{"a", "c", "x"} {
		if pick(t, "measured", false, false, true) {
			c.Request.RTT = append(c.Request.RTT, placement.RTT{ServerID: server, MS: rapid.Float64Range(0.1, 300).Draw(t, "ms")})
		}
	}
	v := r.view
	if pick(t, "priced", false, true) {
		c.Prices = placement.Prices{regions[0]: rapid.Float64Range(0.1, 200).Draw(t, "price"), regions[2]: 3.25}
		v = v.WithPrices(c.Prices)
	}
	if pick(t, "added", false, true) {
		c.Added = placement.Added{"a": rapid.Float64Range(-1, 1).Draw(t, "more"), "e": 0.1, "x": 0.5}
		v = v.WithAdded(c.Added)
	}
	d := placement.Decide(c.Request, &v, c.Policy, c.At)
	e := c.Event(d, d)
	e.Region, e.Instance, e.Sight = regions[0], instance, r.number
	r.made = append(r.made, made{e, v, c})
}

// drawn records some views and decisions.
func drawn(t *rapid.T) *recorder {
	r := &recorder{t: t}
	for range rapid.IntRange(1, 12).Draw(t, "views") {
		r.look()
		for range rapid.IntRange(0, 3).Draw(t, "decisions") {
			r.decide()
		}
	}
	return r
}

// wire returns an event as it comes from NATS.
func wire[E events.Event](t interface{ Fatal(...any) }, e E) E {
	data, err := events.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := events.Decode(e.Subject().String(), data)
	if err != nil {
		t.Fatal(err)
	}
	return got.(E)
}

// replayed makes the decisions again, by sights that come in some order.
func (r *recorder) replayed(c replay.Config, sights []*events.Sight) *replay.Report {
	again := replay.New(c)
	for _, m := range r.made {
		again.Decision(wire(r.t, m.event))
	}
	for _, s := range sights {
		again.Sight(wire(r.t, s))
	}
	return again.Report()
}

// TestSightsMakeTheViews that were seen, to the last bit.
func TestSightsMakeTheViews(t *testing.T) {
	everything := cmp.Exporter(func(reflect.Type) bool { return true })
	rapid.Check(t, func(t *rapid.T) {
		r := &recorder{t: t}
		want := map[uint64]placement.View{}
		for range rapid.IntRange(1, 12).Draw(t, "views") {
			r.look()
			want[r.number] = r.view
		}
		var told []*events.Sight
		for _, s := range r.sights {
			told = append(told, wire(t, s))
		}
		if diff := cmp.Diff(want, replay.Views(told), everything); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// TestRecordedIsReplayed: whatever was decided comes out the same, also if what was seen is told twice and
// out of order.
func TestRecordedIsReplayed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawn(t)
		sights := slices.Clone(r.sights)
		if rapid.Bool().Draw(t, "out of order") {
			sights = append(sights, sights...)
			rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)).Shuffle(len(sights), func(i, j int) { sights[i], sights[j] = sights[j], sights[i] })
		}
		got := r.replayed(replay.Config{}, sights)
		if len(got.Differences) > 0 {
			t.Fatalf("differs: %v", got.Differences)
		}
		if sights[0].Since == 0 && got.Agree != len(r.made) {
			t.Fatalf("%d of %d agree: %+v", got.Agree, len(r.made), got)
		}
		if got.Agree+got.NotRecorded != len(r.made) {
			t.Fatalf("%d decisions, %+v", len(r.made), got)
		}
	})
}

// TestWhatWasLostIsSaid: where sights are missing, the decisions that need them are counted apart, and
// the others come out as they were.
func TestWhatWasLostIsSaid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawn(t)
		lost := map[uint64]bool{}
		var left []*events.Sight
		for _, s := range r.sights {
			if pick(t, "lost", false, false, false, true) {
				lost[s.Number] = true
			} else {
				left = append(left, s)
			}
		}
		known := map[uint64]bool{}
		for _, s := range r.sights {
			known[s.Number] = !lost[s.Number] && (s.Whole || known[s.Since])
		}
		want := 0
		for _, m := range r.made {
			if known[m.event.Sight] {
				want++
			}
		}
		got := r.replayed(replay.Config{}, left)
		if got.Agree != want || got.NotRecorded != len(r.made)-want || len(got.Differences) > 0 {
			t.Fatalf("want %d to agree of %d, got %+v", want, len(r.made), got)
		}
	})
}

// TestForgedSights: whatever else is said in the name of a token service, what was made again stays so.
func TestForgedSights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawn(t)
		forged := slices.Clone(r.sights)
		for range rapid.IntRange(1, 300).Draw(t, "forged") {
			number := rapid.Uint64Range(1, 30).Draw(t, "number")
			s := &events.Sight{
				Version: 1, Region: regions[0], Instance: pick(t, "instance", "another", instance), At: noon, Number: number,
				Since: rapid.Uint64Range(0, number-1).Draw(t, "since"), Whole: rapid.Bool().Draw(t, "whole"), Part: 1, Of: pick(t, "of", 1, 2, 4096),
				Utilisation: map[string]float64{"a": 0.5}, Gone: []string{"b"},
			}
			s.Part = pick(t, "part", 1, s.Of)
			forged = append(forged, s)
		}
		got := r.replayed(replay.Config{}, forged)
		if got.Agree+len(got.Differences)+got.NotRecorded != len(r.made) || r.sights[0].Since == 0 && got.Agree != len(r.made) {
			t.Fatalf("%d decisions: %+v", len(r.made), got)
		}
	})
}

// TestWhatWasChangedIsFound: a decision of which something was recorded wrongly is named, if that makes
// a difference, and no other.
func TestWhatWasChangedIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawn(t)
		if len(r.made) == 0 {
			t.Skip("no decision")
		}
		at := rapid.IntRange(0, len(r.made)-1).Draw(t, "which")
		m := &r.made[at]
		was := replay.Outcome{Verdict: m.event.Verdict, Reason: m.event.Reason, To: m.event.To}
		c := m.c
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0:
			m.event.To = "nowhere"
		case 1:
			m.event.Reason = "cooldown_"
		case 2:
			m.event.Facts.Dead = !m.event.Facts.Dead
			c.Request.Dead = m.event.Facts.Dead
		case 3:
			m.event.From, c.Request.Server = "b", "b"
		case 4:
			m.event.Generation++
			c.Request.Generation++
		case 5:
			m.event.Policy, c.Policy.Name = placement.PolicyLiteral, placement.PolicyLiteral
		}
		says := placement.Decide(c.Request, &m.view, c.Policy, c.At)
		is := replay.Outcome{Verdict: string(says.Verdict), Reason: string(says.Reason), To: says.Server}
		want := 0
		if is != (replay.Outcome{Verdict: m.event.Verdict, Reason: m.event.Reason, To: m.event.To}) || says.Draw != m.event.Draw {
			want = 1
		}
		got := r.replayed(replay.Config{}, r.sights)
		if len(got.Differences) != want || want == 1 && got.Differences[0].Session != m.event.Session {
			t.Fatalf("recorded %v of %v, want %d differences, got %v", m.event, was, want, got.Differences)
		}
	})
}

// TestCandidateChanges: what another policy would change is what it decides on the views that were seen.
func TestCandidateChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawn(t)
		name := pick(t, "candidate", placement.Policies()...)
		var want []string
		for _, m := range r.made {
			d := placement.Decide(m.c.Request, &m.view, placement.Policy{Name: name}, m.c.At)
			if string(d.Verdict) != m.event.Verdict || string(d.Reason) != m.event.Reason || d.Server != m.event.To {
				want = append(want, m.event.Session+" "+string(d.Reason)+" "+d.Server)
			}
		}
		got := r.replayed(replay.Config{Candidate: func(string) placement.Policy { return placement.Policy{Name: name} }}, r.sights)
		var changed []string
		for _, d := range got.Candidate.Differences {
			changed = append(changed, d.Session+" "+d.Is.Reason+" "+d.Is.To)
		}
		slices.Sort(want)
		slices.Sort(changed)
		if diff := cmp.Diff(want, changed); diff != "" || got.Candidate.Changed != len(want) {
			t.Fatalf("%d changed (-want +got):\n%s", got.Candidate.Changed, diff)
		}
		sum := 0
		for _, n := range got.Candidate.Reasons {
			sum += n.Decisions
		}
		if sum != len(want) {
			t.Fatalf("%d changed, by reasons %v", len(want), got.Candidate.Reasons)
		}
	})
}
