package main

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

var (
	drainSessions = flag.Int("drain-sessions", 200, "how many sessions TestDrainRate has in the region that is drained")
	drainDeadline = flag.Duration("drain-deadline", 6*time.Second, "by when TestDrainRate drains it; clients refresh six times until then")
)

// drainCritical is the share of the sessions that have a critical task in progress, in percent.
const drainCritical = 15

// leaver is a client of the region that is drained.
type leaver struct {
	session, token string
	critical       bool
	// left is when it was told of a server elsewhere, zero if never, and reason why; asked is when
	// it sent that refresh, kept when the last one that left it where it was, and late by how much
	// it was at most behind its pace.
	left, asked, kept time.Time
	reason            string
	late              time.Duration
}

// TestDrainRate drains a region with a deadline while its clients refresh at an even pace. All without a
// critical task are gone by the deadline, evenly over the time; those with one stay until then, and
// leave at the first refresh after it.
//
//	go test ./cmd/berth -run TestDrainRate -v -args -drain-sessions 1000 -drain-deadline 60s
func TestDrainRate(t *testing.T) {
	t.Parallel() // it mostly waits
	pace := *drainDeadline / 6
	f := newFleetSessions(t, "--primary-region", "us-east-1")
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, fmt.Appendf(nil, "version: 1\nrefresh_interval: %s\n", pace), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := berth(t.Context(), t, "policy", "set", policy, "--nats", natsOf(f.ready, "us-east-1")).CombinedOutput(); err != nil {
		t.Fatalf("policy set: %v\n%s", err, out)
	}
	var all []*leaver
	for i, s := range f.begin(f.lost, *drainSessions) {
		critical := i*drainCritical%100 < drainCritical // spread over all
		all = append(all, &leaver{session: s.SessionID, token: s.RefreshToken, critical: critical})
	}
	var running sync.WaitGroup
	end := make(chan struct{})
	for i, c := range all {
		// The phases are even, so that chance is in the draws alone.
		phase := pace * time.Duration(i) / time.Duration(len(all))
		running.Go(func() { f.refreshUntilLeft(c, phase, pace, end) })
	}
	defer running.Wait()
	defer close(end)
	idle(t.Context(), pace) // each has refreshed once, and stays
	began := time.Now()
	reply := ask[registry.DrainReply](t, "drain", f.lost, "--nats", natsOf(f.ready, f.lost), "--deadline", drainDeadline.String())
	told := time.Since(began)
	gone := make(chan struct{})
	go func() { running.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(*drainDeadline + 2*pace + 20*time.Second):
		t.Fatal("not all sessions have left")
	}
	f.reportDrain(all, began, reply.Until, told, pace)
}

// refreshUntilLeft refreshes a session through its region at an even pace, from phase on, until it has
// left, or end.
func (f *fleetSessions) refreshUntilLeft(c *leaver, phase, pace time.Duration, end <-chan struct{}) {
	next := time.NewTimer(phase)
	defer next.Stop()
	tick := time.Now().Add(phase)
	for {
		select {
		case <-end:
			return
		case <-f.t.Context().Done():
			return
		case <-next.C:
		}
		sent := time.Now()
		c.late = max(c.late, sent.Sub(tick))
		reply, status, text := f.refresh(f.lost, api.RefreshRequest{RefreshToken: c.token, CriticalTaskInProgress: c.critical})
		if status != http.StatusOK {
			f.t.Errorf("session %s: %d %s", c.session, status, text)
			return
		}
		c.token = reply.RefreshToken
		if reply.Server.Region != f.lost {
			c.left, c.asked, c.reason = time.Now(), sent, reply.Reason
			return
		}
		c.kept = sent
		tick = tick.Add(pace)
		next.Reset(time.Until(tick) + rand.N(time.Millisecond))
	}
}

// reportDrain prints how the sessions left, and fails for those that did so at the wrong time.
func (f *fleetSessions) reportDrain(all []*leaver, began, until time.Time, told, pace time.Duration) {
	f.t.Helper()
	var left, asked, critical []time.Duration
	var late time.Duration
	for _, c := range all {
		late = max(late, c.late)
		switch {
		case c.left.Before(began) || c.reason != "server_draining":
			f.t.Errorf("session %s, critical: %t, left at %v for %q", c.session, c.critical, c.left, c.reason)
		case c.critical && c.left.Before(until):
			f.t.Errorf("session %s left %s before the deadline, in the middle of a critical task", c.session, until.Sub(c.left))
		case c.critical:
			critical = append(critical, c.left.Sub(until))
		case c.kept.After(until.Add(-pace)):
			f.t.Errorf("session %s was left where it was %s before the deadline, a refresh each %s", c.session, until.Sub(c.kept), pace)
		case c.asked.After(until.Add(c.late)):
			f.t.Errorf("session %s left %s after the deadline, %s behind its pace", c.session, c.left.Sub(until), c.late)
		default:
			left, asked = append(left, c.left.Sub(began)), append(asked, c.asked.Sub(began))
		}
	}
	if len(left) == 0 || len(critical) == 0 {
		f.t.Fatalf("%d left in time, %d critical ones later", len(left), len(critical))
	}
	slices.Sort(critical)
	if last := critical[len(critical)-1]; last > pace+late+time.Second { // a second on the way
		f.t.Errorf("a session with a critical task left %s after the deadline, clients refresh each %s", last, pace)
	}
	distance := fromUniform(asked, until.Sub(began))
	f.t.Logf("%d sessions, drain in force after %s, deadline %s, a refresh each %s, at most %s late",
		len(all), told.Round(time.Millisecond), until.Sub(began).Round(time.Millisecond), pace, late.Round(time.Millisecond))
	f.t.Logf("%d not critical left %s; Kolmogorov-Smirnov distance to uniform %.3f", len(left), spread(left), distance)
	f.t.Logf("%d critical left after the deadline: %s", len(critical), spread(critical))
	// Of n draws that are even it is above 1.63/sqrt(n) once in a hundred times (Smirnov 1948); the time
	// until the drain was in force, and clients that come late, shift it by so much.
	most := max(0.1, 1.63/math.Sqrt(float64(len(asked)))+float64(told+late)/float64(until.Sub(began)))
	if distance > most {
		f.t.Errorf("distance %.3f, want %.3f at most", distance, most)
	}
}

// fromUniform returns the Kolmogorov-Smirnov distance of times to the uniform distribution over a
// span: the greatest difference of the shares that were over at any time.
func fromUniform(times []time.Duration, span time.Duration) (distance float64) {
	slices.Sort(times)
	n := float64(len(times))
	for i, at := range times {
		want := float64(at) / float64(span)
		distance = max(distance, math.Abs(float64(i)/n-want), math.Abs(float64(i+1)/n-want))
	}
	return distance
}
