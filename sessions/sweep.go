package sessions

import (
	"context"
	"fmt"
	"time"
)

// Sweep sees a session through whose handover, or takeover, is not settled, and reports
// whether it is now. Who calls it again later until it is, also after a restart for all
// records that are not active or were taken over, leaves none behind. Its error ends this attempt.
func (o *Owner) Sweep(ctx context.Context, key Key, d Stayer) (settled bool, err error) {
	err = retry(ctx, func() (err error) {
		settled, err = o.sweep(ctx, key, d)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("sweep session %s: %w", key, err)
	}
	return settled, nil
}

func (o *Owner) sweep(ctx context.Context, key Key, d Stayer) (bool, error) {
	s, err := o.situate(ctx, key)
	if err != nil || s.Record == nil || s.Revoked || o.Peers == nil {
		return err == nil, err
	}
	switch rec := *s.Record; rec.State {
	case StateMoving:
		return o.sweepMoving(ctx, d, rec, s.rev)
	case StateMoved:
		return o.sweepMoved(ctx, rec, s.copies)
	case StatePrepared:
		return o.sweepPrepared(ctx, rec)
	case StateActive:
		return o.sweepTaken(rec, s.copies), nil
	case StateRevoked:
	}
	return true, nil
}

// sweepMoving settles a handover whose owner has not. A destination out of reach leaves it as it
// is; one that goes on has to hear of the commit.
func (o *Owner) sweepMoving(ctx context.Context, d Stayer, rec Record, rev Revision) (bool, error) {
	if o.late(rec.Intent.Deadline) {
		_, err := o.resolve(ctx, Request{}, d, rec, rev)
		return false, err
	}
	return false, nil
}

// resolve settles a handover by what its destination says of it (V6), and reports whether it did.
// A client that has begun a critical task is not moved by an offer that is only prepared.
func (o *Owner) resolve(ctx context.Context, req Request, d Stayer, rec Record, rev Revision) (bool, error) {
	asking, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	reply, err := o.Peers.Ask(asking, rec.Intent.Next.Epoch.Region, Question{Kind: Promising, Record: rec})
	if err != nil {
		return false, nil //nolint:nilerr // out of reach: it stays moving
	}
	next, undo := o.settle(rec, reply.Record)
	if req.Critical && next != nil && reply.Record.State == StatePrepared {
		next, undo = nil, true
	}
	switch {
	case undo:
		_, err = o.giveUp(ctx, d, rec, rev, req)
	case next != nil:
		_, err = o.write(ctx, *next, rev, time.Time{})
	}
	return next != nil || undo, err
}

// resolveTimeout bounds the question to the destination: a client may wait for the answer.
const resolveTimeout = 2 * time.Second

// sweepMoved tells the next region of a commit until it goes on, as its copy or its answer says. A
// record that moved further is for the regions that moved it.
func (o *Owner) sweepMoved(ctx context.Context, rec Record, copies []Copy) (bool, error) {
	goesOn := func(theirs *Record) bool {
		return theirs != nil && theirs.State != StatePrepared && theirs.Epoch.Compare(rec.Epoch) >= 0
	}
	for i := range copies {
		if copies[i].Region == rec.Epoch.Region && goesOn(&copies[i].Record) {
			return true, nil
		}
	}
	reply, err := o.Peers.Ask(ctx, rec.Epoch.Region, Question{Kind: Activating, Record: rec})
	return err == nil && goesOn(reply.Record), nil //nolint:nilerr // out of reach: once more later
}

// sweepPrepared asks the owner what became of its offer, where its copy has not said so.
func (o *Owner) sweepPrepared(ctx context.Context, rec Record) (bool, error) {
	reply, err := o.Peers.Ask(ctx, rec.Source, Question{Kind: Showing, Record: rec})
	if err != nil || reply.Record == nil {
		return false, nil //nolint:nilerr // out of reach: once more later
	}
	s, err := o.situate(ctx, rec.Key(), Copy{Region: rec.Source, Record: *reply.Record})
	return err == nil && s.Record.State != StatePrepared, err
}

// sweepTaken repeats the release of a session that was taken over until the copy of the region that
// it was taken from shows that it knows of it: its servers may have been out of reach until now.
func (o *Owner) sweepTaken(rec Record, copies []Copy) (settled bool) {
	settled = true
	for _, t := range rec.Taken {
		if t.Epoch.Region == o.Region || !o.Edge(t.Epoch.Region) {
			continue
		}
		before, heard := rec.lostBy(t, copies)
		if heard {
			continue
		}
		settled = false
		if before.Answer.Server != "" {
			o.Unheard(Yield{Before: before, After: rec})
		}
	}
	return settled
}

// lostBy returns the record that a region had of a session when it was taken from there, as far as
// is known, and whether the region shows that it knows: it has the session's epoch, or has
// given up its own for another region's, which releases its lock as well. Where a session has come
// by handover from the region that took it over, and there is no copy, it is for that one to see to.
func (r *Record) lostBy(t Stamp, copies []Copy) (before Record, heard bool) {
	for i := range copies {
		c := &copies[i].Record
		if copies[i].Region != t.Epoch.Region {
			continue
		}
		gone := c.State == StateMoved && c.Epoch.Region != t.Epoch.Region && t.Epoch.Compare(c.Epoch) < 0
		return *c, gone || r.Epoch.Compare(c.Epoch) <= 0
	}
	from := r.Answer.From
	return Record{Server: from.Server, Answer: Answer{Server: from.Server, Region: from.Region}}, r.Source != ""
}
