package registry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
)

// metrics are the registry's own. No label holds an id.
type metrics struct {
	heartbeats prometheus.Counter
	reports    prometheus.Counter
	skipped    *prometheus.CounterVec
	complaints *prometheus.CounterVec
	changes    *prometheus.CounterVec
	regions    *prometheus.CounterVec
	servers    *prometheus.GaugeVec
	probes     *prometheus.CounterVec
	hints      *prometheus.CounterVec
	scouted    *prometheus.CounterVec
	witnessed  *prometheus.CounterVec
	asked      *prometheus.CounterVec
	others     *prometheus.GaugeVec
	rtt        *prometheus.GaugeVec
	writes     *prometheus.CounterVec
	updates    *prometheus.CounterVec
	gaps       *prometheus.CounterVec
	lost       prometheus.Counter
	terms      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_registry_" + name, Help: help}, []string{label})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "berth_registry_" + name, Help: help})
	}
	m := &metrics{
		heartbeats: counter("heartbeats_total", "Heartbeats of the own region that were read, skipped ones included."),
		reports:    counter("load_reports_total", "Reports of load by central telemetry that were read, skipped ones included."),
		skipped:    counters("skipped_total", "Messages, or parts of them, that changed nothing, by reason.", "reason"),
		complaints: counters("complaints_total", "Heartbeats and reports of load that were skipped or are doubtful, and of which operators are told by events, by reason.", "reason"),
		changes:    counters("changes_total", "Changes of servers' states, by the new state.", "state"),
		regions:    counters("region_changes_total", "Changes of regions, and protections of the own one, by the new state.", "state"),
		servers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_registry_servers", Help: "Servers of the own region, by state.",
		}, []string{"state"}),
		probes:    counters("probes_total", "Health probes of silent servers, by outcome.", "outcome"),
		hints:     counters("hints_total", "Signs ahead of silence that a server may have died: disconnected (NATS) or reported (clients).", "kind"),
		scouted:   counters("remote_probes_total", "Health probes of other regions' servers, on request of their registry or because the region is out of reach, by outcome.", "outcome"),
		witnessed: counters("witnesses_total", "Answers of other regions about servers that fail their probes here: good (it answers there), failed, none (the region said nothing, or too many were asked about at once).", "outcome"),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_registry_asked_total", Help: "Questions to other regions' registries, by method and outcome.",
		}, []string{"method", "outcome"}),
		others: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_registry_regions", Help: "Other regions as they count here, by state: up, unreachable, down.",
		}, []string{"state"}),
		rtt: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_registry_region_rtt_seconds", Help: "Round-trip time over NATS to another region's registry, as measured last.",
		}, []string{"region"}),
		writes:  counters("writes_total", "Writes of values of berth_servers, by outcome.", "outcome"),
		updates: counters("view_updates_total", "View updates of the own region, by outcome.", "outcome"),
		gaps:    counters("gaps_total", "Times that messages were missed: heartbeats and view updates by a lost or slow connection (own), or a view update of another region (update).", "source"),
		lost:    counter("events_lost_total", "Events about servers and regions that could not be published."),
		terms:   counter("terms_total", "Times that this registry began to lead."),
	}
	if reg != nil {
		reg.MustRegister(m.heartbeats, m.reports, m.skipped, m.complaints, m.changes, m.regions, m.servers, m.probes, m.hints,
			m.scouted, m.witnessed, m.asked, m.others, m.rtt, m.writes, m.updates, m.gaps, m.lost, m.terms)
	}
	return m
}

// leadership registers whether the registry leads, as of the moment of asking.
func leadership(reg prometheus.Registerer, leads func() bool) {
	if reg == nil {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_registry_leads", Help: "1 where this registry holds the lease of its region and writes, 0 where it stands by.",
	}, func() float64 {
		if leads() {
			return 1
		}
		return 0
	}))
}

// count sets how many servers of a region are in each state.
func (m *metrics) count(region string, servers []*events.Server) {
	counts := map[events.State]int{}
	for i := range servers {
		if servers[i].Region == region {
			counts[servers[i].State]++
		}
	}
	for _, state := range []events.State{events.StateUp, events.StateSuspect, events.StateDown, events.StateDraining, events.StateLeft} {
		m.servers.WithLabelValues(string(state)).Set(float64(counts[state]))
	}
}
