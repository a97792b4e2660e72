package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// Released is the cause (context.Cause) with which the context of a request ends that was still open
// Config.OpenGrace after its session had left the server or had ended. The handler of a WebSocket closes
// it with CloseReleased; the client refreshes, and connects to the server that it is told of.
type Released struct {
	// Refusal is what the next request of the session is answered.
	Refusal *api.Error
}

// Error implements error.
func (r *Released) Error() string {
	return "the session is not served here any more: " + r.Refusal.Error()
}

// CloseReleased is the status with which a WebSocket is closed whose session has left the server: of the
// range for private use (RFC 6455 section 7.4.2), and like the HTTP status of the same case.
const CloseReleased = 4421

// admitted is the context of a request that Lock has let through: it has the token's claims, and it ends
// also once the session has left. What that takes is made for who waits for it, by asking for Done: most
// requests do not, and cost nothing.
type admitted struct {
	context.Context
	claims *api.AccessClaims
	// open is where who waits is known; nil: the session's leaving ends nothing.
	open *openRequests
	// wait is nil until somebody waits, and over when the request is.
	wait atomic.Pointer[waiting]
}

// waiting is a context that can be ended.
type waiting struct {
	context.Context
	end context.CancelCauseFunc
}

var over waiting

// within returns the context that can be ended, if there is one.
func (c *admitted) within() context.Context {
	if w := c.wait.Load(); w != nil && w != &over {
		return w.Context
	}
	return c.Context
}

// Value implements context.Context.
func (c *admitted) Value(key any) any {
	if _, ok := key.(claimsKey); ok {
		return c.claims
	}
	return c.within().Value(key)
}

// Err implements context.Context.
func (c *admitted) Err() error { return c.within().Err() }

// Done implements context.Context.
func (c *admitted) Done() <-chan struct{} {
	if c.open != nil && c.wait.Load() == nil {
		w := new(waiting)
		w.Context, w.end = context.WithCancelCause(c.Context)
		if c.wait.CompareAndSwap(nil, w) {
			c.open.add(c)
		} else {
			w.end(nil)
		}
	}
	return c.within().Done()
}

// done ends the wait of a request that is over.
func (c *admitted) done() {
	if w := c.wait.Swap(&over); w != nil {
		c.open.remove(c)
		w.end(nil)
	}
}

// openRequests are those in progress whose handlers wait for their end.
type openRequests struct {
	// mu guards left: since when the session of each has been refused here, zero while it is not.
	mu   sync.Mutex
	left map[*admitted]time.Time
}

func newOpenRequests() *openRequests { return &openRequests{left: map[*admitted]time.Time{}} }

func (o *openRequests) add(c *admitted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.wait.Load() != &over { // which it became meanwhile, and nobody would remove it
		o.left[c] = time.Time{}
	}
}

func (o *openRequests) remove(c *admitted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.left, c)
}

// end ends the requests whose sessions have been refused for so long, and returns how many.
func (o *openRequests) end(refusal func(*api.AccessClaims) *api.Error, grace time.Duration, now time.Time) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c, since := range o.left {
		switch why := refusal(c.claims); {
		case why == nil:
			o.left[c] = time.Time{} // it is back
		case since.IsZero():
			o.left[c] = now
		case now.Sub(since) >= grace:
			if w := c.wait.Load(); w != nil && w != &over {
				w.end(&Released{why})
				n++
			}
			delete(o.left, c)
		}
	}
	return n
}

// endReleased ends the requests of sessions that have left, until ctx ends.
func (a *Agent) endReleased(ctx context.Context) {
	tick := time.NewTicker(min(time.Second, a.cfg.OpenGrace/4+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			n := a.open.end(func(c *api.AccessClaims) *api.Error { return a.sessions.judge(c, a.cfg.Server) }, a.cfg.OpenGrace, now)
			a.metrics.ended.Add(float64(n))
		}
	}
}
