package placement

import (
	"math"
	"time"
)

// When prices are found anew: each solveEvery, and at once when what the regions can take
// together has changed by more than roomStep of it since, for then many are to be placed at once
// by prices that are of another fleet.
const (
	solveEvery = 10 * time.Second
	roomStep   = 0.01
)

// PriceTimes says when prices are to be found anew. The zero one says: now. It is not for
// concurrent use.
type PriceTimes struct {
	last time.Time
	room float64
}

// Due reports whether prices are to be found anew by a view at now, and takes them as found if so.
func (p *PriceTimes) Due(v *View, now time.Time) bool {
	room := 0.0
	for i := range v.Regions {
		room += v.Regions[i].Room
	}
	if now.Sub(p.last) < solveEvery && math.Abs(room-p.room) <= roomStep*p.room {
		return false
	}
	p.last, p.room = now, room
	return true
}
