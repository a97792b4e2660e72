package sessions

import "time"

// SetJudge replaces the owner's table by one with a rule missing.
func (o *Owner) SetJudge(judge func(rec *Record, t Stamp, region string, now time.Time) Judgement) {
	o.judge = judge
}

// Known hands out a session from the owner's cache by its current token's place, as Take does
// by the token, which tests have none of.
func (o *Owner) Known(key Key, t Stamp) *Hold {
	return o.cache.take([]byte(key.Session), func(p *place) bool {
		rec, err := DecodeRecord(p.data)
		return err == nil && rec.Current() == t
	})
}
