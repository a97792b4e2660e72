package placement

import "math"

// Parameters of FNV-1a (64 bits) and SplitMix64, from their authors' definitions.
const (
	fnvOffset  = 14695981039346656037
	fnvPrime   = 1099511628211
	splitGamma = 0x9e3779b97f4a7c15
	splitMul1  = 0xbf58476d1ce4e5b9
	splitMul2  = 0x94d049bb133111eb
)

// Draw returns the number, uniform in [0, 1), that decides for a session at a generation.
// A decision can be made again from the two years later, so this function never changes:
// output number generation+1 of SplitMix64 seeded with the FNV-1a hash (64 bits) of the
// session's bytes, its upper 53 bits divided by 2^53.
func Draw(session string, generation uint64) float64 {
	return draw(hash(session), generation)
}

func draw(seed, generation uint64) float64 { return mix(seed + (generation+1)*splitGamma) }

// hash is FNV-1a (64 bits).
func hash(text string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * fnvPrime
	}
	return h
}

// jitterMS is the most that a client's own opinion of a region counts, in milliseconds.
const jitterMS = 6

// jitter returns what a session adds to the time to a region where prices are at work, so that
// not everybody of a place finds the same region cheaper at once. seed and region are the hashes
// of the session and of the region's name. It never changes.
func jitter(seed, region uint64) float64 { return jitterMS * mix((seed^region)+splitGamma) }

// mix is the output function of SplitMix64, as a number in [0, 1).
func mix(h uint64) float64 {
	h = (h ^ h>>30) * splitMul1
	h = (h ^ h>>27) * splitMul2
	h ^= h >> 31
	return float64(h>>11) / (1 << 53)
}

// Lot returns the number, uniform in [0, 1), that stands for a session in the weight of a
// region: the region takes the session from outside if a hundred times the number is below
// its weight. It is the same at every refresh, so that only what operators change moves
// anybody, and sessions that came at a low weight are among those of a higher one. It never
// changes either: output number 1 of SplitMix64 seeded with the FNV-1a hash of the session's
// bytes, a zero byte, and the region's.
func Lot(session, region string) float64 {
	h := hash(session)
	h *= fnvPrime // the zero byte
	for i := range len(region) {
		h = (h ^ uint64(region[i])) * fnvPrime
	}
	return mix(h + splitGamma)
}

// belowOne is the greatest draw.
const belowOne = 1 - 1.0/(1<<53)

// turn asks x, uniform in [0, 1), whether an event of probability p happens, and returns
// what of x is left to draw with: uniform again, whichever way it went. So one number
// decides both whether a session moves and where to.
func turn(x, p float64) (happens bool, rest float64) {
	if x < p {
		return true, math.Min(x/p, belowOne)
	}
	return false, math.Min((x-p)/(1-p), belowOne)
}

// again returns another uniform number, made of the lower bits of one that was used to pick
// one of a few.
func again(x float64) float64 {
	_, rest := math.Modf(x * (1 << 20))
	return rest
}

// pick returns the index of the interval of the running sums cum in which the share x of
// their total lies, -1 if the total is 0. An index whose weight is 0 is never picked.
func pick(cum []float64, x float64) int {
	return pickWithout(cum, -1, x)
}

// pickWithout is pick as if the weight at index skip were 0; skip -1 skips none.
func pickWithout(cum []float64, skip int, x float64) int {
	if len(cum) == 0 {
		return -1
	}
	total, before, skipped := cum[len(cum)-1], 0.0, 0.0
	if skip >= 0 {
		if skip > 0 {
			before = cum[skip-1]
		}
		skipped = cum[skip] - before
	}
	at := x * (total - skipped)
	if skip >= 0 && at >= before {
		at += skipped
	}
	low, high := 0, len(cum)
	for low < high {
		if mid := int(uint(low+high) >> 1); cum[mid] > at {
			high = mid
		} else {
			low = mid + 1
		}
	}
	// Rounding may end on the skipped index or past the last weight: step to one that counts.
	for i := min(low, len(cum)-1); i >= 0; i-- {
		if i != skip && weight(cum, i) > 0 {
			return i
		}
	}
	for i := low + 1; i < len(cum); i++ {
		if i != skip && weight(cum, i) > 0 {
			return i
		}
	}
	return -1
}

// weight returns the weight at index i of the running sums.
func weight(cum []float64, i int) float64 {
	if i == 0 {
		return cum[0]
	}
	return cum[i] - cum[i-1]
}
