package server

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

const own = "eu-west-1-a"

func claimsAt(session string, epoch events.Epoch, server string, exp time.Time) *api.AccessClaims {
	return &api.AccessClaims{SessionClaims: api.SessionClaims{SessionID: session, ExpiresAt: exp.Unix()}, Lock: api.Lock{
		ServerID: server, ServerURL: "https://" + server, Region: epoch.Region, Epoch: epoch.Number, EpochRegion: epoch.Region,
	}}
}

func releasedAt(session string, epoch events.Epoch, to string) *events.LockReleased {
	return &events.LockReleased{Session: session, Epoch: epoch, To: events.Home{Server: to, Region: epoch.Region, URL: "https://" + to}}
}

// heard is one thing that a table may hear.
type heard struct {
	Epoch   events.Epoch
	Kind    string // token, release or revoke
	Foreign bool
}

// TestFloorIsIndifferentToOrder feeds the same set of tokens and events in two orders, the
// second with repetitions: what is then accepted is the same.
func TestFloorIsIndifferentToOrder(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	gen := rapid.Custom(func(t *rapid.T) heard {
		e := events.Epoch{Number: rapid.Uint64Range(1, 4).Draw(t, "number"), Region: rapid.SampledFrom([]string{"ap", "eu", "us"}).Draw(t, "region")}
		return heard{Epoch: e, Kind: rapid.SampledFrom([]string{"token", "token", "release", "release", "revoke"}).Draw(t, "kind")}
	})
	feed := func(table *sessionTable, h heard) {
		server := "server-" + h.Epoch.Region + fmt.Sprint(h.Epoch.Number) // an epoch has one server
		switch h.Kind {
		case "token":
			table.observe(claimsAt("s", h.Epoch, server, now.Add(time.Minute)), now)
		case "release":
			table.release(releasedAt("s", h.Epoch, server), now)
		case "revoke":
			table.revoke("s", now)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(gen, 1, 8).Draw(t, "heard")
		again := rapid.Permutation(append(append([]heard{}, all...), all[:len(all)/2]...)).Draw(t, "again")
		first, second := newSessionTable(1000), newSessionTable(1000)
		for _, h := range all {
			feed(first, h)
		}
		for _, h := range again {
			feed(second, h)
		}
		low := claimsAt("s", events.Epoch{}, "any", now.Add(time.Minute))
		_, a := first.observe(low, now)
		_, b := second.observe(low, now)
		if *a != *b {
			t.Fatalf("in order %+v, else %+v", *a, *b)
		}
		// And it is the maximum, by the plain reading of the rule.
		var want lock
		for _, h := range all {
			switch {
			case h.Kind == "revoke":
				want.revoked = true
			case h.Epoch.Compare(want.floor) > 0:
				want.floor = h.Epoch
			}
		}
		if a.floor != want.floor || a.revoked != want.revoked {
			t.Fatalf("floor %v revoked %v, want %v %v", a.floor, a.revoked, want.floor, want.revoked)
		}
	})
}

func TestFloorsComparePairs(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(1000)
	table.release(releasedAt("s", events.Epoch{Number: 3, Region: "eu"}, "b"), now)
	tests := []struct {
		epoch events.Epoch
		want  api.Code
	}{
		{events.Epoch{Number: 2, Region: "us"}, api.CodeLockedElsewhere},
		{events.Epoch{Number: 3, Region: "ap"}, api.CodeLockedElsewhere},
		{events.Epoch{Number: 3, Region: "eu"}, ""},
		{events.Epoch{Number: 3, Region: "us"}, ""},
		{events.Epoch{Number: 4, Region: "ap"}, ""},
	}
	for _, test := range tests {
		l := table.shard("s").known["s"].lock.Load()
		var got api.Code
		if err := l.judge(claimsAt("s", test.epoch, own, now.Add(time.Minute)), own); err != nil {
			got = err.Code
		}
		if got != test.want {
			t.Errorf("%v: %q, want %q", test.epoch, got, test.want)
		}
	}
}

func TestFloorsLiveAsLongAsATokenMay(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(1000)
	epoch := events.Epoch{Number: 2, Region: "eu"}
	table.release(releasedAt("released", epoch, "b"), now)
	table.observe(claimsAt("seen", epoch, own, now.Add(2*time.Minute)), now)
	known := func(id string) bool { return table.floor(id).Number > 0 }
	for _, test := range []struct {
		after          time.Duration
		released, seen bool
	}{
		{3*time.Minute - 1, true, true},
		{3 * time.Minute, true, false},
		{7*time.Minute - 1, true, false},
		{7 * time.Minute, false, false},
	} {
		table.sweep(own, now.Add(-time.Hour), now.Add(test.after))
		if got := [2]bool{known("released"), known("seen")}; got != [2]bool{test.released, test.seen} {
			t.Errorf("after %v: released, seen known: %v", test.after, got)
		}
	}
}

