package sessions

import "time"

// SetJudge replaces the owner's table by one with a rule missing.
func (o *Owner) SetJudge(judge func(rec *Record, t Stamp, region string, now time.Time) Judgement) {
	o.judge = judge
}

// Known hands out a session from the owner's cache by its current token's place, as Take does
// by the token, which tests have none of.
func (o *Owner) Known(key Key, t Stamp) *Hold {
	s := o.cache.shard([]byte(key.Session))
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[key.Session]
	if h == nil || !h.idle || h.rec.Current() != t {
		return nil
	}
	h.idle = false
	return h
}
