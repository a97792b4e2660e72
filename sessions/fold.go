package sessions

import (
	"slices"

	"github.com/berthhq/berth/events"
)

// Folding is what a region's record becomes by the copies of the others (V14).
type Folding struct {
	// Record is the region's afterwards, nil if it has none. Changed says that it has to be
	// written; what is judged or answered before that would be founded on what is over.
	Record  *Record
	Changed bool
	// Revoked says that the session has been ended, here or elsewhere (V8).
	Revoked bool
	// Top is the highest record of the region and the copies that anybody goes by: active,
	// moving or moved; nil if there is none. The region of its epoch owns the session, as far as
	// is known here.
	Top *Record
	// Yielded is the region's record before, if it owned the session until now: the server in it
	// has to hear that its lock is released. Conflict says that both sides have gone on.
	Yielded  *Record
	Conflict bool
}

// Fold takes what has arrived of other regions' records into a region's own: revoked beats
// everything; a higher epoch of an active or moved copy makes the own record moved; prepared
// and moving copies never outrank; the owner's moved record at the own prepared epoch makes
// that active, and its going on above drops it. op names the write by which the session ends; any
// other keeps the name of what it follows from.
func Fold(own *Record, region string, copies []Copy, op func() string) Folding {
	f := Folding{Record: own}
	best := outranking(copies)
	switch {
	case own != nil && own.State == StateRevoked:
		f.Revoked = true
	case revoked(copies):
		f.Revoked = true
		if own != nil {
			f.become(own.Revoke(op()))
		}
	case best == nil:
	case own == nil:
		if best.Epoch.Region == region { // handed over to this region, which has lost it
			f.become(best.Activate())
		}
	default:
		f.rank(*own, *best, region)
	}
	f.Top = top(f.Record, copies)
	return f
}

func (f *Folding) become(r Record) { f.Record, f.Changed = &r, true }

// rank compares the own record with the best copy.
func (f *Folding) rank(own, best Record, region string) {
	switch c := best.Epoch.Compare(own.Epoch); {
	case c == 0 && own.State == StatePrepared:
		f.become(own.Activate())
	case c <= 0:
	case best.Epoch.Region == region: // its own later writes were lost
		best.Refused = own.Refused
		f.become(best.Activate())
	default:
		f.become(best.yielded(own))
		if own.State == StateActive || own.State == StateMoving {
			f.Yielded, f.Conflict = &own, best.forked(own)
		}
	}
}

// outranking returns the highest copy that another region's record yields to, nil for none.
func outranking(copies []Copy) (best *Record) {
	for i := range copies {
		if c := &copies[i].Record; (c.State == StateActive || c.State == StateMoved) && above(c, best) {
			best = c
		}
	}
	return best
}

func revoked(copies []Copy) bool {
	return slices.ContainsFunc(copies, func(c Copy) bool { return c.Record.State == StateRevoked })
}

// top returns the highest of a region's record and the copies that anybody goes by.
func top(own *Record, copies []Copy) (best *Record) {
	consider := func(r *Record) {
		if (r.State == StateActive || r.State == StateMoving || r.State == StateMoved) && above(r, best) {
			best = r
		}
	}
	if own != nil {
		consider(own)
	}
	for i := range copies {
		consider(&copies[i].Record)
	}
	return best
}

func above(r, best *Record) bool { return best == nil || best.Current().Less(r.Current()) }

// forked reports whether two regions have made tokens beside each other: a region that owned a
// session by the record own, and the winner.
//
// It is so if the winner did not know of the region's last token when the session was taken from it;
// if all that was taken for the winner is older than the region's token, and there was a takeover; or if
// the line that the winner has given up had gone on after the region took the session from there.
// Where a client carried a session through three regions none of which heard another, nobody knows:
// that is told as no fork.
func (r Record) forked(own Record) bool {
	taken, ok := r.TakenFrom(own.Epoch.Region)
	if before, known := own.TakenFrom(own.Epoch.Region); known && before == taken {
		ok = false // it has the session back since then, and knows
	}
	if ok && taken.Less(own.Current()) || !ok && r.beside(own) {
		return true
	}
	taken, ok = own.TakenFrom(r.Abandoned.Epoch.Region)
	return ok && taken.Epoch == r.Abandoned.Epoch && taken.Less(r.Abandoned)
}

// beside reports whether all that a session was taken from is older than what another region made.
// Without any takeover there is nothing beside it: the region has lost what it wrote since.
func (r Record) beside(own Record) bool {
	for _, t := range r.Taken {
		if t.Epoch.Compare(own.Epoch) > 0 {
			return false
		}
	}
	return len(r.Taken)+len(own.Taken) > 0 && own.State == StateActive
}

// TakenFrom returns the last token known of a region when the session was taken from it.
func (r *Record) TakenFrom(region string) (Stamp, bool) {
	for _, t := range r.Taken {
		if t.Epoch.Region == region {
			return t, true
		}
	}
	return Stamp{}, false
}

// took notes the last token known of the region that a session is taken from.
func (r *Record) took(last Stamp) {
	r.Taken = append(slices.DeleteFunc(slices.Clone(r.Taken), func(t Stamp) bool {
		return t.Epoch.Region == last.Epoch.Region
	}), last)
}

// Owner returns the region that owns the session as far as a region and a token know: by the
// highest epoch, where a session that is only prepared is its source's, unless a third region is
// known to have gone on from there.
func (f *Folding) Owner(t Stamp) string {
	top := t.Epoch
	if f.Top != nil && f.Top.Epoch.Compare(top) > 0 {
		top = f.Top.Epoch
	}
	own := f.Record
	if own == nil || own.State != StatePrepared || top.Compare(own.Epoch) >= 0 {
		return top.Region
	}
	offered := events.Epoch{Number: own.Epoch.Number - 1, Region: own.Source} // an offer is of the epoch after
	if top.Compare(offered) > 0 && top.Region != own.Epoch.Region {
		return top.Region
	}
	return own.Source
}
