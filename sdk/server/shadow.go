package server

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthhq/berth/tokens/api"
)

// shadow tells of a request that is served though the lock would refuse it.
func (a *Agent) shadow(r *http.Request, refusal *api.Error) {
	a.metrics.shadowed.WithLabelValues(string(refusal.Code)).Inc()
	if more, ok := a.shadowed.due(time.Now()); ok {
		a.log.LogAttrs(r.Context(), slog.LevelWarn, "request is served that would be refused",
			slog.String("code", string(refusal.Code)), slog.String("detail", refusal.Detail),
			slog.String("method", r.Method), slog.String("route", r.Pattern), slog.Int("more", more))
	}
}

// How many complaints of a kind are logged: one a second, complaintBurst at once.
const complaintBurst = 10

// complaint bounds how often something is logged.
type complaint struct {
	limit *rate.Limiter
	// mu guards more: how many were not logged since the last one that was.
	mu   sync.Mutex
	more int
}

// due reports whether to log it at now, and how many went unlogged before.
func (c *complaint) due(now time.Time) (more int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limit.AllowN(now, 1) {
		c.more++
		return 0, false
	}
	more, c.more = c.more, 0
	return more, true
}
