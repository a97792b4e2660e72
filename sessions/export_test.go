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