// TestForgottenSessionIsLookedUpAgain is about those who still hold a session that was
// dropped: they must not go on with what it said.
func TestForgottenSessionIsLookedUpAgain(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(1000)
	s, _ := table.observe(claimsAt("s", events.Epoch{Number: 1, Region: "eu"}, own, now), now)
	table.sweep(own, now, now.Add(time.Hour))
	if s.lock.Load() != nil {
		t.Error("a forgotten session still has a lock")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const limit = sessionShards * 64
	table := newSessionTable(limit)
	count := func() int {
		n := 0
		for i := range table.shards {
			n += len(table.shards[i].known)
		}
		return n
	}
	epoch := events.Epoch{Number: 1, Region: "eu"}
	for i := range limit / 8 {
		table.release(releasedAt(fmt.Sprintf("released-%d", i), epoch, "b"), now)
	}
	for i := range 3 * limit {
		table.observe(claimsAt(fmt.Sprintf("seen-%d", i), epoch, own, now.Add(time.Minute)), now)
	}
	if n := count(); n > limit {
		t.Errorf("%d sessions, at most %d", n, limit)
	}
	// Tokens make way before floors that were told: none of those went.
	for i := range limit / 8 {
		if table.floor(fmt.Sprintf("released-%d", i)).Number == 0 {
			t.Fatalf("released-%d gave way to a token", i)
		}
	}
	if n := table.evicted.Load(); n != 0 {
		t.Errorf("%d floors evicted", n)
	}
	for i := range 3 * limit {
		table.release(releasedAt(fmt.Sprintf("more-%d", i), epoch, "b"), now)
	}
	if n := count(); n > limit || table.evicted.Load() == 0 {
		t.Errorf("%d sessions, at most %d; %d floors evicted, want some", n, limit, table.evicted.Load())
	}
}

func TestSessionsLockedHereAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(100_000)
	one, two := events.Epoch{Number: 1, Region: "eu"}, events.Epoch{Number: 2, Region: "eu"}
	see := func(id, server string, at time.Time) {
		s, _ := table.observe(claimsAt(id, one, server, now.Add(5*time.Minute)), at)
		s.touch(at)
	}
	for i := range 100 {
		see(fmt.Sprintf("here-%d", i), own, now)
	}
	see("long ago", own, now.Add(-3*time.Minute))
	see("moved", own, now)
	table.release(releasedAt("moved", two, "b"), now)
	see("ended", own, now)
	table.revoke("ended", now)
	table.observe(claimsAt("never served", one, own, now.Add(time.Minute)), now)
	if got := table.sweep(own, now.Add(-2*time.Minute), now); got != 100 {
		t.Errorf("%d sessions locked here, want 100", got)
	}
}

func TestLargeTableIsSweptInTurns(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(1 << 20)
	const n = 3 * sweepBudget
	for i := range n {
		id := fmt.Sprintf("s-%d", i)
		s, _ := table.observe(claimsAt(id, events.Epoch{Number: 1, Region: "eu"}, own, now.Add(time.Minute)), now)
		s.touch(now)
	}
	var counts []int
	for range 4 {
		counts = append(counts, table.sweep(own, now, now))
	}
	if counts[0] > n/2 || counts[3] != n {
		t.Errorf("counted %v, want a part first and all %d in four turns", counts, n)
	}
}

func TestSessionTableIsSafeForConcurrentUse(t *testing.T) {
	now := time.Now()
	table := newSessionTable(sessionShards * 2)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 500 {
				id := fmt.Sprintf("s-%d", (g*7+i)%300)
				epoch := events.Epoch{Number: uint64(i%5) + 1, Region: "eu"}
				switch i % 4 {
				case 0:
					table.release(releasedAt(id, epoch, "b"), now)
				case 1:
					table.revoke(id, now)
				default:
					s, _ := table.observe(claimsAt(id, epoch, own, now.Add(time.Minute)), now)
					s.touch(now)
				}
				table.floor(id)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			table.sweep(own, now.Add(-time.Minute), now)
		}
	})
	wg.Wait()
}

func TestRefusalNamesTheRightServer(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	one, two := events.Epoch{Number: 1, Region: "eu"}, events.Epoch{Number: 2, Region: "us"}
	at := func(id, region string) *api.Server {
		return &api.Server{ID: id, Region: region, URL: "https://" + id}
	}
	tests := []struct {
		name  string
		heard func(*sessionTable)
		token *api.AccessClaims
		want  *api.Server
	}{
		{"a token of another server", func(*sessionTable) {}, claimsAt("s", one, "b", now), at("b", "eu")},
		{"an older epoch: where the release says", func(t *sessionTable) {
			t.release(releasedAt("s", two, "c"), now)
		}, claimsAt("s", one, own, now), at("c", "us")},
		{"an older epoch of another server: the release is newer", func(t *sessionTable) {
			t.release(releasedAt("s", two, "c"), now)
		}, claimsAt("s", one, "b", now), at("c", "us")},
		{"an older epoch: where a newer token says", func(t *sessionTable) {
			t.observe(claimsAt("s", two, "c", now), now)
		}, claimsAt("s", one, own, now), at("c", "us")},
		{"an older epoch, now locked here again", func(t *sessionTable) {
			t.observe(claimsAt("s", two, own, now), now)
		}, claimsAt("s", one, "b", now), at(own, "us")},
		{"a newer epoch of another server: the token is newer", func(t *sessionTable) {
			t.release(releasedAt("s", one, "c"), now)
		}, claimsAt("s", two, "b", now), at("b", "us")},
		{"a release that does not say where", func(t *sessionTable) {
			t.release(&events.LockReleased{Session: "s", Epoch: two}, now)
		}, claimsAt("s", one, own, now), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := newSessionTable(1000)
			test.heard(table)
			_, l := table.observe(test.token, now)
			err := l.judge(test.token, own)
			if err == nil || err.Code != api.CodeLockedElsewhere {
				t.Fatalf("got %v, want locked_elsewhere", err)
			}
			if diff := cmp.Diff(test.want, err.Server); diff != "" {
				t.Error(diff)
			}
		})
	}
}
