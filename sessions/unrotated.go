package sessions

import (
	"context"
	"time"
)

// Leaderless is how long past the last proven contact with the store's leader an owner gives
// access without rotating (V11).
const Leaderless = time.Minute

// Unrotate reports whether a region may answer token t with access alone while its store cannot
// be read or written, by what it last knew of the session (V11): it owned it; t is the current
// token, its parent, or one that another service of the region has made at the same epoch since,
// so that the server is certain; and at most Leaderless has passed since contact, the last time
// that the leader proved itself, which is zero in a service that has just begun. An access token
// given now then ends at the latest at contact + Leaderless + its life.
func Unrotate(rec *Record, t Stamp, region string, contact, now time.Time) bool {
	current := rec.Current()
	switch {
	case rec.State != StateActive || rec.Epoch.Region != region:
		return false
	case contact.IsZero() || now.Sub(contact) > Leaderless || !now.Before(rec.ExpiresAt):
		return false
	default:
		return t == current || t == rec.Parent || t.Epoch == rec.Epoch && current.Less(t)
	}
}

// unrotated answers a refresh whose store could not be read or written by what this process last
// knew of the session, and reports whether it may: by what stood in the store when it was read for
// this refresh, or by what the cache remembers. Whoever learns that a session was ended tells
// Cache.Forget. Nothing is written, and nobody is refused by it, whatever it would say of the
// token.
func (o *Owner) unrotated(ctx context.Context, req Request) (Outcome, bool) {
	rec := req.Held.last()
	if rec == nil || ctx.Err() != nil || o.late(req.Deadline) {
		return Outcome{}, false
	}
	if !o.unrotate(rec, req.Token, o.Region, o.Store.Contact(), o.Now()) || rec.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, false
	}
	return Outcome{Judgement: Judgement{Verdict: Unrotated, Token: req.Token}, Record: *rec}, true
}
