package sessions_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// region is where the records of these tests are owned.
const region = "eu"

// noon is when the current token of the table's records was made.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	inside  = 29 * time.Second
	outside = sessions.Window
)

// at returns generation g of epoch (n, region).
func at(n, g uint64) sessions.Stamp { return elsewhere(n, region, g) }

func elsewhere(n uint64, r string, g uint64) sessions.Stamp {
	return sessions.Stamp{Epoch: events.Epoch{Number: n, Region: r}, Gen: g}
}

// A row is a record, a token, and what becomes of it.
type row struct {
	name                string
	state               sessions.State // active if empty
	current, parent     sessions.Stamp
	grace, dead         sessions.Stamp
	token               sessions.Stamp
	age                 time.Duration
	want                sessions.Verdict
	nextGrace, nextDead sessions.Stamp
	lost                bool
	noRecord            bool
}

// TestJudge goes through the specification's table, cell by cell.
func TestJudge(t *testing.T) {
	rows := []row{
		// Revoked beats everything (V8).
		{name: "V8 current of a revoked session", state: sessions.StateRevoked, current: at(1, 3), parent: at(1, 2), grace: at(1, 1), token: at(1, 3), age: inside, want: sessions.Ended, nextGrace: at(1, 1)},
		{name: "V8 parent of a revoked session", state: sessions.StateRevoked, current: at(1, 3), parent: at(1, 2), grace: at(1, 1), token: at(1, 2), age: inside, want: sessions.Ended, nextGrace: at(1, 1)},
		{name: "V8 later epoch of a revoked session", state: sessions.StateRevoked, current: at(1, 3), parent: at(1, 2), grace: at(1, 1), token: elsewhere(9, "us", 9), age: outside, want: sessions.Ended, nextGrace: at(1, 1)},

		// A higher epoch of another region: this one is behind.
		{name: "higher epoch elsewhere", current: at(1, 3), parent: at(1, 2), grace: at(1, 1), token: elsewhere(2, "us", 1), age: inside, want: sessions.Behind, nextGrace: at(1, 1)},
		{name: "same number, higher region", current: at(1, 3), parent: at(1, 2), grace: at(1, 1), token: elsewhere(1, "us", 1), age: outside, want: sessions.Behind, nextGrace: at(1, 1)},
		{name: "no record, token from elsewhere", noRecord: true, token: elsewhere(1, "us", 2), want: sessions.Behind, lost: true},

		// The current token, or a later one of this region: rotate.
		{name: "first token, fresh: grace stays", current: at(1, 1), grace: at(1, 1), token: at(1, 1), age: inside, want: sessions.Rotate, nextGrace: at(1, 1)},
		{name: "current, fresh: grace stays", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 5), age: inside, want: sessions.Rotate, nextGrace: at(1, 2)},
		{name: "current, not fresh: grace moves up", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 5), age: outside, want: sessions.Rotate, nextGrace: at(1, 5)},
		{name: "current, clock stepped back: fresh", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 5), age: -time.Hour, want: sessions.Rotate, nextGrace: at(1, 2)},
		{name: "current above dead: dead is dropped", current: at(2, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(2, 6), age: inside, want: sessions.Rotate, nextGrace: at(1, 4)},
		{name: "tail lost: later generation", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 7), age: outside, want: sessions.Rotate, nextGrace: at(1, 7)},
		{name: "tail lost: later epoch", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(3, 2), age: inside, want: sessions.Rotate, nextGrace: at(1, 2), lost: true},
		{name: "record lost", noRecord: true, token: at(2, 8), want: sessions.Rotate, lost: true},

		// The parent: one lost reply revokes nobody (V1).
		{name: "V1 parent, fresh: replay", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 4), age: inside, want: sessions.Replay, nextGrace: at(1, 2)},
		{name: "V1 parent, not fresh: supersede, the successor dies", current: at(1, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 4), age: outside, want: sessions.Supersede, nextGrace: at(1, 4), nextDead: at(1, 5)},
		{name: "V1 parent of a move, not fresh", current: at(2, 5), parent: at(1, 4), grace: at(1, 2), token: at(1, 4), age: outside, want: sessions.Supersede, nextGrace: at(1, 4), nextDead: at(2, 5)},
		{name: "V1 parent, fresh: the older dead stays", current: at(2, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(1, 4), age: inside, want: sessions.Replay, nextGrace: at(1, 4), nextDead: at(1, 5)},
		{name: "V1 parent, not fresh: the newer dead replaces the older", current: at(2, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(1, 4), age: outside, want: sessions.Supersede, nextGrace: at(1, 4), nextDead: at(2, 6)},

		// Between parent and current, of another epoch: a line whose winner nobody presented (V9).
		{name: "V9 other line, fresh: the winner's answer", current: at(2, 6), parent: at(1, 4), grace: at(1, 2), token: at(1, 5), age: inside, want: sessions.Replay, nextGrace: at(1, 2)},
		{name: "V9 other line, not fresh: supersede, grace down to the old parent", current: at(2, 6), parent: at(1, 4), grace: at(1, 5), token: at(1, 5), age: outside, want: sessions.Supersede, nextGrace: at(1, 4), nextDead: at(2, 6)},
		{name: "V9 other line, not fresh: a lower grace stays", current: at(2, 6), parent: at(1, 4), grace: at(1, 2), token: at(1, 5), age: outside, want: sessions.Supersede, nextGrace: at(1, 2), nextDead: at(2, 6)},
		{name: "V9 epoch first: higher generation, lower epoch", current: at(2, 6), parent: at(1, 4), grace: at(1, 2), token: at(1, 9), age: inside, want: sessions.Replay, nextGrace: at(1, 2)},
		{name: "V9 other region's line", current: at(3, 6), parent: at(1, 4), grace: at(1, 2), token: elsewhere(2, "us", 5), age: inside, want: sessions.Replay, nextGrace: at(1, 2)},
		{name: "V9 other line above dead: dead is dropped", current: at(3, 7), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(2, 6), age: inside, want: sessions.Replay, nextGrace: at(1, 4)},
		{name: "dead successor that a move raised to another line", current: at(2, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(1, 5), age: inside, want: sessions.Reused, nextGrace: at(1, 4), nextDead: at(1, 5)},
		{name: "below dead, same region", current: at(3, 7), parent: at(1, 4), grace: at(1, 4), dead: at(2, 6), token: at(1, 5), age: outside, want: sessions.Reused, nextGrace: at(1, 4), nextDead: at(2, 6)},
		{name: "below dead, other region: the live side of a fork", current: at(3, 7), parent: at(1, 4), grace: at(1, 4), dead: elsewhere(2, "us", 6), token: at(1, 5), age: inside, want: sessions.Replay, nextGrace: at(1, 4), nextDead: elsewhere(2, "us", 6)},
		{name: "dead successor of the same epoch, fresh", current: at(1, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(1, 5), age: inside, want: sessions.Reused, nextGrace: at(1, 4), nextDead: at(1, 5)},
		{name: "dead successor of the same epoch, not fresh", current: at(1, 6), parent: at(1, 4), grace: at(1, 4), dead: at(1, 5), token: at(1, 5), age: outside, want: sessions.Reused, nextGrace: at(1, 4), nextDead: at(1, 5)},

		// From grace to the parent: a slow tab (V2).
		{name: "V2 grandparent, fresh", current: at(1, 5), parent: at(1, 4), grace: at(1, 3), token: at(1, 3), age: inside, want: sessions.Superseded, nextGrace: at(1, 3)},
		{name: "V2 well above grace, fresh", current: at(1, 9), parent: at(1, 8), grace: at(1, 2), token: at(1, 5), age: inside, want: sessions.Superseded, nextGrace: at(1, 2)},
		{name: "V2 loser of a settled line, fresh", current: at(2, 7), parent: at(2, 6), grace: at(1, 4), token: at(1, 5), age: inside, want: sessions.Superseded, nextGrace: at(1, 4)},
		{name: "V2 grandparent, not fresh", current: at(1, 5), parent: at(1, 4), grace: at(1, 3), token: at(1, 3), age: outside, want: sessions.Reused, nextGrace: at(1, 3)},
		{name: "below grace, fresh", current: at(1, 5), parent: at(1, 4), grace: at(1, 3), token: at(1, 2), age: inside, want: sessions.Reused, nextGrace: at(1, 3)},
		{name: "below grace by epoch, fresh", current: at(2, 6), parent: at(2, 5), grace: at(2, 4), token: at(1, 9), age: inside, want: sessions.Reused, nextGrace: at(2, 4)},
		{name: "below grace, not fresh", current: at(1, 5), parent: at(1, 4), grace: at(1, 3), token: at(1, 1), age: outside, want: sessions.Reused, nextGrace: at(1, 3)},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			rec := &sessions.Record{
				State: sessions.StateActive, Epoch: r.current.Epoch, Gen: r.current.Gen,
				Parent: r.parent, Grace: r.grace, Dead: r.dead, MintedAt: noon,
			}
			if r.state != "" {
				rec.State = r.state
			}
			fresh := r.age < sessions.Window
			if r.noRecord {
				rec, fresh = nil, false
			}
			got := sessions.Judge(rec, r.token, region, noon.Add(r.age))
			want := sessions.Judgement{Verdict: r.want, Token: r.token, Fresh: fresh, Grace: r.nextGrace, Dead: r.nextDead, Lost: r.lost}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := got.Redeems(); got != (r.want == sessions.Rotate || r.want == sessions.Supersede) {
				t.Errorf("redeems: %t", got)
			}
		})
	}
}

