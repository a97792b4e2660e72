package sessions

import (
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Verdict is what becomes of a presented refresh token.
type Verdict string

// The verdicts.
const (
	// Rotate makes the token's successor.
	Rotate Verdict = "rotate"
	// Replay repeats the answer of the current token: the reply was lost, or two tabs
	// redeemed one token.
	Replay Verdict = "replay"
	// Supersede makes a new successor; the one that nobody presented dies.
	Supersede Verdict = "supersede"
	// Superseded refuses a slow tab's token and changes nothing (V2).
	Superseded Verdict = "superseded"
	// Reused refuses a token that was redeemed long ago, and ends the session.
	Reused Verdict = "reused"
	// Ended refuses every token of a revoked session.
	Ended Verdict = "revoked"
	// Behind says that the token's region has gone on and this record has not.
	Behind Verdict = "behind"
	// Elsewhere says that another region owns the session: Outcome.Owner.
	Elsewhere Verdict = "elsewhere"
	// Unrotated says that the token may well be good and that nothing could be settled in time:
	// the client goes on where it is, with an access token and no new refresh token.
	Unrotated Verdict = "unrotated"
)

// Judgement is a verdict and what it settles for the record that follows.
type Judgement struct {
	Verdict Verdict
	// Token is the token judged.
	Token Stamp
	// Fresh says that the current token is younger than Window.
	Fresh bool
	// Grace and Dead are the next record's, settled here and carried through whatever
	// follows.
	Grace, Dead Stamp
	// Lost says that the token is of a later epoch than the record: the store lost its
	// tail, so the next epoch is above the token's and the server is chosen anew.
	Lost bool
	// TakenOver says that the session goes on here although its owner, which is out of reach, did
	// not hand it over: the server has to be of this region.
	TakenOver bool
}

// Judge says what becomes of token t at the region that owns the record. A nil record is
// one that the store lost: an authentic token makes it anew. Which tokens were redeemed a moment
// before is lost, too, so that any older one counts as a slow tab's at first.
//
// The order of the cases is that of the specification's table and matters.
func Judge(rec *Record, t Stamp, region string, now time.Time) Judgement {
	j := Judgement{Token: t}
	if rec == nil {
		j.Verdict, j.Lost = Rotate, true
		if t.Epoch.Region != region {
			j.Verdict = Behind
		}
		return j
	}
	current := rec.Current()
	j.Fresh = rec.Fresh(now)
	j.Grace, j.Dead = rec.Grace, rec.Dead
	switch {
	case rec.State == StateRevoked: // V8
		j.Verdict = Ended
	case t.Epoch.Compare(rec.Epoch) > 0 && t.Epoch.Region != region:
		j.Verdict = Behind
	case t == current, t.Epoch.Region == region && current.Less(t):
		j.Verdict = Rotate
		j.Lost = t.Epoch.Compare(rec.Epoch) > 0
		j.settle(rec, t)
	case t == rec.Parent: // V1
		j.repeat(rec, t)
	case rec.Parent.Less(t) && t.Less(current) && t.Epoch != rec.Epoch && !voided(rec.Dead, t): // V9
		j.repeat(rec, t)
		j.Grace = lower(rec.Grace, rec.Parent)
	case j.Fresh && !t.Less(rec.Grace) && t.Less(rec.Parent): // V2
		j.Verdict = Superseded
	default:
		j.Verdict = Reused
	}
	return j
}

// repeat replays the current answer inside the window and supersedes it outside. Only a
// supersede outside voids the token it replaces.
func (j *Judgement) repeat(rec *Record, t Stamp) {
	j.settle(rec, t)
	if j.Fresh {
		j.Verdict = Replay
		return
	}
	j.Verdict = Supersede
	j.Dead = rec.Current()
}

// settle fixes the grace and dead tokens of a record whose parent becomes t.
func (j *Judgement) settle(rec *Record, t Stamp) {
	if !j.Fresh {
		j.Grace = t
	}
	if !rec.Dead.IsZero() && !t.Less(rec.Dead) {
		j.Dead = Stamp{}
	}
}

// Forced turns a replay whose answered server has died into a supersede, which must be a
// move: the voided successor is then of another line, and a second tab that holds it gets
// the winner's answer. Other judgements stay as they are.
func (j Judgement) Forced() Judgement {
	if j.Verdict == Replay {
		j.Verdict = Supersede
	}
	return j
}

// Redeems reports whether the judgement makes a new token.
func (j Judgement) Redeems() bool { return j.Verdict == Rotate || j.Verdict == Supersede }

// voided reports whether t is a successor that a supersede has voided: of dead's region and
// not above it. (The session's own epoch is the caller's test.)
func voided(dead, t Stamp) bool {
	return !dead.IsZero() && t.Epoch.Region == dead.Epoch.Region && t.Compare(dead) <= 0
}

func lower(a, b Stamp) Stamp {
	if b.Less(a) {
		return b
	}
	return a
}

// Next returns the record after a judgement that redeems: generation one above both the
// record's and the token's, the token as parent, and a new epoch if the server changes (a
// move is always a new epoch), or the region, or the store has lost its tail. A rebuilt record
// is passed for one that was lost. The caller fills in the new token's hash.
func (r Record) Next(j Judgement, region string, a Answer, op string, now time.Time) Record {
	moved := a.Server != r.Server
	if moved || j.Lost || r.Epoch.Region != region {
		r.Epoch = events.Epoch{Number: max(r.Epoch.Number, j.Token.Epoch.Number) + 1, Region: region}
	}
	if moved {
		r.MovedAt = now
		r.Home = r.homeAfter(a)
	}
	r.Version = RecordVersion
	r.Gen = max(r.Gen, j.Token.Gen) + 1
	r.Parent = j.Token
	r.Grace, r.Dead = j.Grace, j.Dead
	r.MintedAt = now
	r.State, r.Intent = StateActive, nil
	r.Server, r.Answer, r.Op = a.Server, a, op
	return r
}

// homeAfter returns the record's Home after it has gone on with an answer.
func (r *Record) homeAfter(a Answer) string {
	return placement.HomeAfter(r.Home, r.Answer.Region, a.Region, placement.Reason(a.Reason))
}

// Claim records what the client says of a critical task: the first claim's time stays until
// a refresh without it.
func (r Record) Claim(critical bool, now time.Time) Record {
	switch {
	case !critical:
		r.CriticalSince = time.Time{}
	case r.CriticalSince.IsZero():
		r.CriticalSince = now
	}
	return r
}
