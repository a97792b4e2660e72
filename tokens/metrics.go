package tokens

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// metrics are the service's counters. No label holds an id.
type metrics struct {
	decisions     *prometheus.CounterVec
	refreshes     *prometheus.CounterVec
	rotations     prometheus.Counter // those of refreshes that are most
	refusals      *prometheus.CounterVec
	strict        *prometheus.CounterVec
	lostEvents    prometheus.Counter
	skippedEvents prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_decisions_total", Help: "Placements by verdict and reason.",
		}, []string{"verdict", "reason"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_refreshes_total", Help: "Refresh tokens judged, by verdict.",
		}, []string{"verdict"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_refresh_refusals_total", Help: "Refreshes that ended in an error, by code.",
		}, []string{"code"}),
		strict: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_strict_refusals_total", Help: "Requests of strict organizations that were not served so that no two regions do, by what was missing.",
		}, []string{"reason"}),
		lostEvents: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_token_events_lost_total", Help: "Events that could not be published.",
		}),
		skippedEvents: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_token_events_skipped_total", Help: "Messages that were malformed or unknown.",
		}),
	}
	m.rotations = m.refreshes.WithLabelValues(string(sessions.Rotate))
	if reg != nil {
		reg.MustRegister(m.decisions, m.refreshes, m.refusals, m.strict, m.lostEvents, m.skippedEvents)
	}
	return m
}

func (m *metrics) decided(d placement.Decision) {
	m.decisions.WithLabelValues(string(d.Verdict), string(d.Reason)).Inc()
}

func (m *metrics) refreshed(v sessions.Verdict) {
	if v == sessions.Rotate {
		m.rotations.Inc()
		return
	}
	m.refreshes.WithLabelValues(string(v)).Inc()
}

func (m *metrics) refused(code api.Code) { m.refusals.WithLabelValues(string(code)).Inc() }

// keys registers what is measured of the region's keys when it is asked for.
func (m *metrics) keys(reg prometheus.Registerer, p *publicKeys) {
	if reg == nil {
		return
	}
	gauge := func(name, help string, value func(now time.Time) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(time.Now()) }))
	}
	gauge("berth_signing_key_age_seconds", "Time since the region's signing key began to sign; -1 while none signs.", func(now time.Time) float64 {
		line := p.own()
		kid := line.signing(now)
		if kid == "" {
			return -1
		}
		return now.Sub(line[kid].Signs).Seconds()
	})
	gauge("berth_key_rotation_waiting_seconds", "Time for which a rotation has waited for those who do not know the new key; 0: none waits.", func(now time.Time) float64 {
		if wait := p.waiting.Load(); wait != nil {
			return max(0, now.Sub(wait.Since).Seconds())
		}
		return 0
	})
	gauge("berth_key_rotation_missing", "Regions and token services that the rotation waits for.", func(time.Time) float64 {
		if wait := p.waiting.Load(); wait != nil {
			return float64(len(wait.Regions) + len(wait.Services))
		}
		return 0
	})
}
