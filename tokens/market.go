package tokens

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
)

// Times of a market: each lookEvery it sees whether prices are to be found anew, by what regions
// have said within wordLife.
const (
	lookEvery = 200 * time.Millisecond
	wordLife  = 30 * time.Second
)

// market finds the prices of regions from what all of them say of their demand and of the times
// between them. Each token service does so for itself: they hear the same.
type market struct {
	log     *slog.Logger
	outlook *outlook
	// reserve is the share of what is left without the largest region.
	reserve atomic.Uint64

	// mu guards the fields below: what each region said last, and whether operators were told that
	// there is too little in reserve.
	mu     sync.Mutex
	words  map[string]regionWord
	warned bool
}

// regionWord is what a region says of itself.
type regionWord struct {
	at     time.Time
	demand placement.Demand
	rtts   map[string]float64
}

func newMarket(c *Config, o *outlook) *market {
	m := &market{log: c.Log, outlook: o, words: map[string]regionWord{}}
	if c.Metrics != nil {
		c.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_capacity_without_largest_region_ratio",
			Help: "Load of all regions as a share of what they could bear without the largest of them. Above 0.85 its loss would overrun the others.",
		}, func() float64 { return math.Float64frombits(m.reserve.Load()) }), priceGauge{o})
	}
	return m
}

// hear notes what a region says.
func (m *market) hear(u events.ViewHead, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.words[u.Region]; known || len(m.words) < maxSeen {
		m.words[u.Region] = regionWord{now, u.Demand, u.RTTMs}
	}
}

// solve finds the prices by the view as it is.
func (m *market) solve(ctx context.Context, base *registry.View, now time.Time) {
	demand, times := m.heard(now)
	found := base.Market(demand, times)
	found.Last = m.outlook.prices()
	m.outlook.price(found.Solve(), times)
	m.watch(ctx, base)
}

// heard returns the demand of all regions, and the times between them.
func (m *market) heard(now time.Time) (placement.Demand, placement.Times) {
	m.mu.Lock()
	defer m.mu.Unlock()
	demand, rtts := placement.Demand{}, map[string]map[string]float64{}
	for region, w := range m.words {
		if now.Sub(w.at) >= wordLife {
			continue
		}
		if demand.Add(w.demand); len(w.rtts) > 0 {
			rtts[region] = w.rtts
		}
	}
	if len(rtts) == 0 {
		return demand, nil
	}
	return demand, func(from, to string) (float64, bool) {
		if ms, ok := rtts[from][to]; ok {
			return ms, true
		}
		ms, ok := rtts[to][from]
		return ms, ok
	}
}

// watch tells operators when the loss of the largest region could not be borne, and when it could
// again. One region alone has nothing in reserve, and everybody knows.
func (m *market) watch(ctx context.Context, base *registry.View) {
	share, largest := base.Reserve()
	m.reserve.Store(math.Float64bits(share))
	m.mu.Lock()
	defer m.mu.Unlock()
	short := share > placement.SafeReserve && len(base.Regions) > 1
	switch {
	case short && !m.warned:
		m.log.LogAttrs(ctx, slog.LevelWarn, "the loss of the largest region could not be borne by the others: add servers elsewhere",
			slog.String("region", largest), slog.Float64("share", share), slog.Float64("safe_share", placement.SafeReserve))
	case !short && m.warned:
		m.log.LogAttrs(ctx, slog.LevelInfo, "the loss of the largest region could be borne again",
			slog.String("region", largest), slog.Float64("share", share))
	}
	m.warned = short
}

// findPrices keeps the prices until ctx ends.
func (s *Service) findPrices(ctx context.Context) {
	var times placement.PriceTimes
	every(ctx, lookEvery, func(now time.Time) {
		if view := s.cfg.View(); view != nil && times.Due(&view.View, now) {
			s.market.solve(ctx, view, now)
		}
	})
}

// every calls fn again and again until ctx ends.
func every(ctx context.Context, pause time.Duration, fn func(now time.Time)) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			fn(now)
		}
	}
}

// priceGauge is the metric of the prices in force.
type priceGauge struct{ outlook *outlook }

// Describe implements prometheus.Collector.
func (g priceGauge) Describe(to chan<- *prometheus.Desc) { to <- g.desc() }

func (priceGauge) desc() *prometheus.Desc {
	return prometheus.NewDesc("berth_region_price_seconds",
		"What a session pays for being in a region, as time: 0 unless more want to be there than can.", []string{"region"}, nil)
}

// Collect implements prometheus.Collector.
func (g priceGauge) Collect(to chan<- prometheus.Metric) {
	for region, ms := range g.outlook.prices() {
		to <- prometheus.MustNewConstMetric(g.desc(), prometheus.GaugeValue, ms/1000, region)
	}
}
