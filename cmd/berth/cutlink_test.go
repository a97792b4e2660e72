package main

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

var (
	cutFor      = flag.Duration("cut", 6*time.Second, "how long TestCutLink cuts a region off, each way, at least; from 15s on it also wakes sessions that were silent meanwhile")
	cutSessions = flag.Int("cut-sessions", 40, "how many sessions TestCutLink has")
)

const (
	// One in so many sessions is refreshed on both sides of a cut, by clients that know nothing of
	// each other; another one in so many has a critical task in progress, always.
	cutSplit = 8
	// cutSettles bounds how long after a heal all is as it should be.
	cutSettles = 40 * time.Second
	// cutTells bounds how long a server may not have heard that a lock of its is released.
	cutTells = 10 * time.Second
)

// TestCutLink cuts a region's link to all others, by resets and then by a black hole, while
// sessions refresh and move through all of them. The run itself checks what is promised:
//
//   - One server accepts a session, but after a takeover one on each side, until the heal:
//     oneServer, before and after each heal; no epoch ever has two: history.record.
//   - A critical task keeps its session where it is: history.record, cutClient.granted.
//   - A refresh token has one line of successors: cutting.again repeats refreshes, sleeper
//     presents tokens that are old, dead, or merely late.
//   - A client told of a server finds its session there: cutting.found, after each refresh.
//   - Nothing of a session leaves its jurisdiction: history.inside, for one that is written all the
//     time.
//   - The region that is cut off goes on, with sessions that were taken over too: cutting.aside; the
//     higher epoch wins: cutting.settled, which also finds a conflict told of each fork, and of
//     nothing else.
//   - Nobody honest is logged out: cutting.step, cutting.settled.
//   - An end that was acknowledged holds at once where it was, and everywhere for good after the
//     heal: endSome, stayEnded.
//
// For long, and printing what came of it:
//
//	go test ./cmd/berth -run TestCutLink -v -args -cut 30s
func TestCutLink(t *testing.T) {
	t.Parallel() // it mostly waits
	c := newCutting(t)
	long := *cutFor >= sessions.Window/2 // or silence would be what takes the time
	var sleeping [2]sleeper
	if long {
		sleeping = c.sleepers()
	}
	c.run("before", 2*time.Second, false, func() {})
	for _, way := range []struct {
		name string
		cut  func(*jetstreamtest.Proxy)
	}{{"reset", (*jetstreamtest.Proxy).Cut}, {"black hole", (*jetstreamtest.Proxy).Blackhole}} {
		c.cutOff(way.name, way.cut)
	}
	if long {
		c.wake(sleeping)
	}
	c.stayEnded(0)
	t.Logf("what was ended was refused by the region's servers %s after the acknowledgement, at most", c.heard.Round(10*time.Microsecond))
	if c.history.apart == 0 {
		t.Errorf("no session of %s was written", ownJurisdiction)
	}
}

// cutting is a fleet one region of which is cut off.
type cutting struct {
	*fleetSessions
	names   []string
	clients []*cutClient
	fates   []fate
	history *history
	records map[string]*jetstream.Records
	// ended are the sessions that were ended during a cut, heard how long a server took at most to
	// refuse one in the region where that was acknowledged.
	ended []endedSession
	heard time.Duration

	// mu guards counts: how the refreshes of a phase were answered, by side.
	mu     sync.Mutex
	counts map[string]int
}

func newCutting(t *testing.T) *cutting {
	c := &cutting{fleetSessions: newFleetSessions(t), counts: map[string]int{}}
	c.names = append([]string{c.lost}, c.others...)
	c.records = c.stores()
	c.history = watchHistory(t, c.processes, c.lost)
	for i, s := range c.begin(c.lost, *cutSessions) {
		c.fates = append(c.fates, fate{session: s.SessionID})
		one := &cutClient{critical: i%cutSplit == 1}
		one.take(t, s)
		c.clients = append(c.clients, one)
		if i%cutSplit == 0 {
			other := &cutClient{split: one, side: c.others[0]}
			other.take(t, s)
			one.split, one.side = other, c.lost
			c.clients = append(c.clients, other)
		}
	}
	return c
}

// cutOff cuts the region off for a while, and heals the link.
func (c *cutting) cutOff(name string, cut func(*jetstreamtest.Proxy)) {
	c.t.Helper()
	mortal := c.begin(c.lost, 4)
	var fates []fate
	for _, s := range mortal {
		fates = append(fates, fate{session: s.SessionID})
	}
	c.awaitCopies(cutSettles, fates)
	began := time.Now()
	cut(c.links[c.lost])
	c.run(name, *cutFor, true, func() {
		c.aside()
		c.endSome(mortal)
		eventually(c.t, cutSettles, "a session that both sides go on with", func() bool { return c.servedTwice(began) })
	})
	c.oneServer(&began)
	both := c.wentOnTwice()
	c.links[c.lost].Heal()
	healed := time.Now()
	c.run("after the "+name, 2*time.Second, false, func() {})
	c.settled(name, both)
	c.t.Logf("%s: all is settled %s after the heal", name, time.Since(healed).Round(10*time.Millisecond))
}

