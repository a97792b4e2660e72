package tokens

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
)

// maxMeasuredMS bounds the times in milliseconds that a client is believed to have measured.
const maxMeasuredMS = 60_000

func rtts(ms map[string]float64) []placement.RTT {
	list := make([]placement.RTT, 0, len(ms))
	for id, v := range ms {
		if v > 0 && v < maxMeasuredMS && len(id) <= events.MaxToken { // no server has a longer name
			list = append(list, placement.RTT{ServerID: id, MS: v})
		}
	}
	return list
}

// told returns the times that the client tells with this refresh, for the record; nil if it tells none.
func (r *redemption) told() *sessions.Measured {
	if len(r.req.RTTMs) == 0 {
		return nil
	}
	least := map[string]float64{}
	for _, m := range rtts(r.req.RTTMs) {
		if at, ok := r.view.Find(m.ServerID); ok {
			region := r.view.RegionName(at)
			if before, known := least[region]; !known || m.MS < before {
				least[region] = m.MS
			}
		}
	}
	if len(least) == 0 {
		return nil
	}
	m := sessions.Measured{Told: r.now.UTC(), Regions: make([]sessions.RegionTime, 0, len(least))}
	for region, ms := range least {
		m.Regions = append(m.Regions, sessions.RegionTime{Region: region, MS: max(0.1, math.Round(ms*10)/10)})
	}
	slices.SortFunc(m.Regions, func(a, b sessions.RegionTime) int {
		return cmp.Or(cmp.Compare(a.MS, b.MS), cmp.Compare(a.Region, b.Region))
	})
	m.Regions = m.Regions[:min(len(m.Regions), sessions.MaxMeasured)]
	return &m
}

// measured returns the times to go by: those that the client tells, else those that its record remembers. A client that
// calls a server closest of whose region it has no time is somewhere else than it was when it measured.
func (r *redemption) measured(rec *sessions.Record) []placement.RTT {
	if list := rtts(r.req.RTTMs); len(list) > 0 || rec.Measured == nil {
		return list
	}
	if at, ok := r.view.Find(r.req.ClosestServerID); ok && !slices.ContainsFunc(rec.Measured.Regions, func(t sessions.RegionTime) bool {
		return t.Region == r.view.RegionName(at)
	}) {
		return nil
	}
	list := make([]placement.RTT, 0, len(rec.Measured.Regions))
	for _, t := range rec.Measured.Regions {
		if i, ok := r.view.Region(t.Region); ok && len(r.view.Regions[i].ID) > 0 { // any server stands for its region
			list = append(list, placement.RTT{ServerID: r.view.Regions[i].ID[0], MS: t.MS})
		}
	}
	return list
}

// recordRead bounds the look for the times of a client that only asks for the closest server.
const recordRead = 500 * time.Millisecond

// measuredBy returns the times that a client has measured who shows its access token; nil where that is not of a session of
// this region: then it is elsewhere than it was when it measured.
func (s *Service) measuredBy(ctx context.Context, r *http.Request) *sessions.Measured {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil
	}
	now := time.Now()
	claims, err := s.verify.Access(token, now)
	if err != nil {
		return nil
	}
	o, err := s.rules(claims.Org)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recordRead)
	defer cancel()
	rec, _, err := s.cfg.Store.Get(ctx, sessions.Key{Jurisdiction: o.Jurisdiction, Session: claims.SessionID})
	if err != nil {
		return nil
	}
	return rec.Measured.At(now)
}
