package sessions_test

import (
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

// withoutCopies folds only the copies that are kept.
func withoutCopies(keep func(sessions.Copy) bool) sessions.Rule {
	return sessions.FoldingBy(func(own *sessions.Record, region string, copies []sessions.Copy, op func() string) sessions.Folding {
		var kept []sessions.Copy
		for _, c := range copies {
			if keep(c) {
				kept = append(kept, c)
			}
		}
		return sessions.Fold(own, region, kept, op)
	})
}

// fleetMutants are the rules that act between regions, each missing once or in more than one
// way.
var fleetMutants = []fleetMutant{
	{rule: "V3", name: "a request has no deadline", noDeadline: true},
	{rule: "V4", name: "who is offered a session owns it at once", rules: []sessions.Rule{
		sessions.AdoptingBy(func(own *sessions.Record, moving sessions.Record) (*sessions.Record, string) {
			prepared, refusal := sessions.Adopt(own, moving)
			if prepared != nil {
				prepared.State = sessions.StateActive
			}
			return prepared, refusal
		}),
	}},
	{rule: "V5", name: "an undo goes back to the epoch before", first: 2980, rules: []sessions.Rule{
		sessions.Undoing(func(moving sessions.Record, a sessions.Answer, op string, now time.Time) sessions.Record {
			back := moving.Undo(a, op, now)
			back.Epoch.Number -= 2
			return back
		}),
	}},
	{rule: "V5", name: "an offer is taken at or below the highest epoch", first: 2095, rules: []sessions.Rule{
		sessions.AdoptingBy(func(own *sessions.Record, moving sessions.Record) (*sessions.Record, string) {
			if own != nil && own.State == sessions.StateRevoked {
				return nil, sessions.RefusedRevoked
			}
			return sessions.Adopt(nil, moving)
		}),
	}},
	{rule: "V6", name: "a handover is undone whatever the destination says", first: 7330, rules: []sessions.Rule{
		sessions.Settling(func(sessions.Record, *sessions.Record) (*sessions.Record, bool) { return nil, true }),
	}},
	{rule: "V7", name: "moved records are not copied", rules: []sessions.Rule{
		withoutCopies(func(c sessions.Copy) bool { return c.Record.State != sessions.StateMoved }),
	}},
	{rule: "V7", name: "copies flow one way", oneWay: true},
	{rule: "V8", name: "a revoked copy ends nothing", rules: []sessions.Rule{
		withoutCopies(func(c sessions.Copy) bool { return c.Record.State != sessions.StateRevoked }),
	}},
	{rule: "V9", name: "generations alone are compared", first: 300, rules: []sessions.Rule{sessions.Judging(byGeneration)}},
	{rule: "V11", name: "access without the store is counted from the first failure", rules: []sessions.Rule{
		sessions.Unrotating(func(rec *sessions.Record, t sessions.Stamp, region string, _, now time.Time) bool {
			return sessions.Unrotate(rec, t, region, now, now)
		}),
	}},
	{rule: "V13", name: "the client stores what came last", first: 250, lastWins: true},
	{rule: "V14", name: "copies are not folded", noCopies: true},
	{rule: "V14", name: "a copy that arrives leaves what is remembered", first: 580, noForgetting: true},
	{rule: "V15", name: "no other region is asked before a takeover", noWitness: true},
	{rule: "V16", name: "any token will do for a takeover without a copy", anyToken: true},
}

// fleetSchedules is how many seeds are tried at most, for each mutant, from the first on.
const fleetSchedules = 4000

// TestEveryRuleIsNeededBetweenRegions takes one rule away at a time: some schedule then breaks
// an invariant, and the same schedule breaks none with the rule in place.
func TestEveryRuleIsNeededBetweenRegions(t *testing.T) {
	for _, m := range fleetMutants {
		t.Run(m.rule+" "+m.name, func(t *testing.T) {
			t.Parallel()
			for seed := m.first; seed < m.first+fleetSchedules; seed++ {
				_, err := runFleet(m, drawFleet(seed), false)
				if err == nil {
					continue
				}
				t.Logf("%s, %s: the schedule of seed %d breaks %v", m.rule, m.name, seed, err)
				if _, err := runFleet(fleetMutant{tails: m.tails}, drawFleet(seed), false); err != nil {
					t.Errorf("with the rule, seed %d breaks %v", seed, err)
				}
				return
			}
			t.Errorf("no schedule of %d breaks an invariant", fleetSchedules)
		})
	}
}
