package server

import "time"

// maxEnded is how many revoked sessions a server remembers: those of seven minutes at more
// than 2 000 a second in all regions together, about 100 MB. Most fleets have a few.
const maxEnded = 1 << 20

// revocations are sessions that have ended, each with the second of the Unix clock until
// which a token of it could be valid.
type revocations map[string]int64

// has reports whether a session has ended.
func (r revocations) has(id string) bool {
	_, ended := r[id]
	return ended
}

// add notes the end of a session, and reports whether another had to be forgotten for it: one
// of a few, that which has had the most of its time.
func (r revocations) add(id string, now time.Time) (evicted bool) {
	if len(r) >= maxEnded/sessionShards && !r.has(id) {
		var victim string
		looked := 0
		for other, until := range r { // in no order, so each time another sample
			if victim == "" || until < r[victim] {
				victim = other
			}
			if looked++; looked == evictionSample {
				break
			}
		}
		evicted = r[victim] > now.Unix()
		delete(r, victim)
	}
	r[id] = now.Add(floorLife).Unix() + 1
	return evicted
}

// sweep forgets the sessions of which no token can be valid any more.
func (r revocations) sweep(now time.Time) {
	for id, until := range r {
		if until <= now.Unix() {
			delete(r, id)
		}
	}
}

// revoke notes that the session has ended. What it was locked to is refused from now on, also
// by who holds its lock already.
func (t *sessionTable) revoke(id string, now time.Time) {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.ended.add(id, now) {
		t.evicted.Add(1)
	}
	s, ok := sh.known[id]
	if !ok {
		return
	}
	if old := s.lock.Load(); !old.revoked {
		next := *old
		next.revoked = true
		s.lock.Store(&next)
	}
}
