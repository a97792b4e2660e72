package server_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
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

// TestPartOfTheLimits: a server's part is that of its capacity among those of its region that take sessions, and its own
// while it drains beside them.
func TestPartOfTheLimits(t *testing.T) {
	conn, _ := newRegion(t)
	kv, err := conn.JetStream().KeyValue(t.Context(), jetstream.BucketServers)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := start(t, config(t, conn)) // of capacity 100, as those below
	if got := a.Part(); got != 1 {
		t.Errorf("while nobody is known: %v, want all", got)
	}
	part := func(what string, want float64) {
		t.Helper()
		jetstreamtest.Eventually(t, 5*time.Second, what, func() bool { return math.Abs(a.Part()-want) < 1e-9 })
	}
	putServer(t, kv, region+"-b", events.StateUp, 0.1)
	part("before the registry knows of this one", 1.0/2)
	putServer(t, kv, self, events.StateUp, 0.1)
	putServer(t, kv, region+"-c", events.StateUp, 0.9)
	part("one of three", 1.0/3)
	putServer(t, kv, self, events.StateDraining, 0.1)
	putServer(t, kv, region+"-c", events.StateDown, 0.1)
	part("draining beside one", 1.0/2)
	putServer(t, kv, region+"-b", events.StateDown, 0.1)
	part("the last", 1)
}
