package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Bounds of a clock that is compared with NATS's. Two services of a region answer for the
// same sessions, and a token that one minted is old by the other's clock: were they as far
// apart as the 30 s within which an answer is repeated, they would take honest clients for
// thieves.
const (
	maxSkew      = 5 * time.Second
	clockEvery   = 30 * time.Second
	clockRetry   = time.Second
	clockTimeout = 2 * time.Second
)

// clock watches this machine's clock.
type clock struct {
	// skew is jetstream.Conn.Skew.
	skew func(ctx context.Context) (skew, within time.Duration, err error)
	log  *slog.Logger
	// off is how far the clock is off, if that is too far; 0: it is not.
	off atomic.Int64
}

// ready returns nil while the clock can be trusted.
func (c *clock) ready() error {
	if off := time.Duration(c.off.Load()); off != 0 {
		return fmt.Errorf("this machine's clock is %s ahead of NATS's, at most %s is safe; check its NTP", off.Round(time.Millisecond), maxSkew)
	}
	return nil
}

// run compares until ctx ends. While NATS cannot be asked, the last word counts.
func (c *clock) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := clockEvery
		if err := c.compare(ctx); err != nil {
			wait = clockRetry
			c.log.LogAttrs(ctx, slog.LevelInfo, "clocks not compared", slog.String("error", err.Error()))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (c *clock) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	skew, within, err := c.skew(ctx)
	if err != nil {
		return err
	}
	if skew.Abs() <= maxSkew+within {
		skew = 0
	}
	if before := c.off.Swap(int64(skew)); before == 0 && skew != 0 {
		c.log.LogAttrs(ctx, slog.LevelError, "this machine's clock differs from NATS's: the service is not ready",
			slog.Duration("ahead", skew), slog.Duration("at_most", maxSkew))
	}
	return nil
}
