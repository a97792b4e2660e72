package server

import (
	"cmp"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// Limits bound the requests that Lock lets through, as rates a second in the whole region. Each server lets its part of them
// through, by its part of the region's capacity; more, by a second's worth, for a moment. The processes of a cell share one
// server's part: let each have its own part of the rates. 0: no limit.
type Limits struct {
	// Region is for all sessions together, Organization for those of each organization.
	Region, Organization float64
}

func (l Limits) validate() error {
	for _, r := range []float64{l.Region, l.Organization} {
		if !(r >= 0) || math.IsInf(r, 0) {
			return errors.New("limits: want rates a second of 0 (no limit) or more")
		}
	}
	return nil
}

// maxOrgLimits bounds the organizations whose requests are counted. Whoever is forgotten starts afresh.
const maxOrgLimits = 50_000

// limiters keep the limits.
type limiters struct {
	Limits
	region *limiter
	orgs   *otter.Cache[string, *limiter]
}

func newLimiters(l Limits) *limiters {
	return &limiters{l, newLimiter(l.Region), otter.Must(&otter.Options[string, *limiter]{MaximumSize: maxOrgLimits})}
}

// limiter is a token bucket whose rate follows the server's part.
type limiter struct {
	bucket *rate.Limiter
	// rate is what the bucket is set to, as bits: that is compared without its lock.
	rate atomic.Uint64
}

func newLimiter(perSecond float64) *limiter {
	l := &limiter{bucket: rate.NewLimiter(rate.Limit(perSecond), burst(perSecond))}
	l.rate.Store(math.Float64bits(perSecond))
	return l
}

// burst is how many requests may come at once: those of a second.
func burst(perSecond float64) int { return int(math.Ceil(min(1e9, max(1, perSecond)))) }

// take takes one request at a rate, or returns how long there is none for it.
func (l *limiter) take(perSecond float64, now time.Time) (wait time.Duration) {
	if bits := math.Float64bits(perSecond); l.rate.Swap(bits) != bits {
		l.bucket.SetLimitAt(now, rate.Limit(perSecond))
		l.bucket.SetBurstAt(now, burst(perSecond))
	}
	r := l.bucket.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// take returns why an organization's request is one too many for a server with this part of the region's
// capacity, nil if it is not. The organization's own limit comes first: who is above it must not use up the others'.
func (l *limiters) take(org string, part float64, now time.Time) *api.Error {
	if l.Organization > 0 && org != "" {
		perSecond := part * l.Organization
		of, _ := l.orgs.ComputeIfAbsent(org, func() (*limiter, bool) { return newLimiter(perSecond), false })
		if wait := of.take(perSecond, now); wait > 0 {
			return tooMany("too many requests of this organization", wait)
		}
	}
	if l.Region > 0 {
		if wait := l.region.take(part*l.Region, now); wait > 0 {
			return tooMany("too many requests in this region", wait)
		}
	}
	return nil
}

func tooMany(detail string, wait time.Duration) *api.Error {
	return &api.Error{Code: api.CodeRateLimited, Detail: detail, RetryAfter: int(min(60, max(1, math.Ceil(wait.Seconds()))))}
}

// part returns the server's part of the region's capacity: all of it while nothing is known of others.
func (a *Agent) part() float64 {
	own := float64(a.cfg.Capacity)
	v := a.View()
	if v == nil {
		return 1
	}
	i, ok := v.Region(a.cfg.Region)
	if !ok {
		return 1
	}
	others := v.Regions[i].Room
	if at, ok := v.Find(a.cfg.Server); ok && at.Region == i && v.Regions[i].State[at.Server] == events.StateUp {
		own = v.Regions[i].Capacity[at.Server]
		others -= own
	}
	return cmp.Or(own/(own+max(0, others)), 1)
}
