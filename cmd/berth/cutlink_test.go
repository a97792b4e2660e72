package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

var (
	cutFor      = flag.Duration("cut", 8*time.Second, "how long TestCutLink cuts a region off")
	cutHole     = flag.Bool("cut-hole", false, "let TestCutLink cut it off by a black hole, too")
	cutSessions = flag.Int("cut-sessions", 40, "how many sessions TestCutLink has")
)

// One in so many sessions is refreshed on both sides of the cut, by clients that know nothing of
// each other.
const cutSplit = 8

// TestCutLink cuts a region off from the others, while sessions refresh and move through all of
// them: once so that both sides notice, once as a black hole. Nobody is logged out; after the heal
// each session has one owner, the highest token of each client is good, and the sessions that went
// on on both sides are told of as conflicts.
func TestCutLink(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, cut := range map[string]func(*jetstreamtest.Proxy){
		"reset": (*jetstreamtest.Proxy).Cut, "black hole": (*jetstreamtest.Proxy).Blackhole,
	} {
		t.Run(name, func(t *testing.T) {
			if name == "black hole" && !*cutHole {
				t.Skip("wants -cut-hole")
			}
			c := newCutting(t)
			c.run(2*time.Second, func(*cutClient) []string { return c.names })
			cut(c.links[c.lost])
			c.run(*cutFor, c.reachable)
			c.links[c.lost].Heal()
			c.run(3*time.Second, func(*cutClient) []string { return c.names })
			c.settled()
		})
	}
}

// cutting is a fleet one region of which is cut off.
type cutting struct {
	*loss
	names    []string
	sessions []*cutClient

	mu sync.Mutex
	// conflicts are the sessions of which a conflict was told.
	conflicts map[string]int
	counts    map[string]int
}

// cutClient is a client that may stand on both sides.
type cutClient struct {
	session string
	// token is the greatest that it has, at its place.
	token string
	at    sessions.Stamp
	// split says that it has another half, which knows nothing of it while the region is cut off, and
	// side where it stands then; granted that it was refreshed there.
	split   *cutClient
	side    string
	granted bool
}

func newCutting(t *testing.T) *cutting {
	names := []string{"ap-southeast-1", "eu-west-1", "us-east-1"}
	c := &cutting{
		loss:  &loss{t: t, processes: startProcesses(t, names...), lost: "eu-west-1", http: &http.Client{Timeout: 12 * time.Second}},
		names: names, conflicts: map[string]int{}, counts: map[string]int{},
	}
	t.Cleanup(c.http.CloseIdleConnections)
	c.start(*cutSessions)
	for i, s := range c.clients {
		one := &cutClient{session: s.session, token: s.token, at: place(t, s.token)}
		c.sessions = append(c.sessions, one)
		if i%cutSplit == 0 {
			other := *one
			one.split, other.split, one.side, other.side = &other, one, c.lost, "us-east-1"
			c.sessions = append(c.sessions, &other)
		}
	}
	for _, name := range names {
		stop, err := jetstreamtest.Dial(t, c.regions[name].nats.ClientURL()).Subscribe(t.Context(), "berth.v1.session.*.conflict", c.conflict)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	return c
}

func (c *cutting) conflict(subject string, data []byte) {
	if e, err := events.Decode(subject, data); err == nil {
		c.mu.Lock()
		c.conflicts[e.(*events.Session).Session]++
		c.mu.Unlock()
	}
}

// place returns where a refresh token stands in its session.
func place(t *testing.T, token string) sessions.Stamp {
	var claims api.RefreshClaims
	decodeSegment(t, token, &claims)
	return sessions.Stamp{Epoch: events.Epoch{Number: claims.Epoch, Region: claims.EpochRegion}, Gen: claims.Generation}
}

// reachable returns the regions that a client goes to while one is cut off.
func (c *cutting) reachable(s *cutClient) []string {
	if s.split != nil {
		return []string{s.side}
	}
	return c.names
}

// run lets all clients refresh for a time.
func (c *cutting) run(d time.Duration, ways func(*cutClient) []string) {
	ctx, stop := context.WithTimeout(c.t.Context(), d)
	defer stop()
	var all sync.WaitGroup
	for _, s := range c.sessions {
		all.Go(func() {
			for ctx.Err() == nil {
				list := ways(s)
				c.refresh(s, list[rand.IntN(len(list))], len(list) == 1)
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(200+rand.IntN(600)) * time.Millisecond):
				}
			}
		})
	}
	all.Wait()
	for _, s := range c.sessions { // the halves of a client meet again: the greater token counts
		if s.split != nil && s.at.Less(s.split.at) {
			s.token, s.at = s.split.token, s.split.at
		}
	}
}

// refresh refreshes through a region, and asks to be moved now and then.
func (c *cutting) refresh(s *cutClient, through string, stays bool) {
	q := api.RefreshRequest{RefreshToken: s.token, CriticalTaskInProgress: rand.IntN(8) == 0}
	if rand.IntN(3) == 0 && !stays {
		q.ClosestServerID = c.names[rand.IntN(len(c.names))] + "-a"
	}
	var reply api.TokensReply
	status, text := c.post(c.regions[through].way.URL+"/v1/refresh", q, &reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[fmt.Sprintf("%d %s", status, reply.Reason)]++
	switch status {
	case http.StatusOK:
		if at := place(c.t, reply.RefreshToken); s.at.Less(at) {
			s.token, s.at = reply.RefreshToken, at
		}
		s.granted = s.granted || stays
	case http.StatusUnauthorized, http.StatusBadRequest:
		c.t.Errorf("session %s through %s: %d %s", s.session, through, status, text)
	}
}

// settled waits until each session has one owner, and refreshes each by its highest token.
func (c *cutting) settled() {
	records := map[string]*jetstream.Records{}
	for name, r := range c.regions {
		records[name] = jetstreamtest.Dial(c.t, r.nats.ClientURL()).Records()
	}
	began := time.Now()
	var wrong string
	for deadline := began.Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		wrong = ""
		for _, s := range c.clients {
			if wrong = c.wrong(s, records); wrong != "" {
				break
			}
		}
		if wrong == "" {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no agreement: %s", wrong)
		}
	}
	c.t.Logf("agreed %v after the last refresh", time.Since(began).Round(10*time.Millisecond))
	forks := 0
	for _, s := range c.sessions {
		status, text := c.post(c.regions[c.names[rand.IntN(3)]].way.URL+"/v1/refresh", api.RefreshRequest{RefreshToken: s.token}, nil)
		if status != http.StatusOK {
			c.t.Errorf("the highest token %s of session %s: %d %s", s.at, s.session, status, text)
		}
		if s.split != nil && s.side == c.lost && s.granted && s.split.granted {
			forks++
			eventually(c.t, 5*time.Second, "word of the conflict of session "+s.session, func() bool { return c.told(s.session) > 0 })
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Logf("%d sessions went on on both sides, %d conflicts of %d sessions were told; answers %v", forks, sum(c.conflicts), len(c.conflicts), c.counts)
	if forks == 0 {
		c.t.Error("no session went on on both sides")
	}
}

func (c *cutting) told(session string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conflicts[session]
}

func sum(counts map[string]int) (n int) {
	for _, k := range counts {
		n += k
	}
	return n
}
