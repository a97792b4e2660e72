package tokens_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// stored returns what the streams of a region hold of a kind.
func stored[E events.Event](t *testing.T, conn *jetstream.Conn, stream string, kind events.Kind) (list []E) {
	t.Helper()
	subject := events.Subject{Kind: kind, Region: conn.Region()}.Filter()
	err := conn.Stored(t.Context(), stream, subject, time.Now().Add(-time.Hour), func(m jetstream.Message, _ uint64) bool {
		e, err := events.Decode(m.Subject, m.Data)
		if err != nil {
			t.Error(err)
			return false
		}
		list = append(list, e.(E))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// replayed makes the decisions again that a region has recorded, once there are so many, all of whose
// views are there, and wants each to come out as it was.
func replayed(t *testing.T, conn *jetstream.Conn, decisions int) *replay.Report {
	t.Helper()
	var report *replay.Report
	jetstreamtest.Eventually(t, 10*time.Second, fmt.Sprintf("%d decisions, with what they saw", decisions), func() bool {
		again := replay.New(replay.Config{})
		for _, e := range stored[*events.Decision](t, conn, jetstream.StreamEvents, events.KindDecision) {
			again.Decision(e)
		}
		for _, s := range stored[*events.Sight](t, conn, jetstream.StreamViews, events.KindSight) {
			again.Sight(s)
		}
		report = again.Report()
		return report.Decisions >= decisions && report.NotRecorded == 0
	})
	for _, d := range report.Differences {
		t.Errorf("replayed: %v", d)
	}
	if report.Agree+report.NoRule != report.Decisions {
		t.Errorf("replayed: %+v", report)
	}
	return report
}

// TestDecisionsAreReplayed lets many sessions refresh while servers come, go, fill up, drain and return
// from the dead, and makes their decisions again by what was recorded alone.
func TestDecisionsAreReplayed(t *testing.T) {
	t.Parallel() // it mostly waits
	var servers []events.Server
	for _, id := range []string{"eu-west-1-a", "eu-west-1-b", "eu-west-1-c", "eu-west-1-d"} {
		s, _ := healthy(t, id, dublin)
		servers = append(servers, s)
	}
	far, _ := healthy(t, "us-east-1-a", "us-east-1")
	far.Location = events.Location{Lat: 39, Lon: -77.5}
	servers = append(servers, far)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), slices.Clone(servers)...)
	var stale atomic.Bool
	plan := new(atomic.Pointer[placement.Policy])
	plan.Store(&placement.Policy{})
	s := f.service(func(c *tokens.Config) { c.Stale, c.Policies = stale.Load, policies{plan} })
	running(t, s)
	const clients, each = 10, 15
	var all sync.WaitGroup
	var decisions atomic.Int64
	for i := range clients {
		last := login(t, s)
		decisions.Add(1)
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for k := range each {
				req := api.RefreshRequest{RefreshToken: last.RefreshToken, CriticalTaskInProgress: random.IntN(6) == 0}
				if random.IntN(3) == 0 {
					req.RTTMs = map[string]float64{"us-east-1-a": 120 * random.Float64(), "eu-west-1-b": 60 * random.Float64()}
				}
				if random.IntN(4) == 0 {
					req.ClosestServerID = servers[random.IntN(len(servers))].Server
				}
				if k == 0 {
					f.change(random, servers)
				}
				status, body, _ := post(t, s, "/v1/refresh", req)
				switch {
				case status == http.StatusOK && json.Unmarshal(body, &last) == nil:
					decisions.Add(1)
				case status != http.StatusServiceUnavailable: // where no server may have the session
					t.Errorf("refresh: %d %s", status, body)
					return
				}
				switch {
				case random.IntN(2) == 0:
					f.change(random, servers)
				case i == 0:
					stale.Store(random.IntN(3) == 0)
				case i == 1:
					plan.Store(&placement.Policy{Name: placement.Policies()[random.IntN(6)], Cooldown: time.Duration(random.IntN(3)), MaxRTTMs: 200 * random.Float64()})
				}
			}
		})
	}
	all.Wait()
	report := replayed(t, f.conn, int(decisions.Load()))
	reasons := map[string]int{}
	for _, e := range stored[*events.Decision](t, f.conn, jetstream.StreamEvents, events.KindDecision) {
		reasons[e.Reason]++
	}
	t.Logf("%d decisions by %d views agree: %v", report.Agree, report.Sights, reasons)
	if report.Sights < 10 || len(reasons) < 5 {
		t.Errorf("%d views, reasons %v: that is no test", report.Sights, reasons)
	}
}

// policies are those of a test.
type policies struct {
	now *atomic.Pointer[placement.Policy]
}

func (p policies) For(string) placement.Policy { return *p.now.Load() }

// change makes another view of servers, all of which answer.
func (f *fleet) change(random *rand.Rand, servers []events.Server) {
	next := make([]events.Server, 0, len(servers))
	for _, s := range servers {
		s.Load.Utilisation = random.Float64()
		switch random.IntN(8) {
		case 0:
			s.State, s.Since = events.StateDraining, time.Now().Add(-time.Minute)
			if random.IntN(2) == 0 {
				s.DrainUntil = time.Now().Add(time.Duration(random.IntN(10)-2) * time.Minute)
			}
		case 1:
			s.RejoinedAt = time.Now().Add(-time.Duration(random.IntN(60)) * time.Second)
		case 2:
			s.State, s.Protection = events.StateSuspect, events.FailOpen
		case 3:
			if s.Server == "eu-west-1-d" {
				continue
			}
		case 4:
			if s.Server == "eu-west-1-c" {
				s.State = events.StateDown
			}
		}
		next = append(next, s)
	}
	if random.IntN(4) == 0 {
		weight := random.IntN(100)
		for i := range next {
			next[i].RegionWeight = &weight
		}
	}
	f.set(next...)
}
