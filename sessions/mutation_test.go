package sessions_test

import (
	"flag"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

var story = flag.Bool("story", false, "print what happened in the schedule that each missing rule breaks")

// judging returns a table that Judge's answer goes through.
func judging(change func(rec sessions.Record, j *sessions.Judgement)) func(*sessions.Record, sessions.Stamp, string, time.Time) sessions.Judgement {
	return func(rec *sessions.Record, t sessions.Stamp, region string, now time.Time) sessions.Judgement {
		j := sessions.Judge(rec, t, region, now)
		if rec != nil {
			change(*rec, &j)
		}
		return j
	}
}

// turn makes one verdict another.
func turn(from, to sessions.Verdict, when func(rec sessions.Record, j *sessions.Judgement) bool) func(sessions.Record, *sessions.Judgement) {
	return func(rec sessions.Record, j *sessions.Judgement) {
		if j.Verdict == from && when(rec, j) {
			j.Verdict = to
		}
	}
}

func always(sessions.Record, *sessions.Judgement) bool { return true }

func ofParent(rec sessions.Record, j *sessions.Judgement) bool { return j.Token == rec.Parent }

func ofOtherLine(rec sessions.Record, j *sessions.Judgement) bool { return j.Token != rec.Parent }

// byGeneration judges as if there were no epochs.
func byGeneration(rec *sessions.Record, t sessions.Stamp, region string, now time.Time) sessions.Judgement {
	if rec == nil {
		return sessions.Judge(rec, t, region, now)
	}
	flat := *rec
	one := events.Epoch{Number: 1, Region: region}
	for _, s := range []*sessions.Stamp{&flat.Parent, &flat.Grace, &flat.Dead} {
		if !s.IsZero() {
			s.Epoch = one
		}
	}
	flat.Epoch = one
	j := sessions.Judge(&flat, sessions.Stamp{Epoch: one, Gen: t.Gen}, region, now)
	exact := sessions.Judge(rec, t, region, now)
	exact.Verdict = j.Verdict
	return exact
}

// mutants are the rules that act inside one region, each missing once or in more than one
// way.
var mutants = []mutant{
	{rule: "V1", name: "a repeat inside the window is a theft", judge: judging(turn(sessions.Replay, sessions.Reused, ofParent))},
	{rule: "V1", name: "time alone makes a repeat a theft", judge: judging(turn(sessions.Supersede, sessions.Reused, ofParent))},
	{rule: "V1", name: "a repeat inside the window makes another successor", judge: judging(turn(sessions.Replay, sessions.Rotate, ofParent))},
	{rule: "V2", name: "a slow tab is a thief", judge: judging(turn(sessions.Superseded, sessions.Reused, always))},
	{rule: "V3", name: "a request has no deadline", noDeadline: true},
	{rule: "V8", name: "revoked is not absorbing", judge: func(rec *sessions.Record, t sessions.Stamp, region string, now time.Time) sessions.Judgement {
		if rec != nil && rec.State == sessions.StateRevoked {
			alive := *rec
			alive.State = sessions.StateActive
			rec = &alive
		}
		return sessions.Judge(rec, t, region, now)
	}, fold: func(own *sessions.Record, region string, copies []sessions.Copy, op func() string) sessions.Folding {
		f := sessions.Fold(own, region, copies, op)
		f.Revoked = false
		if own != nil {
			f.Top = own
		}
		return f
	}},
	{rule: "V9", name: "another line is a theft, inside the window", judge: judging(turn(sessions.Replay, sessions.Reused, ofOtherLine))},
	{rule: "V9", name: "another line is a theft, outside the window", first: 350, judge: judging(turn(sessions.Supersede, sessions.Reused, ofOtherLine))},
	{rule: "V9", name: "generations alone are compared", judge: byGeneration},
	{rule: "V10", name: "the server's floor is ignored", noFloor: true, tails: true},
	{rule: "V12", name: "a repeat's critical task is not recorded", noClaims: true},
	{rule: "grace", name: "every rotation raises it", judge: judging(func(_ sessions.Record, j *sessions.Judgement) {
		if j.Redeems() {
			j.Grace = j.Token
		}
	})},
	{rule: "grace", name: "no rotation raises it", judge: judging(func(rec sessions.Record, j *sessions.Judgement) { j.Grace = rec.Grace })},
	{rule: "dead", name: "a supersede voids nothing", first: 580, judge: judging(func(_ sessions.Record, j *sessions.Judgement) { j.Dead = sessions.Stamp{} })},
	{rule: "dead", name: "a supersede inside the window voids too", judge: judging(func(rec sessions.Record, j *sessions.Judgement) {
		if j.Verdict == sessions.Replay {
			j.Dead = rec.Current() // counts only if the judgement is forced to supersede
		}
	})},
	{rule: "forced", name: "a supersede inside the window is no move", stay: true, judge: judging(func(_ sessions.Record, j *sessions.Judgement) {
		if j.Verdict == sessions.Replay {
			j.Fresh = false // or the owner would refuse the decision
		}
	})},
}

// schedules is how many seeds are tried at most, for each mutant, from the first on.
const schedules = 1500

// TestEveryRuleIsNeeded takes one rule away at a time: some schedule then breaks an invariant,
// and the same schedule breaks none with the rule in place.
func TestEveryRuleIsNeeded(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.rule+" "+m.name, func(t *testing.T) {
			t.Parallel()
			for seed := m.first; seed < m.first+schedules; seed++ {
				err := play(m, draw(seed))
				if err == nil {
					continue
				}
				t.Logf("%s, %s: the schedule of seed %d breaks %v", m.rule, m.name, seed, err)
				if *story {
					t.Log("\n" + tell(m, draw(seed)))
				}
				if err := play(mutant{tails: m.tails}, draw(seed)); err != nil {
					t.Errorf("with the rule, seed %d breaks %v", seed, err)
				}
				return
			}
			t.Errorf("no schedule of %d breaks an invariant", schedules)
		})
	}
}
