package sessions

import (
	"time"

	"github.com/berthhq/berth/events"
)

// AdoptTimeout is how long the owner of a session that is being handed over waits for the
// destination.
const AdoptTimeout = 5 * time.Second

// Intent is a handover that has begun: what the destination is to have, all of it settled when
// the token was judged and carried through whatever follows, not recomputed.
type Intent struct {
	// Deadline is when the owner stops waiting for the destination.
	Deadline time.Time `json:"deadline"`
	// Next is the record after the handover, at its new epoch, as the owner and the destination
	// will hold it.
	Next *Record `json:"next"`
}

// Begin returns the owner's record with the intent to hand the session over to the region of
// next's epoch: step 1 of the handover, which changes nothing for the client.
func (r Record) Begin(next Record, deadline time.Time) Record {
	next.Intent = nil
	r.Version, r.State, r.Op = RecordVersion, StateMoving, next.Op
	r.Intent = &Intent{Deadline: deadline, Next: &next}
	return r
}

// Offered returns the record that the destination of a moving one is to prepare.
func (r Record) Offered() Record {
	offer := *r.Intent.Next
	offer.State, offer.Source, offer.Refused = StatePrepared, r.Epoch.Region, events.Epoch{}
	return offer
}

// Commit returns the owner's record after the destination has prepared: from the write of it
// on the destination owns the session (step 4).
func (r Record) Commit() Record {
	moved := *r.Intent.Next
	moved.State, moved.Refused = StateMoved, r.Refused
	return moved
}

// Undo returns the owner's record of a handover that is given up: two epochs on, for the one
// between may be known elsewhere already (V5). The token that was to move the session has been
// redeemed all the same; a is its answer.
func (r Record) Undo(a Answer, op string, now time.Time) Record {
	next := r.Intent.Next
	back := r
	back.Epoch = events.Epoch{Number: next.Epoch.Number + 1, Region: r.Epoch.Region}
	back.Gen, back.Parent, back.Grace, back.Dead = next.Gen, next.Parent, next.Grace, next.Dead
	back.Bookmark, back.CriticalSince = next.Bookmark, latest(r.CriticalSince, next.CriticalSince)
	back.MintedAt, back.State, back.Intent = now, StateActive, nil
	back.Server, back.Answer, back.Op = a.Server, a, op
	return back
}

// Activate returns a prepared or committed record as its new owner goes on with it.
func (r Record) Activate() Record {
	r.State = StateActive
	return r
}

// Why a destination refuses.
const (
	RefusedRevoked  = "revoked"
	RefusedEpoch    = "higher_epoch"
	RefusedBehind   = "not_folded"
	RefusedPromised = "promised"
)

// Adopt says whether a region whose folded record is own may prepare what a moving record
// offers, and returns the record to write. Nil with an empty refusal: it is prepared already.
//
// An offer is idempotent for the same op only, and refused at or below the highest epoch that
// the region has seen (V5). A region that still takes itself for the owner is behind: it folds
// the copy first.
func Adopt(own *Record, moving Record) (prepared *Record, refusal string) {
	offer := moving.Offered()
	if own == nil {
		return &offer, ""
	}
	switch c := offer.Epoch.Compare(own.Epoch); {
	case own.State == StateRevoked:
		return nil, RefusedRevoked
	case c == 0 && own.Op == offer.Op:
		return nil, ""
	case c <= 0:
		return nil, RefusedEpoch
	case offer.Epoch.Compare(own.Refused) <= 0:
		return nil, RefusedPromised
	case own.State == StateActive || own.State == StateMoving:
		return nil, RefusedBehind
	}
	offer.Refused = own.Refused
	return &offer, ""
}

// Promise returns the record by which a region that has not prepared a moving session's epoch,
// nor owned a higher one, never will (V6), nil if it has. own is folded.
func Promise(own *Record, moving Record, op string) *Record {
	epoch := moving.Intent.Next.Epoch
	switch {
	case own == nil:
		stub := moving
		stub.State, stub.Intent, stub.Op, stub.Refused = StateMoved, nil, op, epoch
		return &stub
	case own.Epoch.Compare(epoch) >= 0, own.Refused.Compare(epoch) >= 0:
		return nil
	}
	promised := *own
	promised.Refused, promised.Op = epoch, op
	return &promised
}

// Settle says what becomes of a moving record by the record of its destination (V6): the next
// one, or whether it may be undone. Neither: it stays moving.
func (r Record) Settle(theirs *Record) (next *Record, undo bool) {
	mine := r.Intent.Next
	switch {
	case theirs == nil:
		return nil, false
	case theirs.State == StateRevoked:
		revoked := r.Revoke(r.Op)
		return &revoked, false
	case theirs.Epoch.Compare(mine.Epoch) < 0:
		return nil, theirs.Refused.Compare(mine.Epoch) >= 0
	case theirs.Epoch == mine.Epoch && theirs.Op == mine.Op:
		committed := r.Commit()
		return &committed, false
	case theirs.Epoch.Region == r.Epoch.Region:
		return nil, false // it knows more of this region than the region does: the copies will tell
	}
	moved := theirs.yielded(r)
	return &moved, false
}

// yielded returns the record of a region, whose record is own, after another's has outranked
// it.
func (r Record) yielded(own Record) Record {
	r.State, r.Intent, r.Refused = StateMoved, nil, own.Refused
	r.Version = RecordVersion
	return r
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
