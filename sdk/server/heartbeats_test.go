package server_test

import (
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		c.Member, c.Location, c.MaxInFlight = "m1", events.Location{Lat: 53.3, Lon: -6.3}, 10
		run(t, c, func(a *server.Agent) {
			time.Sleep(60 * time.Second)
			before := len(o.all())
			a.Drain(30 * time.Second)
			a.Drain(time.Hour) // says nothing new
			synctest.Wait()
			if more := len(o.all()) - before; more != 1 {
				t.Errorf("%d heartbeats at once for a drain, want 1", more)
			}
			time.Sleep(2500 * time.Millisecond)
		})
		all := o.all()
		if n := len(all); n < 60 || n > 66 {
			t.Errorf("%d heartbeats in 62.5 s", n)
		}
		first := all[0].heartbeat
		if _, err := ulid.ParseStrict(first.Boot); err != nil {
			t.Errorf("boot %q: %v", first.Boot, err)
		}
		spread := map[time.Duration]bool{}
		states := ""
		for i, p := range all {
			h := p.heartbeat
			if h.Server != self || h.Region != region || h.Member != "m1" || h.Capacity != 100 || h.IntervalMS != 1000 || h.Location.Lat != 53.3 || h.Load.MaxInFlight != 10 {
				t.Fatalf("heartbeat %+v", h)
			}
			if h.Boot != first.Boot || h.Seq != uint64(i+1) || !h.At.Equal(p.at) {
				t.Errorf("heartbeat %d: boot %s, seq %d, at %v", i, h.Boot, h.Seq, h.At)
			}
			if s := string(h.State); !strings.HasSuffix(states, s) {
				states += " " + s
			}
			var until time.Time
			if h.State == events.StateDraining {
				until = first.At.Add(90 * time.Second)
			}
			if !h.DrainUntil.Equal(until) {
				t.Errorf("heartbeat %d, %s, drains until %v, want %v", i, h.State, h.DrainUntil, until)
			}
			if i > 0 && i < 55 {
				gap := p.at.Sub(all[i-1].at)
				spread[gap] = true
				if gap < 900*time.Millisecond || gap > 1100*time.Millisecond {
					t.Errorf("%v between heartbeats", gap)
				}
			}
		}
		if states != " up draining left" {
			t.Errorf("states%s, want up draining left", states)
		}
		if len(spread) < 40 {
			t.Errorf("only %d different intervals: no jitter", len(spread))
		}
		if last := all[len(all)-1]; last.heartbeat.State != events.StateLeft || all[len(all)-2].heartbeat.State == events.StateLeft {
			t.Error("left is not the last word, said once")
		}
	})
}

func TestHeartbeatLoad(t *testing.T) {
	tests := []struct {
		name string
		load func(events.Load) events.Load
		ok   func(events.Load) bool
	}{
		{"sampled", nil, func(l events.Load) bool { return l.MaxInFlight == 10 && l.Utilisation >= 0 }},
		{"set by the application", func(l events.Load) events.Load { l.Utilisation = 0.42; return l }, func(l events.Load) bool { return l.Utilisation == 0.42 && l.MaxInFlight == 10 }},
		{"not a number", func(l events.Load) events.Load { l.Utilisation = math.NaN(); return l }, func(l events.Load) bool { return l.MaxInFlight == 10 }},
		{"without end", func(l events.Load) events.Load { l.P99 = math.Inf(1); return l }, func(l events.Load) bool { return l.MaxInFlight == 10 }},
		{"negative", func(events.Load) events.Load { return events.Load{Sessions: -1} }, func(l events.Load) bool { return l.MaxInFlight == 10 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &offline{}
				c := o.config()
				c.MaxInFlight, c.Load = 10, test.load
				run(t, c, func(*server.Agent) {})
				if all := o.all(); len(all) == 0 || !test.ok(all[0].heartbeat.Load) {
					t.Errorf("heartbeats %+v", all)
				}
			})
		})
	}
}

func TestLoadCountsSessionsAndRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &offline{}
		c := o.config()
		c.MaxInFlight = 100
		s := newSigner(t, oneKeyID)
		c.Watcher = oneKey{s}
		run(t, c, func(a *server.Agent) {
			enter, leave := make(chan struct{}, 10), make(chan struct{})
			h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { enter <- struct{}{}; <-leave }))
			for i := range 10 {
				go h.ServeHTTP(httptest.NewRecorder(), request(s.access(t, of("s-"+string(rune('a'+i%7))))))
			}
			for range 10 {
				<-enter
			}
			// Refused ones are no load.
			h.ServeHTTP(httptest.NewRecorder(), request("nonsense"))
			h.ServeHTTP(httptest.NewRecorder(), request(s.access(t, of("s-x"), func(c *api.AccessClaims) { c.ServerID = "other" })))
			time.Sleep(2 * time.Second)
			last := func() events.Load { all := o.all(); return all[len(all)-1].heartbeat.Load }
			if l := last(); l.InFlight != 10 || l.Sessions != 7 || l.Utilisation <= 0 {
				t.Errorf("load %+v, want 10 in flight of 7 sessions", l)
			}
			close(leave)
			time.Sleep(2 * time.Second)
			if l := last(); l.InFlight != 0 || l.Sessions != 7 || l.P99 < 1900 || l.P99 > 2600 {
				t.Errorf("load %+v, want none in flight and p99 about 2 s", l)
			}
			time.Sleep(2 * time.Minute)
			if l := last(); l.Sessions != 0 || l.P99 != 0 {
				t.Errorf("load %+v after two quiet minutes", l)
			}
		})
	})
}

// TestHeartbeatsOverNATS has the last word of a server arrive through a closing connection.
func TestHeartbeatsOverNATS(t *testing.T) {
	url := jetstreamtest.Shared(t)
	watcher := jetstreamtest.Provisioned(t, url)
	conn, err := jetstream.Dial(t.Context(), jetstream.Config{URL: url, Role: "server"})
	if err != nil {
		t.Fatal(err)
	}
	heartbeats := make(chan *events.Heartbeat, 100)
	stop, err := watcher.Regional().Subscribe(t.Context(), events.Subject{Kind: events.KindHeartbeat}.Filter(), func(subject string, data []byte) {
		e, err := events.Decode(subject, data)
		if err != nil {
			t.Error(err)
			return
		}
		heartbeats <- e.(*events.Heartbeat)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := config(t, conn)
	c.Interval = 100 * time.Millisecond
	a, end := start(t, c)
	first := <-heartbeats
	if second := <-heartbeats; first.State != events.StateUp || second.Seq != first.Seq+1 || second.Boot != first.Boot {
		t.Errorf("%+v after %+v", second, first)
	}
	a.Drain(0)
	for h := range heartbeats {
		if h.State == events.StateDraining {
			break
		}
	}
	end()
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case h := <-heartbeats:
			if h.State == events.StateLeft {
				return
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the server left without a word")
		}
	}
}
