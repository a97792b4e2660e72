package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/berthhq/berth/events"
)

// listen hears which sessions are released from this server or revoked anywhere, until ctx
// ends. First it subscribes, then it reads what the stream has kept of the recent past, so
// that nothing falls between. Until that is done once, nothing is accepted; when messages may
// have been missed later it is done again, while the server goes on.
func (a *Agent) listen(ctx context.Context) {
	gaps := make(chan struct{}, 1)
	forget := a.cfg.Bus.OnGap(func() {
		select {
		case gaps <- struct{}{}:
		default: // one is waiting already
		}
	})
	defer forget()
	subjects := []string{
		events.Subject{Kind: events.KindLock, Region: a.cfg.Region, Server: a.cfg.Server}.String(),
		events.Subject{Kind: events.KindRevoked}.Filter(),
	}
	for _, subject := range subjects {
		var stop func()
		a.persist(ctx, "subscribe to released locks", func() error {
			var err error
			stop, err = a.cfg.Bus.Subscribe(ctx, subject, a.heard)
			return err
		})
		if stop == nil { // ctx has ended
			return
		}
		defer stop()
	}
	for ctx.Err() == nil {
		a.persist(ctx, "read recent releases", func() error {
			return a.cfg.Recent.Read(ctx, subjects, time.Now().Add(-floorLife), a.heard)
		})
		if ctx.Err() != nil {
			return
		}
		if !a.current.Swap(true) {
			a.log.LogAttrs(ctx, slog.LevelInfo, "server accepts requests")
		}
		select {
		case <-ctx.Done():
		case <-gaps:
		}
	}
}

// heard takes a release or a revocation.
func (a *Agent) heard(subject string, data []byte) {
	e, err := events.Decode(subject, data)
	if err != nil {
		a.metrics.skipped.Inc()
		return
	}
	now := time.Now()
	switch e := e.(type) {
	case *events.LockReleased:
		if e.Server == a.cfg.Server && e.Region == a.cfg.Region {
			a.sessions.release(e, now)
		}
	case *events.Revoked:
		for _, id := range e.Sessions {
			a.sessions.revoke(id, now)
		}
	}
}

// persist does something until it succeeds or ctx ends, with growing pauses of at most 5 s
// and a line of the log before each.
func (a *Agent) persist(ctx context.Context, task string, do func() error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	_, _ = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, do() },
		backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, wait time.Duration) {
			if errors.Is(err, context.Canceled) {
				return
			}
			a.log.LogAttrs(ctx, slog.LevelWarn, "task failed, will try again",
				slog.String("task", task), slog.String("error", err.Error()), slog.Duration("retry_in", wait))
		}))
}

// watchEnded returns nil if a watch has ended with its context, else why it ended.
func watchEnded(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return errors.New("the watch has ended")
	}
	return err
}
