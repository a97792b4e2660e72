package tokens

import (
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// Limits of logins by password: a burst, then one every loginEvery, for each user and for
// each address. An address may be an office, so it gets ten times a user's share.
const (
	loginEvery      = 2 * time.Second
	loginBurst      = 10
	addressShare    = 10
	loginRetryAfter = 2 // s
	maxLoginLimits  = 50_000
)

// loginLimit slows down those who guess passwords. Its memory is bounded; whoever is
// forgotten starts afresh.
type loginLimit struct {
	limiters *otter.Cache[string, *rate.Limiter]
}

func newLoginLimit() *loginLimit {
	return &loginLimit{limiters: otter.Must(&otter.Options[string, *rate.Limiter]{MaximumSize: maxLoginLimits})}
}

func (l *loginLimit) allow(user, address string) bool {
	// The address first: who is over its share must not use up a user's.
	return l.take("address "+address, addressShare) && l.take("user "+user, 1)
}

func (l *loginLimit) take(key string, share int) bool {
	limiter, _ := l.limiters.ComputeIfAbsent(key, func() (*rate.Limiter, bool) {
		return rate.NewLimiter(rate.Every(loginEvery/time.Duration(share)), loginBurst*share), false
	})
	return limiter.Allow()
}
