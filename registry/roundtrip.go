package registry

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// How round-trip times to other regions are measured: each region is asked a question that takes
// it no time, and the least of the last answers counts, for what is above it was spent waiting.
const (
	rttEvery = 10 * time.Second
	// rttFirst is when that begins: regions are known by then.
	rttFirst   = 2 * time.Second
	rttTimeout = 2 * time.Second
	rttSamples = 6
	// rttAtOnce bounds the regions that are asked at once.
	rttAtOnce = 8
)

// RTTMeasured is a round-trip time to a region.
type RTTMeasured struct {
	Region string
	RTT    time.Duration
}

func (RTTMeasured) event() {}

// roundTrips are the last round-trip times to a region, the oldest first.
type roundTrips []time.Duration

// add keeps a time.
func (r *roundTrips) add(d time.Duration) {
	if len(*r) == rttSamples {
		*r = slices.Delete(*r, 0, 1)
	}
	*r = append(*r, d)
}

// ms returns the time to a region in milliseconds, to a hundredth; false if none was measured.
func (r roundTrips) ms() (float64, bool) {
	if len(r) == 0 {
		return 0, false
	}
	return math.Round(float64(slices.Min(r))/float64(time.Millisecond)*100) / 100, true
}

// measured folds a round-trip time.
func (t *Table) measured(e RTTMeasured) {
	if o, ok := t.others[e.Region]; ok && e.RTT >= 0 {
		o.trips.add(e.RTT)
	}
}

// RTTs returns the round-trip time to each other region that answers, in milliseconds. nil: none does.
func (t *Table) RTTs() map[string]float64 {
	var rtts map[string]float64
	for name, o := range t.others {
		if ms, ok := o.trips.ms(); ok && !o.unreachable {
			if rtts == nil {
				rtts = make(map[string]float64, len(t.others))
			}
			rtts[name] = ms
		}
	}
	return rtts
}

// measure measures the times to other regions, again and again, until ctx ends.
func (r *Registry) measure(ctx context.Context) {
	for pause := rttFirst; sleep(ctx, pause); pause = rttEvery {
		if r.cfg.Caller == nil {
			return
		}
		sees := r.sees.Load()
		if sees == nil {
			continue
		}
		var g errgroup.Group
		g.SetLimit(rttAtOnce)
		for region, age := range sees.ageMS {
			if time.Duration(age)*time.Millisecond < r.cfg.Detection.withDefaults().Unreachable {
				g.Go(func() error { r.measureOne(ctx, region); return nil })
			}
		}
		_ = g.Wait() // it has no error
	}
}

// measureOne measures the time to one region.
func (r *Registry) measureOne(ctx context.Context, region string) {
	ctx, cancel := context.WithTimeout(ctx, rttTimeout)
	defer cancel()
	began := time.Now()
	data, err := r.call(ctx, region, MethodPing, struct{}{})
	took := time.Since(began)
	var reply PingReply
	if err != nil || json.Unmarshal(data, &reply) != nil || reply.Region != region {
		return
	}
	r.metrics.rtt.WithLabelValues(region).Set(took.Seconds())
	r.inbox.learned(RTTMeasured{Region: region, RTT: took})
}
