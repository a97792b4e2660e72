package idempotency

import "github.com/prometheus/client_golang/prometheus"

// metrics are the guard's metrics.
type metrics struct{ requests *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_idempotency_requests_total",
		Help: "Guarded requests, by what became of them: done, lost, void or unwritten (executed), replayed, without_key, or the code of the refusal.",
	}, []string{"outcome"})}
	if reg != nil {
		reg.MustRegister(m.requests)
	}
	return m
}
