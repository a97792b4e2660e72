package server_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// TestLimits: an organization that asks for more than it may is told to wait, and takes nothing from the others.
func TestLimits(t *testing.T) {
	conn, key := newRegion(t)
	c := config(t, conn)
	c.Limits = server.Limits{Region: 30, Organization: 5}
	a, _ := start(t, c)
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, key.access(t)) == "" })
	org := func(name string) string {
		return key.access(t, of("of-"+name), func(c *api.AccessClaims) { c.Org = name })
	}
	greedy, modest := org("greedy"), org("modest")
	refused := 0
	for range 40 {
		switch r := shop.get(t, greedy); {
		case r.StatusCode == http.StatusOK:
		case r.StatusCode == http.StatusTooManyRequests && r.problem.Code == string(api.CodeRateLimited) && r.Header.Get("Retry-After") == "1":
			refused++
		default:
			t.Fatalf("%d %v %s", r.StatusCode, r.Header, r.body)
		}
	}
	if refused < 20 {
		t.Errorf("of 40 requests at once %d were refused", refused)
	}
	if r := shop.get(t, modest); r.StatusCode != http.StatusOK {
		t.Errorf("another organization: %d %s", r.StatusCode, r.body)
	}
	refused = 0
	for range 200 {
		if shop.get(t, key.access(t)).StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the region has no limit")
	}

	for _, l := range []server.Limits{{Region: -1}, {Organization: math.NaN()}, {Region: math.Inf(1)}} {
		c := config(t, conn)
		c.Limits = l
		if _, err := server.New(c); err == nil || !strings.Contains(err.Error(), "limits: want") {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

// TestLimitsAreExact in fake time: so many a second, after a burst of one second's worth.
func TestLimitsAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allow := server.NewLimits(server.Limits{Region: 100, Organization: 10})
		count := func(org string, part float64, over time.Duration) (n int) {
			for began := time.Now(); time.Since(began) < over; time.Sleep(time.Millisecond) {
				if allow(org, part, time.Now()) == nil {
					n++
				}
			}
			return n
		}
		if n := count("a", 1, 10*time.Second); n < 105 || n > 111 {
			t.Errorf("%d requests of an organization in 10 s, want 10 and 10 a second", n)
		}
		if n := count("a", 0.5, 10*time.Second); n < 48 || n > 56 {
			t.Errorf("%d in 10 s with half of the region, want 5 a second", n)
		}
		if n := count("", 1, 10*time.Second); n < 1000 || n > 1101 {
			t.Errorf("%d of no organization in 10 s, want 100 and 100 a second", n)
		}
	})
}
