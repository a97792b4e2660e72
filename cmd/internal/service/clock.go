package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Bounds of a clock that is compared with NATS's. Two services of a region answer for the
// same sessions, and a token that one minted is old by the other's clock: were they as far
// apart as the 30 s within which an answer is repeated, they would take honest clients for
// thieves.
//
// A clock drifts slowly: comparing it each clockEvery is enough. It jumps at once, when somebody
// or NTP sets it: each clockLook it is seen whether it went as the monotonic clock did, to within
// maxJump, and compared if not, and as long as it is off. The first looks come sooner, for a service
// waits for the first comparison.
const (
	maxSkew      = 5 * time.Second
	maxJump      = time.Second
	clockEvery   = 30 * time.Second
	clockLook    = time.Second
	clockSoon    = 100 * time.Millisecond
	clockTimeout = 2 * time.Second
)

// clock watches this machine's clock.
type clock struct {
	// skew is jetstream.Conn.Skew.
	skew func(ctx context.Context) (skew, within time.Duration, err error)
	// wall is the time as this machine has it. nil: time.Now.
	wall func() time.Time
	log  *slog.Logger
	// compared says that the clock was compared once. off is how far the clock is off, if that is too far; 0: it is not.
	compared atomic.Bool
	off      atomic.Int64
}

var errNotCompared = errors.New("the clock has not been compared with NATS's yet")

// ready returns nil while the clock can be trusted.
func (c *clock) ready() error {
	if !c.compared.Load() {
		return errNotCompared
	}
	if off := time.Duration(c.off.Load()); off != 0 {
		where := "ahead of"
		if off < 0 {
			where = "behind"
		}
		return fmt.Errorf("this machine's clock is %s %s NATS's, at most %s is safe: logins and refreshes are refused until NTP has put it right",
			off.Abs().Round(time.Millisecond), where, maxSkew)
	}
	return nil
}

// run compares until ctx ends. While NATS cannot be asked, the last word counts; before the first the
// clock is not trusted.
func (c *clock) run(ctx context.Context) {
	if c.wall == nil {
		c.wall = time.Now
	}
	var compared, seen time.Time // by the monotonic clock
	var showed time.Time         // by the other, at seen
	for pause := clockSoon; ctx.Err() == nil; pause = min(2*pause, clockLook) {
		now, wall := time.Now(), c.wall().Round(0)
		jump := wall.Sub(showed) - now.Sub(seen)
		seen, showed = now, wall
		if jump.Abs() > maxJump || c.ready() != nil || now.Sub(compared) >= clockEvery {
			compared = now
			if err := c.compare(ctx); err != nil {
				compared = time.Time{} // at the next look again
				c.log.LogAttrs(ctx, slog.LevelInfo, "clocks not compared", slog.String("error", err.Error()))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
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
	} else if before != 0 && skew == 0 {
		c.log.LogAttrs(ctx, slog.LevelInfo, "this machine's clock agrees with NATS's again")
	}
	c.compared.Store(true)
	return nil
}
