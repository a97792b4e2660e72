package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/berthhq/berth/tokens/api"
)

// When the region's token services count as out of order: of the last breakerOf requests breakerAt had no
// answer. For breakerPause nobody is asked then, so that clients are not kept waiting and those that come
// back are not overrun; one request after that says how it goes on.
const (
	breakerAt    = 8
	breakerOf    = 16
	breakerPause = time.Second
	// slow is how long an answer takes that counts as none, where a client would not wait for longer.
	slow = 2 * time.Second
)

// errBroken says that the token services were not asked.
var errBroken = errors.New("the region's token services have not answered of late")

// newBreaker returns what watches the token services.
func newBreaker(log *slog.Logger) circuitbreaker.CircuitBreaker[answer] {
	return circuitbreaker.NewBuilder[answer]().
		WithFailureThresholdRatio(breakerAt, breakerOf).WithDelay(breakerPause).
		OnOpen(func(e circuitbreaker.StateChangedEvent) {
			if e.OldState == circuitbreaker.ClosedState { // else they still do not
				log.LogAttrs(context.Background(), slog.LevelWarn, "token services do not answer; clients are told so at once")
			}
		}).
		OnClose(func(circuitbreaker.StateChangedEvent) {
			log.LogAttrs(context.Background(), slog.LevelInfo, "token services answer again")
		}).
		Build()
}

// judge tells the breaker of what became of a request.
func (a *Agent) judge(ctx context.Context, took time.Duration, err error) {
	switch {
	case err == nil:
		a.breaker.RecordSuccess()
	case ctx.Err() == nil, took >= slow, a.breaker.IsHalfOpen():
		a.breaker.RecordFailure()
	default: // the client had no patience: no fault of theirs
	}
}

// notAnswering is what clients are told while the token services do not answer.
func (a *Agent) notAnswering(cause error) *api.Error {
	refusal := unavailable("the region's token services do not answer", cause)
	if wait := a.breaker.RemainingDelay(); wait > 0 {
		refusal.RetryAfter = int(math.Ceil(wait.Seconds()))
	}
	return refusal
}
