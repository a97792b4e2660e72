package registry

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// tell hands on what is due to the bucket and to other regions, if this registry leads.
func (r *Registry) tell(ctx context.Context, g *errgroup.Group, now time.Time) {
	if !r.leader.leadsIn(r.term) {
		r.table.Follow(now)
		return
	}
	told := r.table.Tell(now)
	r.projector.want(told)
	if len(told.Updates) == 0 {
		return
	}
	if !r.updates.TryAcquire(1) {
		// What is left out comes with the next full update.
		r.metrics.updates.WithLabelValues("dropped").Add(float64(len(told.Updates)))
		return
	}
	g.Go(func() error {
		defer r.updates.Release(1)
		r.publish(ctx, told.Updates)
		return nil
	})
}

// publish sends view updates. Other regions fold them in any order and what is missing comes
// with the next full one, so none is sent twice and none waits long for the one before.
func (r *Registry) publish(ctx context.Context, updates []*events.ViewUpdate) {
	var g errgroup.Group
	g.SetLimit(updateParts)
	for _, u := range updates {
		g.Go(func() error {
			if !r.leader.leads() {
				return nil
			}
			data, err := events.Encode(u)
			if err == nil {
				limited, cancel := context.WithTimeout(ctx, updateTimeout)
				err = r.cfg.Bus.Publish(limited, u.Subject().String(), data)
				cancel()
			}
			outcome := "stored"
			if err != nil {
				outcome = "failed"
				r.log.LogAttrs(ctx, slog.LevelDebug, "view update not stored", slog.String("error", err.Error()))
			}
			r.metrics.updates.WithLabelValues(outcome).Inc()
			return nil
		})
	}
	_ = g.Wait() // each outcome was counted
}
