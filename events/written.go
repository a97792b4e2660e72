package events

import (
	"maps"
	"slices"

	"github.com/berthhq/berth/events/wire"
)

// written is an event that is published for every refresh: it is written as encoding/json would,
// without reflection.
type written interface {
	write(w *wire.Writer)
}

var (
	_ written = (*Session)(nil)
	_ written = (*Decision)(nil)
)

// writtenRoom is enough for most of them.
const writtenRoom = 1 << 9

func (s *Session) write(w *wire.Writer) {
	w.Open()
	w.Int("version", int64(s.Version))
	w.String("region", s.Region)
	w.Time("at", s.At)
	w.String("session", s.Session)
	w.String("kind", s.Kind)
	s.Epoch.write(w)
	w.Uint("generation", s.Generation)
	w.String("server", s.Server)
	w.Filled("reason", s.Reason)
	w.Filled("subject", s.Sub)
	w.Filled("org", s.Org)
	w.String("jurisdiction", s.Jurisdiction)
	w.Filled("by", s.By)
	w.Close()
}

// write writes an epoch as the field of that name.
func (e Epoch) write(w *wire.Writer) {
	w.Object("epoch")
	w.Uint("number", e.Number)
	w.String("region", e.Region)
	w.Close()
}

func (d *Decision) write(w *wire.Writer) {
	w.Open()
	w.Int("version", int64(d.Version))
	w.String("region", d.Region)
	w.Time("at", d.At)
	w.String("session", d.Session)
	w.Uint("generation", d.Generation)
	d.Epoch.write(w)
	w.String("verdict", d.Verdict)
	w.String("reason", d.Reason)
	w.String("policy", d.Policy)
	w.Filled("variant", d.Variant)
	if d.Limits != nil {
		d.Limits.write(w)
	}
	w.Filled("from", d.From)
	w.Filled("to", d.To)
	if d.Decided != nil {
		w.Object("decided")
		w.String("verdict", d.Decided.Verdict)
		w.String("reason", d.Decided.Reason)
		w.Filled("to", d.Decided.To)
		w.Close()
	}
	d.Facts.write(w)
	if d.View == nil {
		w.Any("view", nil)
	} else {
		w.Object("view")
		for _, region := range slices.Sorted(maps.Keys(d.View)) {
			w.Entry(region, d.View[region])
		}
		w.Close()
	}
	w.Filled("instance", d.Instance)
	if d.Sight != 0 {
		w.Uint("sight", d.Sight)
	}
	if len(d.Prices) > 0 {
		w.Any("prices", d.Prices)
	}
	if len(d.Added) > 0 {
		w.Any("added", d.Added)
	}
	w.Float("draw", d.Draw)
	if d.Sampled != 0 {
		w.Int("sampled", int64(d.Sampled))
	}
	w.Close()
}

func (l *Limits) write(w *wire.Writer) {
	w.Object("limits")
	w.Filled("critical_bound", l.CriticalBound)
	w.Filled("cooldown", l.Cooldown)
	w.Filled("return_after", l.ReturnAfter)
	w.Filled("drain_deadline", l.DrainDeadline)
	w.Filled("refresh_interval", l.RefreshInterval)
	if l.MaxRTTMs != 0 {
		w.Float("max_rtt_ms", l.MaxRTTMs)
	}
	w.Close()
}

func (f *Facts) write(w *wire.Writer) {
	w.Object("facts")
	w.String("arrived", f.Arrived)
	w.Filled("closest_server", f.ClosestServer)
	w.Bool("critical", f.Critical)
	if f.CriticalSince != nil {
		w.Time("critical_since", *f.CriticalSince)
	}
	if f.MovedAt != nil {
		w.Time("moved_at", *f.MovedAt)
	}
	if f.Location != nil {
		w.Object("location")
		w.Float("lat", f.Location.Lat)
		w.Float("lon", f.Location.Lon)
		w.Close()
	}
	if len(f.RTTMs) > 0 {
		w.Any("rtt_ms", f.RTTMs)
	}
	if len(f.Allowed) > 0 {
		w.Any("allowed", f.Allowed)
	}
	w.Filled("home", f.Home)
	w.True("dead", f.Dead)
	w.True("unreachable", f.Unreachable)
	w.True("stale", f.Stale)
	w.Close()
}
