package server

import "github.com/prometheus/client_golang/prometheus"

// metrics are the agent's own. No label holds an id.
type metrics struct {
	refused    *prometheus.CounterVec
	shadowed   *prometheus.CounterVec
	ended      prometheus.Counter
	verified   prometheus.Counter
	skipped    prometheus.Counter
	heartbeats *prometheus.CounterVec
	passed     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, known *sessionTable) *metrics {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_server_refused_total", Help: "Requests that the lock refused, by code.",
		}, []string{"code"}),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_server_shadowed_total", Help: "Requests that were served though the lock would refuse them, for it is not enforced, by code.",
		}, []string{"code"}),
		ended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_server_released_requests_total", Help: "Requests that were ended because they went on long after their session had left.",
		}),
		verified: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_server_verified_total", Help: "Access tokens whose signature was checked, for the cache did not hold them.",
		}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_server_events_skipped_total", Help: "Messages that were malformed or unknown.",
		}),
		heartbeats: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_server_heartbeats_total", Help: "Heartbeats, by whether the connection took them.",
		}, []string{"outcome"}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_server_token_requests_total", Help: "Requests passed on to token services, by method and by whether they were answered.",
		}, []string{"method", "outcome"}),
	}
	if reg != nil {
		evicted := prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "berth_server_floors_evicted_total", Help: "Released locks and revocations that were forgotten early, for there were too many.",
		}, func() float64 { return float64(known.evicted.Load()) })
		reg.MustRegister(evicted, m.refused, m.shadowed, m.ended, m.verified, m.skipped, m.heartbeats, m.passed)
	}
	return m
}
