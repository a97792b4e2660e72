package sessions

import "time"

// SetJudge replaces the owner's table by one with a rule missing.
func (o *Owner) SetJudge(judge func(rec *Record, t Stamp, region string, now time.Time) Judgement) {
	o.judge = judge
}