func TestForced(t *testing.T) {
	for _, v := range []sessions.Verdict{
		sessions.Rotate, sessions.Replay, sessions.Supersede, sessions.Superseded, sessions.Reused, sessions.Ended, sessions.Behind,
	} {
		before := sessions.Judgement{Verdict: v, Token: at(1, 4), Fresh: true, Grace: at(1, 2), Dead: at(1, 3)}
		want := before
		if v == sessions.Replay {
			want.Verdict = sessions.Supersede // grace and dead stay: it is inside the window
		}
		if diff := cmp.Diff(want, before.Forced()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", v, diff)
		}
	}
}

// TestNext: what stands in the record after each way of redeeming.
func TestNext(t *testing.T) {
	base := sessions.Record{
		Version: sessions.RecordVersion, Session: "s", Epoch: at(2, 0).Epoch, Gen: 6, Hash: "h", Parent: at(2, 5), MintedAt: noon, Grace: at(2, 1),
		State: sessions.StateActive, Server: "a", Op: "o1", Answer: sessions.Answer{Server: "a"}, Bookmark: "b", Subject: "alice",
		MovedAt: noon.Add(-time.Hour), Jurisdiction: "global", StartedAt: noon.Add(-time.Hour), ExpiresAt: noon.Add(time.Hour),
	}
	now := noon.Add(time.Minute)
	tests := []struct {
		name    string
		token   sessions.Stamp
		lost    bool
		server  string
		current sessions.Stamp
	}{
		{"stays", at(2, 6), false, "a", at(2, 7)},
		{"moves: a new epoch", at(2, 6), false, "b", at(3, 7)},
		{"supersedes and stays", at(2, 5), false, "a", at(2, 7)},
		{"supersedes and moves", at(2, 5), false, "b", at(3, 7)},
		{"tail lost in the epoch", at(2, 9), false, "a", at(2, 10)},
		{"tail lost, same server by chance", at(5, 2), true, "a", at(6, 7)},
		{"tail lost, another server", at(5, 9), true, "b", at(6, 10)},
	}
	for _, test := range tests {
		j := sessions.Judgement{Token: test.token, Lost: test.lost, Grace: at(2, 3), Dead: at(2, 4)}
		a := sessions.Answer{Server: test.server, Reason: "r"}
		want := base
		want.Epoch, want.Gen, want.Parent = test.current.Epoch, test.current.Gen, test.token
		want.Grace, want.Dead, want.MintedAt = j.Grace, j.Dead, now
		want.Server, want.Answer, want.Op = test.server, a, "o2"
		if test.server != "a" {
			want.MovedAt = now
		}
		if diff := cmp.Diff(want, base.Next(j, region, a, "o2", now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestStart(t *testing.T) {
	a := sessions.Answer{Server: "a"}
	got := sessions.Start(sessions.Record{Session: "s"}, region, a, "o", noon)
	want := sessions.Record{
		Version: sessions.RecordVersion, Session: "s", Epoch: events.Epoch{Number: 1, Region: region}, Gen: 1, Grace: at(1, 1),
		MintedAt: noon, State: sessions.StateActive, Server: "a", Op: "o", Answer: a,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestClaim: a critical task counts from its first claim until a refresh without it.
func TestClaim(t *testing.T) {
	var r sessions.Record
	if r = r.Claim(false, noon); !r.CriticalSince.IsZero() {
		t.Errorf("claimed since %v without a claim", r.CriticalSince)
	}
	r = r.Claim(true, noon).Claim(true, noon.Add(time.Minute))
	if !r.CriticalSince.Equal(noon) {
		t.Errorf("claimed since %v, want the first claim", r.CriticalSince)
	}
	if r = r.Claim(false, noon.Add(time.Hour)); !r.CriticalSince.IsZero() {
		t.Errorf("still claimed since %v", r.CriticalSince)
	}
}

// TestStampOrder: epoch first, then generation (V9), a total order.
func TestStampOrder(t *testing.T) {
	stamp := rapid.Custom(func(t *rapid.T) sessions.Stamp {
		return elsewhere(rapid.Uint64Range(0, 2).Draw(t, "number"), rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "region"), rapid.Uint64Range(0, 2).Draw(t, "gen"))
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := stamp.Draw(t, "a"), stamp.Draw(t, "b"), stamp.Draw(t, "c")
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) || a.Less(b) != (a.Compare(b) < 0) {
			t.Fatalf("%s and %s compare as %d and %d", a, b, a.Compare(b), b.Compare(a))
		}
		if a.Less(b) && b.Less(c) && !a.Less(c) {
			t.Fatalf("%s < %s < %s is no order", a, b, c)
		}
		if e := a.Epoch.Compare(b.Epoch); e != 0 && a.Compare(b) != e {
			t.Fatalf("%s and %s do not compare by epoch first", a, b)
		}
	})
}
