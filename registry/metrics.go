package registry

import "github.com/prometheus/client_golang/prometheus"

// metrics are the registry's counters. No label holds an id.
type metrics struct {
	skipped *prometheus.CounterVec
	changes *prometheus.CounterVec
	probes  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_registry_skipped_total", Help: "Messages that changed nothing, by reason.",
		}, []string{"reason"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_registry_changes_total", Help: "Changes of servers' states, by the new state.",
		}, []string{"state"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_registry_probes_total", Help: "Health probes of silent servers, by outcome.",
		}, []string{"outcome"}),
	}
	if reg != nil {
		reg.MustRegister(m.skipped, m.changes, m.probes)
	}
	return m
}
