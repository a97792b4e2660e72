package tokens

import (
	"testing"
	"time"

	"github.com/berthhq/berth/placement"
)

// TestSampler takes 1000 decisions to stay and 10 to move within one moment, and 1000 more
// a second later: what passes stands for all.
func TestSampler(t *testing.T) {
	s := newSampler()
	now := time.Unix(1_000_000, 0)
	passed, stood := 0, 0
	take := func(v placement.Verdict, at time.Time) bool {
		sampled, ok := s.take(v, at)
		if ok {
			passed++
			stood += max(1, sampled)
		}
		return ok
	}
	for range 1000 {
		take(placement.VerdictStay, now)
	}
	for range 10 {
		if !take(placement.VerdictMove, now) {
			t.Error("a move was kept back")
		}
	}
	if passed != stayRate+10 {
		t.Errorf("%d passed at once, want %d", passed, stayRate+10)
	}
	for range 1000 {
		take(placement.VerdictStay, now.Add(time.Second))
	}
	if passed != 2*stayRate+10 || stood != 1000+stayRate+10 {
		t.Errorf("%d passed and stand for %d, want %d and %d", passed, stood, 2*stayRate+10, 1000+stayRate+10)
	}
}
