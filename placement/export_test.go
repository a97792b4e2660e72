package placement

import "reflect"

// Turn is turn, for tests of the draw.
func Turn(x, p float64) (bool, float64) { return turn(x, p) }

// PickWithout is pickWithout, for tests of the draw.
func PickWithout(cum []float64, skip int, x float64) int { return pickWithout(cum, skip, x) }

// Jitter is jitter, by names.
func Jitter(session, region string) float64 { return jitter(hash(session), hash(region)) }

// Share returns the probability that a new session drawn for the region gets the server at
// an index.
func (r *Region) Share(i int) float64 {
	total := r.fresh[len(r.fresh)-1]
	if total == 0 {
		return 0
	}
	return weight(r.fresh, i) / total
}

// The parameters of the line, for the test that fits it again.
const (
	Slope       = slope
	Offset      = offset
	EarthRadius = earthRadius
)

// Everything exports all unexported fields of a View to go-cmp.
func Everything(t reflect.Type) bool { return t.PkgPath() == reflect.TypeFor[View]().PkgPath() }
