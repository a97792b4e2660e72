package tokens

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthhq/berth/placement"
)

// stayRate is how many decisions to stay are published each second. Beyond it one stands for
// several, and says so: they are all alike, and the stream that keeps them is bounded.
const stayRate = 200

// sampler bounds the flow of decision events. Moves always pass.
type sampler struct {
	limiter *rate.Limiter

	// mu guards held: the decisions kept back since the last that passed.
	mu   sync.Mutex
	held int
}

func newSampler() *sampler { return &sampler{limiter: rate.NewLimiter(stayRate, stayRate)} }

// take reports whether a decision is published, and for how many it stands: 0 for itself
// alone.
func (s *sampler) take(v placement.Verdict, now time.Time) (sampled int, ok bool) {
	if v != placement.VerdictStay {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.limiter.AllowN(now, 1) {
		s.held++
		return 0, false
	}
	if s.held > 0 {
		sampled, s.held = s.held+1, 0
	}
	return sampled, true
}
