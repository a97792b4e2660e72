package sessions

import "time"

// A Rule replaces one pure part of the protocol by another with a rule missing.
type Rule func(*rules)

// Take takes rules out of the owner.
func (o *Owner) Take(changes ...Rule) {
	for _, change := range changes {
		change(&o.rules)
	}
}

// Judging replaces Judge.
func Judging(fn func(rec *Record, t Stamp, region string, now time.Time) Judgement) Rule {
	return func(r *rules) { r.judge = fn }
}

// FoldingBy replaces Fold.
func FoldingBy(fn func(own *Record, region string, copies []Copy, op func() string) Folding) Rule {
	return func(r *rules) { r.fold = fn }
}

// AdoptingBy replaces Adopt.
func AdoptingBy(fn func(own *Record, moving Record) (*Record, string)) Rule {
	return func(r *rules) { r.adopt = fn }
}

// Undoing replaces Record.Undo.
func Undoing(fn func(moving Record, a Answer, op string, now time.Time) Record) Rule {
	return func(r *rules) { r.undo = fn }
}

// Settling replaces Record.Settle.
func Settling(fn func(moving Record, theirs *Record) (*Record, bool)) Rule {
	return func(r *rules) { r.settle = fn }
}

// Unrotating replaces Unrotate.
func Unrotating(fn func(rec *Record, t Stamp, region string, contact, now time.Time) bool) Rule {
	return func(r *rules) { r.unrotate = fn }
}

// Known hands out a session from the owner's cache by its current token's place, as Take does
// by the token, which tests have none of.
func (o *Owner) Known(key Key, t Stamp) *Hold {
	return o.Cache.take([]byte(key.Session), func(p *place) bool {
		rec, err := DecodeRecord(p.data)
		return err == nil && rec.Current() == t
	})
}

// A LeaseRule takes a condition out of a lease.
type LeaseRule func(*leaseRules)

// Take takes conditions out of the lease.
func (l *Lease) Take(changes ...LeaseRule) {
	for _, change := range changes {
		change(&l.rules)
	}
}

// LeasedBy replaces that the region has a lease.
func LeasedBy(fn func(l *Lease, now time.Time) bool) LeaseRule {
	return func(r *leaseRules) { r.leased = fn }
}

// SettledBy replaces that the region has had its lease for long enough.
func SettledBy(fn func(l *Lease, now time.Time) bool) LeaseRule {
	return func(r *leaseRules) { r.settled = fn }
}

// HearingNobody takes out that other regions are heard: all of them, where a region answers for itself, or
// all but the owner, where it takes a session over.
func HearingNobody(takingOver bool) LeaseRule {
	return func(r *leaseRules) {
		r.hearsAll = func(l *Lease, but string, now time.Time) bool {
			return takingOver == (but != l.region) || l.hearsAll(but, now)
		}
	}
}

// AnsweringBy replaces Answers in TakesOver.
func AnsweringBy(fn func(l *Lease, now time.Time, complete bool) LeaseFault) LeaseRule {
	return func(r *leaseRules) { r.answers = fn }
}

// FencedBy replaces that a region is fenced.
func FencedBy(fn func(l *Lease, name string, now time.Time) bool) LeaseRule {
	return func(r *leaseRules) { r.fenced = fn }
}

// FencedSooner has a region be fenced by as much less silence.
func FencedSooner(by time.Duration) LeaseRule {
	return FencedBy(func(l *Lease, name string, now time.Time) bool {
		l.accepted -= by
		defer func() { l.accepted += by }()
		return l.fenced(name, now)
	})
}

// FencedByOne has a region be fenced when any one has not heard it.
func FencedByOne() LeaseRule {
	return FencedBy(func(l *Lease, name string, now time.Time) bool { return l.silent(name, now) > 0 })
}

// FencedByItself has a region count among those that have not heard it.
func FencedByItself() LeaseRule {
	return FencedBy(func(l *Lease, name string, now time.Time) bool {
		silent := l.silent(name, now)
		if l.silence(name, name, now) >= l.wait() {
			silent++
		}
		return silent >= l.most()
	})
}

// silenceWith replaces a part of what is known of a silence.
func silenceWith(change func(l *Lease, voter, name string, now time.Time) (undo func())) LeaseRule {
	return func(r *leaseRules) {
		r.silence = func(l *Lease, voter, name string, now time.Time) time.Duration {
			defer change(l, voter, name, now)()
			return l.silence(voter, name, now)
		}
	}
}

// SilenceOfUnheard counts what regions that are not heard may have heard as not heard.
func SilenceOfUnheard() LeaseRule {
	return silenceWith(func(l *Lease, voter, _ string, now time.Time) func() {
		h := l.heard[voter]
		at := h.at
		h.at = now
		return func() { h.at = at }
	})
}

// SilenceThroughGaps counts what could not be heard for a while as not heard.
func SilenceThroughGaps() LeaseRule {
	return silenceWith(func(l *Lease, voter, _ string, _ time.Time) func() {
		h := l.heard[voter]
		since := h.since
		h.since = time.Time{}
		return func() { h.since = since }
	})
}

// SilenceWhateverWasHeard ignores what a region says that it has heard.
func SilenceWhateverWasHeard() LeaseRule {
	return silenceWith(func(l *Lease, voter, name string, _ time.Time) func() {
		h := l.heard[voter]
		knows := h.knows[name]
		h.knows[name] = time.Time{}
		return func() { h.knows[name] = knows }
	})
}

// HeirIsWhoAsks has every session fall to the region that is asked.
func HeirIsWhoAsks() LeaseRule {
	return func(r *leaseRules) { r.heir = func(l *Lease, _, _ string, _ []string) string { return l.region } }
}

// KnowingBy replaces that a record is of the token's epoch.
func KnowingBy(fn func(base *Record, token Stamp) bool) LeaseRule {
	return func(r *leaseRules) { r.knows = fn }
}

// TakingBack has a region take back what was taken from it.
func TakingBack() LeaseRule {
	return func(r *leaseRules) {
		r.free = func(l *Lease, r *Record, from string) bool { return from != l.region && l.free(r, from) }
	}
}

// FreeWithoutTakeover has one of two regions answer without a lease for what it never took.
func FreeWithoutTakeover() LeaseRule {
	return func(r *leaseRules) {
		r.free = func(l *Lease, r *Record, from string) bool { return from != l.region || l.free(r, from) }
	}
}
