package sessions

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// TakeOver returns the record by which a region goes on with a session whose owner is out of
// reach: above all that is known of it here, with the token as parent. base is the highest
// record known, own the region's, nil if it has none, copies the others'; j is base judged as its owner
// would.
// The caller fills in the new token's hash.
func TakeOver(base Record, own *Record, copies []Copy, j Judgement, region string, a Answer, op string, now time.Time) Record {
	r := base
	r.Home = base.homeAfter(a)
	r.took(higher(base.Current(), j.Token))
	r.Intent, r.Source, r.Refused = nil, "", events.Epoch{}
	number := max(base.Epoch.Number, j.Token.Epoch.Number, highest(copies))
	if t := j.Token.Epoch; t.Compare(base.Epoch) > 0 && t.Region != base.Epoch.Region {
		r.Abandoned = base.Current() // the token knows better who took the session from there
	}
	if own != nil {
		r.Refused = own.Refused
		number = max(number, own.Epoch.Number, own.Refused.Number)
	}
	r.Version = RecordVersion
	r.Epoch, r.Gen = events.Epoch{Number: number + 1, Region: region}, max(base.Gen, j.Token.Gen)+1
	r.Grace = lower(base.Grace, j.Token)
	if !base.Parent.IsZero() {
		r.Grace = lower(r.Grace, base.Parent)
	}
	r.Parent, r.Dead = j.Token, j.Dead
	r.MintedAt, r.MovedAt, r.State = now, now, StateActive
	r.Server, r.Answer, r.Op = a.Server, a, op
	return r
}

// highest returns the highest number of an epoch that any copy knows of, also of one that was only
// offered: whoever prepared that gives it up for a higher one alone.
func highest(copies []Copy) (number uint64) {
	for i := range copies {
		rec := &copies[i].Record
		if number = max(number, rec.Epoch.Number); rec.Intent != nil {
			number = max(number, rec.Intent.Next.Epoch.Number)
		}
	}
	return number
}

func higher(a, b Stamp) Stamp {
	if a.Less(b) {
		return b
	}
	return a
}

// TakeOver goes on with a session here although its owner did not hand it over. The caller has
// made sure that the owner is silent, has not answered, and is seen by no region that can be
// asked, and that this region is one of its fallbacks in the session's jurisdiction. Without a
// copy of the session it needs a young token (V16), else it fails with ErrUnavailable.
//
// The verdict is Elsewhere if another region has gone on meanwhile.
func (o *Owner) TakeOver(ctx context.Context, req Request, owner string, young bool, d Decider) (Outcome, error) {
	var out Outcome
	err := retry(ctx, func() (err error) {
		out, err = o.takeOver(ctx, req, owner, young, d)
		return err
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("take over session %s: %w", req.Key, err)
	}
	return out, nil
}

func (o *Owner) takeOver(ctx context.Context, req Request, owner string, young bool, d Decider) (Outcome, error) {
	s, err := o.situate(ctx, req.Key)
	if err != nil {
		return Outcome{}, err
	}
	base := s.Top
	if base == nil {
		lost := req.rebuilt()
		base = &lost
	}
	switch {
	case o.late(req.Deadline):
		return Outcome{}, ErrDeadline
	case s.Revoked:
		return s.refuse(req, Ended), nil
	case s.Owner(req.Token) != owner, owner == o.Region: // or it has come here meanwhile
		out := s.refuse(req, Elsewhere)
		out.Owner = s.Owner(req.Token)
		return out, nil
	case s.Top == nil && !young:
		return Outcome{}, fmt.Errorf("%w: no copy of the session has arrived", ErrUnavailable)
	}
	j := o.judge(base, req.Token, owner, o.Now())
	switch j.Verdict {
	case Rotate, Replay, Supersede:
	case Superseded:
		return Outcome{Judgement: j, Record: *base}, nil
	default: // a copy convicts nobody
		return Outcome{}, fmt.Errorf("%w: its owner has to judge the token", ErrUnavailable)
	}
	j.TakenOver = true
	now := o.Now()
	rec := base.Claim(req.Critical, now)
	if req.Bookmark != "" {
		rec.Bookmark = req.Bookmark
	}
	rec.Measured = cmp.Or(req.Measured, rec.Measured.At(now))
	answer, err := d.Answer(ctx, rec, j)
	if err != nil {
		return Outcome{}, err
	}
	next := TakeOver(rec, s.Record, s.copies, j, o.Region, answer, o.NewOp(), now)
	if next.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	if err := d.Sign(&next); err != nil {
		return Outcome{}, fmt.Errorf("sign tokens: %w", err)
	}
	if _, err := o.write(ctx, next, s.rev, req.Deadline); err != nil {
		return Outcome{}, err
	}
	o.Unsettled(req.Key) // a copy that arrived during the write may say that another region did the same
	return Outcome{Judgement: j, Record: next, Written: true}, nil
}
