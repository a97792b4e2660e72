package server

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/berthhq/berth/events"
)

// heartbeatJitter spreads the heartbeats of servers that started together.
const heartbeatJitter = 0.1

// beat sends a heartbeat every interval, and at once when a drain is announced, until ctx
// ends. A heartbeat that cannot be sent is given up: the next says more.
func (a *Agent) beat(ctx context.Context) {
	for {
		now := time.Now()
		held := a.sessions.sweep(a.cfg.Server, now.Add(-a.cfg.AccessTTL), now)
		a.meter.sample(held, a.cfg.Capacity, a.cfg.MaxInFlight, now)
		if err := a.cfg.Alive(); err != nil {
			a.withhold(ctx, err)
		} else {
			a.send(ctx, a.heartbeat(a.state(), now))
		}
		timer := time.NewTimer(jitter(a.cfg.Interval))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.announce:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// jitter returns d, a tenth more or less.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + heartbeatJitter*(2*rand.Float64()-1)))
}

func (a *Agent) state() events.State {
	if a.drain.Load() != nil {
		return events.StateDraining
	}
	return events.StateUp
}

// heartbeat returns what the server says of itself now. Its number is given when it is sent.
func (a *Agent) heartbeat(state events.State, now time.Time) *events.Heartbeat {
	c := &a.cfg
	h := &events.Heartbeat{
		Version: events.Version, Server: c.Server, Member: c.Member, Region: c.Region,
		URL: c.URL, HealthURL: c.HealthURL, AuthURL: c.AuthURL,
		Boot: c.Boot, Seq: 1, At: now.UTC(), IntervalMS: int(c.Interval / time.Millisecond),
		State: state, Capacity: c.Capacity, Load: a.load(), Location: c.Location,
	}
	if d := a.drain.Load(); d != nil && state == events.StateDraining {
		h.DrainUntil = d.until
	}
	return h
}

// load returns the last sample, or what the application makes of it.
func (a *Agent) load() events.Load {
	sample := a.meter.last()
	if a.cfg.Load == nil {
		return sample
	}
	own := a.cfg.Load(sample)
	for _, v := range []float64{float64(own.Sessions), float64(own.InFlight), float64(own.MaxInFlight), own.CPU, own.P99, own.Utilisation} {
		if !(v >= 0) || math.IsInf(v, 1) {
			return sample // a heartbeat with an odd load would be refused: better one with a load of ours
		}
	}
	return own
}

// withhold leaves a heartbeat out, because the application does not serve.
func (a *Agent) withhold(ctx context.Context, cause error) {
	a.metrics.heartbeats.WithLabelValues("withheld").Inc()
	if !a.silent.Swap(true) {
		a.log.LogAttrs(ctx, slog.LevelWarn, "heartbeats are withheld: the application does not serve", slog.String("error", cause.Error()))
	}
}

// send publishes a heartbeat. The first failure of a row is logged, and the first success
// after it.
func (a *Agent) send(ctx context.Context, h *events.Heartbeat) {
	h.Seq = a.seq.Add(1)
	data, err := events.Encode(h)
	if err == nil {
		err = a.cfg.Bus.Publish(ctx, h.Subject().String(), data)
	}
	switch {
	case err != nil:
		a.metrics.heartbeats.WithLabelValues("failed").Inc()
		if !a.silent.Swap(true) {
			a.log.LogAttrs(ctx, slog.LevelWarn, "heartbeats are not sent", slog.String("error", err.Error()))
		}
	default:
		a.metrics.heartbeats.WithLabelValues("sent").Inc()
		if a.silent.Swap(false) {
			a.log.LogAttrs(ctx, slog.LevelInfo, "heartbeats are sent again")
		}
	}
}
