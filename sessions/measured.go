package sessions

import (
	"time"

	"github.com/berthhq/berth/events/wire"
)

// MeasuredFor is how long the times count that a client has measured.
const MeasuredFor = 24 * time.Hour

// MaxMeasured is how many regions' times are remembered of a session: the least.
const MaxMeasured = 8

// Measured are the round-trip times that a client told last. Those that come after replace all of them, for the client
// may be elsewhere by then. It is never changed.
type Measured struct {
	Told time.Time `json:"told"`
	// Regions are the least of each region, the least first.
	Regions []RegionTime `json:"regions"`
}

// RegionTime is the round-trip time to a region in milliseconds.
type RegionTime struct {
	Region string  `json:"region"`
	MS     float64 `json:"ms"`
}

// At returns the times if they count at now, else nil.
func (m *Measured) At(now time.Time) *Measured {
	if m == nil || now.Sub(m.Told) >= MeasuredFor {
		return nil
	}
	return m
}

func (m *Measured) write(w *wire.Writer) {
	w.Object("measured")
	w.Time("told", m.Told)
	wire.Objects(w, "regions", m.Regions, func(w *wire.Writer, t *RegionTime) {
		w.String("region", t.Region)
		w.Float("ms", t.MS)
	})
	w.Close()
}

func (d *decoder) measured() *Measured {
	m := new(Measured)
	d.Object(func(key []byte) int {
		switch string(key) {
		case "told":
			m.Told = d.Time()
			return 0
		case "regions":
			m.Regions = d.regionTimes()
			return 1
		default:
			return wire.Unknown
		}
	})
	return m
}

func (d *decoder) regionTimes() []RegionTime {
	list := []RegionTime{}
	d.List()
	for first := true; d.OK() && d.Item(first); first = false {
		var t RegionTime
		d.Object(func(key []byte) int {
			switch string(key) {
			case "region":
				t.Region = d.string()
				return 0
			case "ms":
				t.MS = d.Float()
				return 1
			default:
				return wire.Unknown
			}
		})
		list = append(list, t)
	}
	return list
}
