package tokens

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestDemandCountsSessions: of many sessions that refresh at their own pace, at random moments, the
// count is how many there are, by where they come from.
func TestDemandCountsSessions(t *testing.T) {
	began := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	d := newDemand(2*time.Minute, began)
	random := rand.New(rand.NewPCG(1, 2))
	type session struct {
		origin     string
		every      float64
		last, next float64
	}
	var all []*session
	want := map[string]float64{}
	for i := range 3000 {
		s := &session{origin: "eu", every: 110}
		if i%3 == 0 {
			s.origin, s.every = "us", 30
		}
		s.last = -random.Float64() * s.every
		s.next = s.last + s.every
		want[s.origin]++
		all = append(all, s)
	}
	var got map[string]float64
	for second := 1.0; second <= 600; second++ {
		for _, s := range all {
			for s.next <= second {
				d.add(s.origin, time.Duration((s.next-s.last)*float64(time.Second)))
				s.last, s.next = s.next, s.next+s.every*(0.9+0.2*random.Float64())
			}
		}
		if int(second)%10 == 0 {
			got = d.turn(began.Add(time.Duration(second) * time.Second))
			if second < 120 {
				continue
			}
			for origin, n := range want {
				if math.Abs(got[origin]-n) > 0.05*n {
					t.Fatalf("after %v s %v from %s, want %v", second, got[origin], origin, n)
				}
			}
		}
	}
	for range 40 {
		got = d.turn(began.Add(700 * time.Second))
	}
	if len(got) != 0 {
		t.Errorf("long after all have gone: %v", got)
	}
}

// TestDemandIsBounded: neither what is unknown nor more regions than any fleet has are counted.
func TestDemandIsBounded(t *testing.T) {
	d := newDemand(2*time.Minute, time.Time{})
	d.add("", time.Minute)
	d.add("eu", -time.Second)
	for i := range 10 * maxOrigins {
		d.add(fmt.Sprint("r", i), time.Hour)
	}
	got := d.turn(time.Time{}.Add(4 * time.Minute))
	if len(got) != maxOrigins || got["r0"] != 24 { // four minutes, the longest, in ten seconds
		t.Errorf("%d origins, %v of one", len(got), got["r0"])
	}
}
