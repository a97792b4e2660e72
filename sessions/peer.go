package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Peers asks the token services of other regions. Ask fails if region gives no answer before
// ctx ends; the question may have arrived all the same, and may arrive twice or late. It is
// safe for concurrent use.
type Peers interface {
	Ask(ctx context.Context, region string, q Question) (Reply, error)
}

// Kind is what one region asks another.
type Kind string

// The questions.
const (
	// Adopting offers the session of a moving record: step 2 of the handover.
	Adopting Kind = "adopt"
	// Promising asks what became of such an offer. Who has not prepared it nor owned a higher
	// epoch promises never to (V6).
	Promising Kind = "promise"
	// Activating tells that the record of a handover is committed: step 5.
	Activating Kind = "activate"
	// Showing asks for the region's record.
	Showing Kind = "show"
)

// Question is what one region's token service asks another's of a session.
type Question struct {
	Kind Kind `json:"kind"`
	// Record is the asking region's.
	Record Record `json:"record"`
}

// Reply is what a region says of a session.
type Reply struct {
	// Record is the region's afterwards, nil if it has none.
	Record *Record `json:"record,omitempty"`
	// Refusal is why it does not adopt the session; empty: it has, or goes on with it already.
	Refusal string `json:"refusal,omitempty"`
}

// Answer answers a question of another region. admit says why a session cannot come to this
// region, empty if it can. Errors: ErrUnavailable, or one that says what is wrong with the
// question.
func (o *Owner) Answer(ctx context.Context, q Question, admit func(offer Record) (refusal string)) (Reply, error) {
	var reply Reply
	err := retry(ctx, func() (err error) {
		switch {
		case (q.Kind == Adopting || q.Kind == Promising) && !q.Record.movingTo(o.Region):
			return errors.New("the record is not moving here")
		case q.Kind == Adopting:
			reply, err = o.prepare(ctx, q.Record, admit)
		case q.Kind == Promising:
			reply, err = o.promise(ctx, q.Record)
		case q.Kind == Activating && (q.Record.State != StateMoved || q.Record.Epoch.Region != o.Region):
			return errors.New("the record has not moved here")
		case q.Kind == Activating:
			// The record is as good as a copy, of whichever region: folding it does what is to be done.
			reply, err = o.show(ctx, q.Record.Key(), Copy{Record: q.Record})
		case q.Kind == Showing:
			reply, err = o.show(ctx, q.Record.Key())
		default:
			return fmt.Errorf("unknown question %q", q.Kind)
		}
		return err
	})
	if err != nil {
		return Reply{}, fmt.Errorf("answer %s of session %s: %w", q.Kind, q.Record.Key(), err)
	}
	return reply, nil
}

// movingTo reports whether a record has begun to move to a region.
func (r Record) movingTo(region string) bool {
	return r.State == StateMoving && r.Intent != nil && r.Intent.Next != nil &&
		r.Intent.Next.Epoch.Region == region && r.Intent.Next.Key() == r.Key() &&
		r.Intent.Next.Epoch.Number > r.Epoch.Number
}

// prepare prepares what another region hands over.
func (o *Owner) prepare(ctx context.Context, moving Record, admit func(Record) string) (Reply, error) {
	if o.late(moving.Intent.Deadline) {
		return Reply{}, ErrDeadline // the owner waits no more
	}
	s, err := o.situate(ctx, moving.Key())
	if err != nil {
		return Reply{}, err
	}
	if s.Revoked {
		return Reply{Record: s.Record, Refusal: RefusedRevoked}, nil
	}
	offer, refusal := o.adopt(s.Record, moving)
	if offer == nil || refusal != "" {
		return Reply{Record: s.Record, Refusal: refusal}, nil
	}
	if refusal = admit(*offer); refusal != "" {
		return Reply{Record: s.Record, Refusal: refusal}, nil
	}
	if _, err := o.write(ctx, *offer, s.rev, moving.Intent.Deadline); err != nil {
		return Reply{}, err
	}
	o.Unsettled(offer.Key())
	return Reply{Record: offer}, nil
}

// promise says what became of an offer, and sees to it that nothing more does.
func (o *Owner) promise(ctx context.Context, moving Record) (Reply, error) {
	s, err := o.situate(ctx, moving.Key())
	if err != nil {
		return Reply{}, err
	}
	if s.Revoked {
		if s.Record != nil {
			return Reply{Record: s.Record}, nil
		}
		revoked := moving.Revoke(o.NewOp())
		return Reply{Record: &revoked}, nil
	}
	promised := Promise(s.Record, moving, o.NewOp())
	if promised == nil {
		return Reply{Record: s.Record}, nil
	}
	if _, err := o.write(ctx, *promised, s.rev, time.Time{}); err != nil {
		return Reply{}, err
	}
	return Reply{Record: promised}, nil
}

// show returns the region's record after the copies, and one more, were folded into it.
func (o *Owner) show(ctx context.Context, key Key, more ...Copy) (Reply, error) {
	s, err := o.situate(ctx, key, more...)
	if err != nil {
		return Reply{}, err
	}
	return Reply{Record: s.Record}, nil
}
