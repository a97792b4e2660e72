package registry

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// loop folds what comes, and lets time pass, until ctx ends. It waits for nothing else.
func (r *Registry) loop(ctx context.Context, g *errgroup.Group, wishes WishesSeen, restored []events.Server) {
	r.tidied = time.Now()
	r.reduce(ctx, g, wishes, r.tidied)
	r.reduce(ctx, g, Restored{restored}, time.Now())
	r.told.Trust(r.cfg.Region, restored, false)
	r.drain(ctx, g)
	r.show(time.Now())
	r.look(time.Now())
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.inbox.wake:
			r.drain(ctx, g)
		case <-tick.C:
			// What waits counts before the silence that it ends is judged.
			r.drain(ctx, g)
			r.reduce(ctx, g, Ticked{}, time.Now())
			r.inquire(ctx, g)
		}
		now := time.Now()
		r.tell(ctx, g, now)
		r.tidy(ctx, g, now)
		r.look(now)
		r.current.Store(now.UnixNano())
		age := now.Sub(r.shownAt)
		if r.table.Changes() != r.shown && age >= viewEvery || age >= rampEvery && r.shownAt.Before(r.View().settled) {
			r.show(now)
		}
	}
}

// drain folds everything that waits.
func (r *Registry) drain(ctx context.Context, g *errgroup.Group) {
	batch, gap := r.inbox.take()
	if gap {
		r.metrics.gaps.WithLabelValues("own").Inc()
		r.unsure = true
		r.reduce(ctx, g, Gap{}, time.Now())
		signal(r.reread)
	}
	for i := range batch {
		item := &batch[i]
		if item.event == nil && r.scan(ctx, g, item) {
			continue
		}
		if item.event == nil {
			item.event = r.decode(item)
		}
		switch e := item.event.(type) {
		case nil:
		case Elected:
			r.succeed(ctx, g, e)
		case viewAsked:
			r.giveView(e, time.Now())
		default:
			r.reduce(ctx, g, e, item.at)
			if seen, ok := e.(HeartbeatSeen); ok {
				r.checkClock(ctx, g, seen, item.at)
			}
		}
	}
	r.inbox.give(batch)
}

// scan folds the message if it is a plain heartbeat, as nearly all are.
func (r *Registry) scan(ctx context.Context, g *errgroup.Group, i *item) bool {
	_, server, ok := events.HeartbeatSender(i.subject)
	if !ok || !events.ScanHeartbeat(i.subject, i.data, &r.heartbeat, r.table.last(server)) {
		return false
	}
	r.metrics.heartbeats.Inc()
	seen := HeartbeatSeen{Heartbeat: &r.heartbeat, Stored: i.stored}
	r.act(ctx, g, r.table.heartbeat(seen, i.at))
	r.checkClock(ctx, g, seen, i.at)
	return true
}

// decode returns the message as an event of the table, nil for one that is skipped.
func (r *Registry) decode(i *item) Event {
	if i.subject == r.ownView {
		if head, err := events.DecodeViewHead(i.subject, i.data); err == nil {
			return SequenceSeen{head.Seq}
		}
	}
	e, err := events.Decode(i.subject, i.data)
	switch e := e.(type) {
	case *events.Heartbeat:
		r.metrics.heartbeats.Inc()
		return HeartbeatSeen{Heartbeat: e, Stored: i.stored}
	case *events.LoadReport:
		r.metrics.reports.Inc()
		return LoadSeen{e}
	case *events.ViewUpdate:
		return UpdateSeen{e}
	case *events.ServerState, *events.RegionState:
		r.told.Heard(e)
		return nil
	case *events.Report:
		r.metrics.hints.WithLabelValues("reported").Inc()
		return Reported{e.Server}
	case *events.Demand:
		return DemandSeen{e}
	}
	if err == nil {
		err = events.ErrUnknown
	}
	return BadInput{Subject: i.subject, Reason: events.FaultOf(err), Detail: faultText(err)}
}

// reduce folds one event and does what the table wants done.
func (r *Registry) reduce(ctx context.Context, g *errgroup.Group, e Event, now time.Time) {
	r.act(ctx, g, r.table.Reduce(e, now))
}

// act does what the table wants done.
func (r *Registry) act(ctx context.Context, g *errgroup.Group, effects []Effect) {
	for _, effect := range effects {
		switch effect := effect.(type) {
		case StateChanged:
			r.metrics.changes.WithLabelValues(string(effect.State.State)).Inc()
			r.recount = true
			r.say(ctx, effect.State, effect.State.Reason)
		case RegionChanged:
			r.metrics.regions.WithLabelValues(effect.State.State).Inc()
			r.say(ctx, effect.State, effect.State.Reason)
		case ProbeDue:
			g.Go(func() error { r.probe(ctx, effect); return nil })
		case WitnessDue:
			r.witnesses = append(r.witnesses, effect)
		case ViewDue:
			g.Go(func() error { r.askView(ctx, effect.Region); return nil })
		case SurveyDue:
			if r.leader.leadsIn(r.term) {
				g.Go(func() error { r.survey(ctx, effect); return nil })
			}
		case UpdateMissed:
			r.metrics.gaps.WithLabelValues("update").Inc()
		case Complained:
			r.metrics.complaints.WithLabelValues(effect.Reason).Inc()
		case Skipped:
			r.metrics.skipped.WithLabelValues(effect.Reason).Inc()
		}
	}
}

// say publishes an event if this registry leads. One that stands by does not: should it lead
// before the leader says the same, it will.
func (r *Registry) say(ctx context.Context, e events.Event, reason string) {
	if r.leader.leadsIn(r.term) {
		r.journal.say(ctx, r.term, e, slog.String("reason", reason))
	}
}
