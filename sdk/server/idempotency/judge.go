package idempotency

import "time"

// Verdict is what becomes of a request whose key is known already.
type Verdict string

// The verdicts.
const (
	// Run: the first had no effect.
	Run Verdict = "run"
	// Replay: the first was answered, and so is this one.
	Replay Verdict = "replay"
	// InFlight: the first is being served by a process that lives, as far as is known.
	InFlight Verdict = "in_flight"
	// Unknown: the first may have had its effect, and nobody will ever say what it replied.
	Unknown Verdict = "unknown"
	// Mismatch: the first was another request.
	Mismatch Verdict = "mismatch"
)

// Retry is a request with a key that is known already, which the process Self does not serve just now.
type Retry struct {
	Fingerprint string
	Self        Owner
	// Gone says that the entry's owner is known to have died.
	Gone bool
}

// Judge says what becomes of a retry, by the entry of its key.
//
// A request that was begun in another region counts as lost: its session has moved here since, and no client may wait for a
// region that may be gone. So it does where its process has ended: this one has another boot, or has it no more among those
// that it serves.
func Judge(e *Entry, r Retry, now time.Time) Verdict {
	switch {
	case e.State == StateVoid:
		return Run
	case e.Fingerprint != r.Fingerprint:
		return Mismatch
	case e.State == StateDone && e.Reply != nil:
		return Replay
	case e.State != StateBegun:
		return Unknown
	case e.Owner.Region != r.Self.Region, r.Gone, sameProcess(e.Owner, r.Self), !now.Before(e.Deadline):
		return Unknown
	default:
		return InFlight
	}
}

// sameProcess reports whether two owners are lives of one process, which has one at a time.
func sameProcess(a, b Owner) bool {
	return a.Region == b.Region && a.Server == b.Server && a.Member == b.Member
}
