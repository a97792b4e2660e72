package sessions_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

var leaseSeeds = flag.Uint64("leaseseeds", 60, "how many worlds of leases are drawn with all conditions in place")

// A leaseMutant is a strict takeover with one condition missing. The zero one has them all.
type leaseMutant struct {
	rule, name string
	// first is the seed of the first world that is tried.
	first uint64
	rules []sessions.LeaseRule
	// anyCopies says that copies count as complete.
	anyCopies bool
	// script is played instead of what is drawn, by regions with these clocks, where few worlds that are drawn
	// come to it: then the seed says what the session is called, and so to whom it falls.
	clocks []time.Duration
	script func(w *leaseWorld, seed uint64)
}

// play plays the world of a seed, without some conditions.
func (m leaseMutant) play(without leaseMutant, seed uint64) (*leaseWorld, error) {
	if m.script == nil {
		return drawLease(without, rand.New(rand.NewPCG(seed, 12)))
	}
	w := newLeaseWorld(without, m.clocks...)
	w.session = fmt.Sprint("s", seed)
	w.pass(40, "a")
	m.script(w, seed)
	if w.fault != "" {
		return w, errors.New(w.fault)
	}
	return w, nil
}

// takenUnheard: x, which only y hears, takes the session over from a, which only y hears. Then y loses sight of
// x, and nobody else has heard that for long.
func takenUnheard(w *leaseWorld, seed uint64) {
	roles := []string{"bcd", "bdc", "cbd", "cdb", "dbc", "dcb"}[seed%6]
	x, z, y := roles[:1], roles[1:2], roles[2:]
	w.cut("a", x, true)
	w.cut(x, "a", true)
	w.cut("a", z, true)
	w.cut(x, z, true)
	w.pass(230, "")
	w.refresh(x, w.newest(), 0)
	w.pass(3, "")
	w.cut(x, y, true)
	w.cut(y, x, true)
	w.pass(6, y)
}

// grantedLate: what b says that it has heard is as long under way as b's clock is ahead of a's.
func grantedLate(w *leaseWorld, _ uint64) {
	w.delay[[2]string{"b", "a"}] = w.regions["b"].offset
	w.pass(60, "a")
	w.cut("a", "b", true)
	for range 240 {
		w.pass(1, "a")
		w.refresh("b", w.newest(), 0)
	}
}

// handedOverUnseen: a, which is about to be cut off from all but c, hands the session over to it. b sees neither.
func handedOverUnseen(w *leaseWorld, _ uint64) {
	first := w.newest()
	for _, link := range []string{"ab", "ad", "ae", "cb", "ce"} {
		w.cut(link[:1], link[1:], true)
		w.cut(link[1:], link[:1], true)
	}
	w.handOver("a", "c")
	w.pass(230, "c")
	w.refresh("b", first, 0)
	w.second()
}

func yes(*sessions.Lease, time.Time) bool { return true }

// leaseMutants are the conditions of strict takeover, each missing once.
var leaseMutants = []leaseMutant{
	{rule: "Answers", name: "without a lease", rules: []sessions.LeaseRule{sessions.LeasedBy(yes)}},
	{rule: "Answers", name: "as soon as the lease is back", first: 175, rules: []sessions.LeaseRule{sessions.SettledBy(yes)}},
	{rule: "Answers", name: "with another region out of sight", rules: []sessions.LeaseRule{sessions.HearingNobody(false)}},
	{rule: "Answers", name: "with copies missing", first: 335, anyCopies: true},
	{rule: "TakesOver", name: "from a region that is not fenced", rules: []sessions.LeaseRule{
		sessions.FencedBy(func(*sessions.Lease, string, time.Time) bool { return true }),
	}},
	{rule: "TakesOver", name: "without a lease", rules: []sessions.LeaseRule{
		sessions.AnsweringBy(func(*sessions.Lease, time.Time, bool) sessions.LeaseFault { return sessions.LeaseHeld }),
	}, clocks: make([]time.Duration, 4), script: takenUnheard},
	{rule: "TakesOver", name: "with a third region out of sight", rules: []sessions.LeaseRule{sessions.HearingNobody(true)}, clocks: make([]time.Duration, 5), script: handedOverUnseen},
	{rule: "TakesOver", name: "whoever is asked is the heir", rules: []sessions.LeaseRule{sessions.HeirIsWhoAsks()}},
	{rule: "TakesOver", name: "by a copy at another epoch", rules: []sessions.LeaseRule{
		sessions.KnowingBy(func(*sessions.Record, sessions.Stamp) bool { return true }),
	}},
	{rule: "fenced", name: "the lease may be running", rules: []sessions.LeaseRule{sessions.FencedSooner(sessions.LeaseLife)}},
	{rule: "fenced", name: "what was given out may be accepted", rules: []sessions.LeaseRule{sessions.FencedSooner(leaseAccepted)}},
	{
		rule: "fenced", name: "clocks do not differ", rules: []sessions.LeaseRule{sessions.FencedSooner(sessions.LeaseSkew)},
		clocks: []time.Duration{0, sessions.LeaseSkew}, script: grantedLate,
	},
	{rule: "fenced", name: "one region's word is enough", rules: []sessions.LeaseRule{sessions.FencedByOne()}},
	{rule: "fenced", name: "the region has a say itself", rules: []sessions.LeaseRule{sessions.FencedByItself()}},
	{rule: "silence", name: "of regions that are not heard", first: 70, rules: []sessions.LeaseRule{sessions.SilenceOfUnheard()}},
	{rule: "silence", name: "through a gap", first: 160, rules: []sessions.LeaseRule{sessions.SilenceThroughGaps()}},
	{rule: "silence", name: "whatever was heard", rules: []sessions.LeaseRule{sessions.SilenceWhateverWasHeard()}},
	{rule: "free", name: "whether it was taken or not", rules: []sessions.LeaseRule{sessions.FreeWithoutTakeover()}},
	{rule: "free", name: "who lost a session takes it back", rules: []sessions.LeaseRule{sessions.TakingBack()}},
}

// leaseWorlds is how many seeds are tried at most, for each mutant, from the first on.
const leaseWorlds = 1500

// TestEveryConditionOfALeaseIsNeeded takes one condition away at a time: in some world two regions then answer
// for a session, and in the same world none does with the condition in place.
func TestEveryConditionOfALeaseIsNeeded(t *testing.T) {
	var none leaseMutant
	for _, m := range leaseMutants {
		t.Run(m.rule+" "+m.name, func(t *testing.T) {
			t.Parallel()
			for seed := m.first; seed < m.first+leaseWorlds; seed++ {
				w, err := m.play(m, seed)
				if err == nil {
					continue
				}
				t.Logf("%s, %s: in the world of seed %d, %v", m.rule, m.name, seed, err)
				if *story {
					t.Log("\n" + strings.Join(w.story, "\n"))
				}
				if _, err := m.play(none, seed); err != nil {
					t.Errorf("with the condition, in the world of seed %d, %v", seed, err)
				}
				return
			}
			t.Errorf("in none of %d worlds two regions answer", leaseWorlds)
		})
	}
}

// TestLeaseSeeds draws worlds by seeds, as many as are wanted.
func TestLeaseSeeds(t *testing.T) {
	t.Parallel()
	var none leaseMutant
	for seed := range *leaseSeeds {
		if w, err := none.play(none, seed); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.story, "\n"))
		}
	}
}
