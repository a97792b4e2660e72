package registry_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/registry"
)

func TestLeaseNext(t *testing.T) {
	at := func(d time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(d) }
	tests := map[string]struct {
		saw  func(l *registry.Lease)
		now  time.Duration
		want registry.Step
	}{
		"nothing seen yet":        {func(*registry.Lease) {}, 0, registry.StepWait},
		"nobody ever led":         {func(l *registry.Lease) { l.Saw("", 0, at(0)) }, 0, registry.StepTake},
		"given up":                {func(l *registry.Lease) { l.Saw("b", 1, at(0)); l.Saw("", 2, at(10)) }, 20, registry.StepTake},
		"another's, just seen":    {func(l *registry.Lease) { l.Saw("b", 7, at(0)) }, 999 * time.Millisecond, registry.StepWait},
		"another's, seen for 1 s": {func(l *registry.Lease) { l.Saw("b", 7, at(0)); l.Saw("b", 7, at(900*time.Millisecond)) }, time.Second, registry.StepTake},
		"another's, renewed": {
			func(l *registry.Lease) { l.Saw("b", 7, at(0)); l.Saw("b", 8, at(900*time.Millisecond)) }, time.Second, registry.StepWait,
		},
		"own":                  {func(l *registry.Lease) { l.Wrote("a", 7, at(0)) }, 800 * time.Millisecond, registry.StepRenew},
		"own, run out":         {func(l *registry.Lease) { l.Wrote("a", 7, at(0)) }, 850 * time.Millisecond, registry.StepTake},
		"own, taken since":     {func(l *registry.Lease) { l.Wrote("a", 7, at(0)); l.Forget(true); l.Saw("b", 8, at(10)) }, 20, registry.StepWait},
		"own, outcome unknown": {func(l *registry.Lease) { l.Wrote("a", 7, at(0)); l.Forget(false) }, 20, registry.StepWait},
		"own, unknown, then seen": {
			func(l *registry.Lease) { l.Wrote("a", 7, at(0)); l.Forget(false); l.Saw("a", 8, at(10)) }, 20, registry.StepRenew,
		},
		"a failed try makes nobody wait longer": {
			func(l *registry.Lease) { l.Saw("b", 7, at(0)); l.Forget(false); l.Saw("b", 7, at(time.Second)) }, time.Second, registry.StepTake,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var l registry.Lease
			test.saw(&l)
			if got := l.Next("a", at(test.now)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestLeasesNeverOverlap lets three registries whose clocks differ read and write one lease,
// with delays, lost replies and pauses: no two think at one time that they lead.
func TestLeasesNeverOverlap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var (
			now      = time.Unix(1_000_000, 0)
			holder   string
			revision uint64
			names    = []string{"a", "b", "c"}
			leases   = map[string]*registry.Lease{}
			skew     = map[string]time.Duration{}
		)
		for _, n := range names {
			leases[n] = &registry.Lease{}
			skew[n] = time.Duration(rapid.IntRange(-300, 300).Draw(rt, "skew of "+n)) * time.Second
		}
		clock := func(n string) time.Time { return now.Add(skew[n]) }
		pass := func(what string) {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(rt, what)) * time.Millisecond)
		}
		act := func(n string) {
			l := leases[n]
			if l.Next(n, clock(n)) != registry.StepRenew {
				h, r := holder, revision
				pass("reading takes")
				l.Saw(h, r, clock(n))
			}
			if l.Next(n, clock(n)) == registry.StepWait {
				return
			}
			sent, expects := clock(n), l.Revision()
			pass("writing takes")
			switch {
			case expects != revision:
				l.Forget(true)
				return
			case rapid.Bool().Draw(rt, "the write is lost"):
				l.Forget(false)
				return
			}
			holder, revision = n, revision+1
			if rapid.Bool().Draw(rt, "its reply is lost") {
				l.Forget(false)
				return
			}
			pass("the reply takes")
			l.Wrote(n, revision, sent)
		}
		for range 60 {
			act(rapid.SampledFrom(names).Draw(rt, "who"))
			pass("then")
			var leading []string
			for _, n := range names {
				if clock(n).Before(leases[n].Until()) {
					leading = append(leading, n)
				}
			}
			if len(leading) > 1 {
				rt.Fatalf("%v lead at once", leading)
			}
		}
	})
}
