package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A refresh that meets a handover waits for it, looking so often, so long.
const (
	movingLook = 100 * time.Millisecond
	movingWait = 2 * time.Second
)

// activateWait is how long the client's answer waits for the new owner to know of the commit.
const activateWait = 500 * time.Millisecond

// handOver moves a session to another region: intent, offer, commit. Whatever fails before the
// commit leaves it here.
func (o *Owner) handOver(ctx context.Context, req Request, d Decider, rec Record, rev Revision, j Judgement, a Answer, dead bool) (Outcome, error) {
	now := o.Now()
	next := rec.Next(j, a.Region, a, o.NewOp(), now)
	if next.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	if err := d.Sign(&next); err != nil {
		return Outcome{}, fmt.Errorf("sign tokens: %w", err)
	}
	moving := rec.Begin(next, now.Add(AdoptTimeout))
	rev, err := o.write(ctx, moving, rev, req.Deadline)
	if err != nil {
		return Outcome{}, err
	}
	o.Unsettled(req.Key) // whatever becomes of this process
	asking, cancel := context.WithTimeout(ctx, AdoptTimeout)
	reply, err := o.Peers.Ask(asking, a.Region, Question{Kind: Adopting, Record: moving})
	cancel()
	if err != nil || reply.Refusal != "" {
		return o.stay(ctx, req, d, moving, rev, j, dead)
	}
	moved := moving.Commit()
	switch _, err = o.write(ctx, moved, rev, req.Deadline); {
	case err == nil:
		// The sweeper repeats it if need be, and a token of the new epoch says as much.
		telling, cancel := context.WithTimeout(ctx, activateWait)
		defer cancel()
		_, _ = o.Peers.Ask(telling, a.Region, Question{Kind: Activating, Record: moved})
		return Outcome{Judgement: j, Record: moved, Written: true}, nil
	case errors.Is(err, ErrConflict), errors.Is(err, ErrDeadline):
		return Outcome{}, err
	}
	// The next region may own the session, or not: until that is known, nothing is told of it.
	return unsettled(req, rec, j)
}

// unsettled has a client go on where it is, unrotated, for its handover has not come to an end.
func unsettled(req Request, rec Record, j Judgement) (Outcome, error) {
	if rec.Epoch.Compare(req.Floor) < 0 {
		return Outcome{}, ErrFloor
	}
	j.Verdict = Unrotated
	return Outcome{Judgement: j, Record: rec}, nil
}

// stay gives up a handover for a client that waits, and lets its token be redeemed where it is.
func (o *Owner) stay(ctx context.Context, req Request, d Stayer, moving Record, rev Revision, j Judgement, dead bool) (Outcome, error) {
	back, err := o.giveUp(ctx, d, moving, rev, req)
	switch {
	case err != nil:
		return Outcome{}, err
	case back.Epoch.Compare(req.Floor) < 0:
		return Outcome{}, ErrFloor
	case dead:
		return Outcome{}, ErrStranded
	}
	return Outcome{Judgement: j, Record: back, Written: true}, nil
}

// giveUp writes the record of a handover that is given up.
func (o *Owner) giveUp(ctx context.Context, d Stayer, moving Record, rev Revision, req Request) (Record, error) {
	now := o.Now()
	if req.Critical {
		moving = moving.Claim(true, now)
	}
	back := o.undo(moving, d.Stay(moving), o.NewOp(), now)
	if err := d.Sign(&back); err != nil {
		return Record{}, fmt.Errorf("sign tokens: %w", err)
	}
	_, err := o.write(ctx, back, rev, req.Deadline)
	return back, err
}

// whileMoving answers a good token of a session that is being handed over. A critical task stops
// the handover (V12), and so does a client with a live token once the deadline has passed (V6).
// Otherwise it is waited for, and the token judged again; if that takes too long the client is
// told to stay, unrotated.
func (o *Owner) whileMoving(ctx context.Context, req Request, d Stayer, rec Record, rev Revision, j Judgement) (Outcome, error) {
	claims := req.Critical && rec.CriticalSince.IsZero()
	switch late := o.Now().After(rec.Intent.Deadline); {
	case late:
		// The destination knows best what became of it, if it answers.
		if settled, err := o.resolve(ctx, req, d, rec, rev); settled || err != nil {
			return Outcome{}, again(err)
		}
		fallthrough
	case claims:
		_, err := o.giveUp(ctx, d, rec, rev, req)
		return Outcome{}, again(err)
	}
	for waited := time.Duration(0); o.Wait != nil && waited < movingWait; waited += movingLook {
		if err := o.Wait(ctx, movingLook); err != nil {
			return Outcome{}, err
		}
		seen, _, err := o.read(ctx, req.Key)
		switch {
		case err != nil:
			return Outcome{}, err
		case seen == nil || seen.State != StateMoving:
			return Outcome{}, again(nil)
		}
	}
	return unsettled(req, rec, j)
}

// again has a token judged once more, after what it met has been settled.
func again(err error) error {
	if err == nil {
		err = fmt.Errorf("%w: its handover has ended", ErrConflict)
	}
	return err
}
