package registry

import "time"

// Times of a lease.
const (
	// leaseTime is how long a standby waits without seeing a renewal.
	leaseTime = time.Second
	// leaseMargin is how much sooner a leader stops by itself: clocks that run at different
	// speeds, and what it has just begun.
	leaseMargin = 150 * time.Millisecond
	// renewEvery is the leader's pace, watchEvery the standby's.
	renewEvery = 250 * time.Millisecond
	watchEvery = 100 * time.Millisecond
)

// Step is what is to be done about a lease.
type Step string

// The steps.
const (
	StepWait  Step = "wait"  // another leads, or may
	StepRenew Step = "renew" // this registry leads
	StepTake  Step = "take"  // nobody does: it may be tried to
)

// Lease decides whether one registry of a region leads. Every time in it is of that
// registry's own clock: the leader counts its term from before it asked for a renewal, a
// standby counts the leader's from after it saw it, so the leader's is over first. It is
// owned by one goroutine. The zero value has seen nothing.
type Lease struct {
	// holder and revision are the lease as last seen, seen when that revision first was.
	holder   string
	revision uint64
	seen     time.Time
	known    bool
	// until ends this registry's own term.
	until time.Time
}

// Saw notes the lease as it stands, with no holder if there is none.
func (l *Lease) Saw(holder string, revision uint64, now time.Time) {
	if l.seen.IsZero() || revision != l.revision {
		l.holder, l.revision, l.seen = holder, revision, now
	}
	l.known = true
}

// Wrote notes that this registry has written the lease by a request that it sent then.
func (l *Lease) Wrote(self string, revision uint64, sent time.Time) {
	l.holder, l.revision, l.seen, l.known = self, revision, sent, true
	l.until = sent.Add(leaseTime - leaseMargin)
}

// Forget notes that it is not known how the lease stands: a write was refused, or not
// answered. A term that was won before lasts to its end, unless another has won.
func (l *Lease) Forget(refused bool) {
	l.known = false
	if refused {
		l.until = time.Time{}
	}
}

// Revision returns the revision that a write has to expect.
func (l *Lease) Revision() uint64 { return l.revision }

// Until returns the end of this registry's own term, zero if it has none.
func (l *Lease) Until() time.Time { return l.until }

// Next returns what a registry of that name is to do.
func (l *Lease) Next(self string, now time.Time) Step {
	switch {
	case !l.known:
		return StepWait
	case l.holder == self && now.Before(l.until):
		return StepRenew
	case l.holder == "", l.holder == self, now.Sub(l.seen) >= leaseTime:
		return StepTake
	default:
		return StepWait
	}
}