// run lets all clients refresh for a time, and for as long as what is done meanwhile takes. While a
// region is cut off, the two halves of a client stand on a side each.
func (c *cutting) run(phase string, d time.Duration, apart bool, meanwhile func()) {
	c.mu.Lock()
	clear(c.counts)
	c.mu.Unlock()
	done := make(chan struct{})
	var all sync.WaitGroup
	for _, s := range c.clients {
		s.granted = false
		all.Go(func() {
			for {
				through := c.names[rand.IntN(len(c.names))]
				if apart && s.split != nil {
					through = s.side
				}
				c.step(s, through, apart)
				select {
				case <-done:
					return
				case <-time.After(time.Duration(200+rand.IntN(600)) * time.Millisecond):
				}
			}
		})
	}
	over := time.After(d)
	c.resident(phase)
	func() {
		defer all.Wait()
		defer close(done) // also when something fails meanwhile
		meanwhile()
		<-over
	}()
	for _, s := range c.clients { // the halves of a client meet again: the greater token counts
		if s.split != nil && s.at.Less(s.split.at) {
			s.latest, s.at = s.split.latest, s.split.at
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	granted := map[string]int{}
	for what, n := range c.counts {
		if side, _, ok := strings.Cut(what, " 200 "); ok {
			granted[side] += n
		}
	}
	c.t.Logf("%s: granted %v of %v", phase, granted, c.counts)
}

func (c *cutting) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

// side names the side of the cut that a region is on.
func (c *cutting) side(region string) string {
	if region == c.lost {
		return "in it"
	}
	return "outside"
}

// resident writes a session that may not leave the region that is cut off.
func (c *cutting) resident(phase string) {
	now := time.Now().UTC().Truncate(time.Second)
	rec := sessions.Start(sessions.Record{
		Session: "resident-" + fmt.Sprint(now.UnixNano()), Jurisdiction: ownJurisdiction, Subject: "ada", ClientID: "berth", Org: "acme",
		StartedAt: now, ExpiresAt: now.Add(time.Hour),
	}, c.lost, sessions.Answer{Server: c.lost + "-a", Region: c.lost}, "op", now)
	if _, err := c.records[c.lost].Put(c.t.Context(), rec, 0); err != nil {
		c.t.Errorf("%s: %v", phase, err)
	}
}

// aside has the region that is cut off begin sessions, and give those of a server away: it
// balances its own clients. The others begin sessions too.
func (c *cutting) aside() {
	nats, server := c.regions[c.lost].nats.ClientURL(), c.lost+"-a"
	var began []api.TokensReply
	moving := -1
	eventually(c.t, cutSettles, "a session on "+server, func() bool {
		began = slices.Concat(began, c.begin(c.lost, 2))
		moving = slices.IndexFunc(began, func(s api.TokensReply) bool { return s.Server.ID == server })
		return moving >= 0
	})
	began = slices.Concat(began, c.begin(c.others[0], 2))
	for _, s := range began {
		if status, text := c.use(s); status != http.StatusCreated {
			c.t.Errorf("a session that began while %s is cut off, on %s: %d %s", c.lost, s.Server.ID, status, text)
		}
		c.fates = append(c.fates, fate{session: s.SessionID})
	}
	if r := ask[registry.DrainReply](c.t, "drain", server, "--nats", nats, "--deadline", "90s"); r.Servers != 1 {
		c.t.Errorf("drain of %s while %s is cut off: %+v", server, c.lost, r)
	}
	token := began[moving].RefreshToken
	eventually(c.t, cutSettles, "a session to leave "+server, func() bool {
		reply, status, text := c.refresh(c.lost, api.RefreshRequest{RefreshToken: token})
		if status != http.StatusOK {
			c.t.Fatalf("refresh while %s is cut off: %d %s", c.lost, status, text)
		}
		token = reply.RefreshToken
		return reply.Reason == string(placement.ReasonServerDraining) && reply.Server.Region == c.lost && reply.Server.ID != server
	})
	ask[registry.DrainReply](c.t, "undrain", server, "--nats", nats)
}

// servedTwice reports whether the region that is cut off has gone on with a session that was taken
// over since then.
func (c *cutting) servedTwice(cut time.Time) bool {
	return slices.ContainsFunc(c.fates, func(a fate) bool { return c.history.wentOn(a.session, c.lost, cut) })
}

// wentOnTwice returns the sessions that were refreshed on both sides of a cut.
func (c *cutting) wentOnTwice() (both []string) {
	for _, s := range c.clients {
		if s.split != nil && s.side == c.lost && s.granted && s.split.granted {
			both = append(both, s.latest.SessionID)
		}
	}
	if len(both) == 0 {
		c.t.Error("no session was refreshed on both sides")
	}
	return both
}

// settled waits until each session has one owner, at the highest epoch that there was, and
// refreshes each by its highest token. both are sessions that forked for sure.
func (c *cutting) settled(name string, both []string) {
	c.t.Helper()
	fates := slices.Clone(c.fates)
	for _, e := range c.ended {
		fates = append(fates, fate{e.SessionID, true})
	}
	took := c.awaitOwners(cutSettles, fates)
	c.t.Logf("%s: agreed %s after the last refresh", name, took.Round(10*time.Millisecond))
	several(len(c.fates), func(i int) { c.highestWon(c.fates[i]) })
	for _, s := range c.clients {
		reply, status, text := c.refresh(c.names[rand.IntN(3)], api.RefreshRequest{RefreshToken: s.latest.RefreshToken})
		if status != http.StatusOK {
			c.t.Errorf("the highest token %s of session %s: %d %s", s.at, s.latest.SessionID, status, text)
			continue
		}
		s.take(c.t, reply)
	}
	c.oneServer(nil)
	c.stayEnded(cutSettles)
	forks := c.history.forks()
	var told map[string]int
	began := time.Now()
	eventually(c.t, 2*cutTells, "conflicts", func() bool { // the last may be on the way
		told = c.history.conflicted()
		return maps.Equal(told, forks) || time.Since(began) > cutTells
	})
	if diff := cmp.Diff(forks, told); diff != "" {
		c.t.Errorf("forks and the conflicts told of them, by session (-forked +told):\n%s", diff)
	}
	for _, a := range c.fates {
		if forks[a.session] != told[a.session] {
			c.t.Log(c.history.line(a.session))
		}
	}
	for _, session := range both {
		if forks[session] == 0 {
			c.t.Errorf("session %s was refreshed on both sides and did not fork", session)
		}
	}
	logouts := 0
	for session := range c.history.endings() {
		if !slices.ContainsFunc(c.ended, func(e endedSession) bool { return e.SessionID == session }) {
			logouts++
			c.t.Errorf("session %s was ended by nobody", session)
		}
	}
	c.t.Logf("%s: by now %d forks of %d sessions, %d conflicts told of %d, %d of them this time for clients on both sides; %d logouts",
		name, sum(forks), len(forks), sum(told), len(told), len(both), logouts)
}

// highestWon checks that a session is owned at the highest epoch that was ever written.
func (c *cutting) highestWon(a fate) {
	want := c.history.highest(a.session)
	rec, _, err := c.records[want.Region].Get(c.t.Context(), a.key())
	if err != nil || rec.State != sessions.StateActive || rec.Epoch.Compare(want) < 0 {
		c.t.Errorf("session %s: highest epoch %v, its region holds %s %s, %v", a.session, want, rec.State, rec.Current(), err)
	}
}

func sum(counts map[string]int) (n int) {
	for _, k := range counts {
		n += k
	}
	return n
}

// oneServer waits until each session is accepted by one server. While a region is cut off, from
// cut on, by one on each side of a session that was taken over.
func (c *cutting) oneServer(cut *time.Time) {
	c.t.Helper()
	held := map[string]map[string]api.TokensReply{}
	var list []string
	for _, s := range c.clients {
		id := s.latest.SessionID
		if held[id] == nil {
			held[id] = map[string]api.TokensReply{}
			list = append(list, id)
		}
		for server, reply := range s.held {
			if old, ok := held[id][server]; !ok || place(c.t, old.RefreshToken).Less(place(c.t, reply.RefreshToken)) {
				held[id][server] = reply
			}
		}
	}
	awaitAll(c.t, cutTells, "one server for each session", list, func(id string) string {
		by := map[string][]string{}
		for server, reply := range held[id] {
			status, _ := c.use(reply)
			if status == http.StatusCreated {
				by[c.side(reply.Server.Region)] = append(by[c.side(reply.Server.Region)], server)
			}
		}
		most := 1
		if cut != nil && c.history.takenOver(id, *cut) {
			most = 2
		}
		n := 0
		for _, servers := range by {
			n += len(servers)
			if len(servers) > 1 {
				return fmt.Sprintf("session %s is accepted by %v", id, servers)
			}
		}
		if n == 0 || n > most {
			return fmt.Sprintf("session %s is accepted by %v of %d", id, by, len(held[id]))
		}
		return ""
	})
}

// place returns where a refresh token stands in its session.
func place(t *testing.T, token string) sessions.Stamp {
	var claims api.RefreshClaims
	decodeSegment(t, token, &claims)
	return sessions.Stamp{Epoch: events.Epoch{Number: claims.Epoch, Region: claims.EpochRegion}, Gen: claims.Generation}
}
