package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

var (
	lossSessions = flag.Int("loss-sessions", 200, "how many sessions TestRegionLoss has in the region that dies")
	lossNotice   = flag.Duration("loss-notice", time.Second, "within what time after the death its clients notice it, and come elsewhere")
	lossSeed     = flag.Uint64("loss-seed", 0, "what the moment of the death is drawn with (0: a new one)")
)

const (
	// One in so many sessions is ended before the region dies.
	lossRevoked = 20
	// lossRetry is how long a client waits before it tries again, and as long again at the most.
	lossRetry = time.Second
)

// TestRegionLoss kills every process of a region, its NATS among them, while its sessions
// refresh. Each goes on elsewhere without a login, by its copy; those that were ended are refused
// there. When the region is back no session has two owners and none is lost.
//
//	go test ./cmd/berth -run TestRegionLoss -v -args -loss-sessions 10000 -loss-notice 5s
func TestRegionLoss(t *testing.T) {
	t.Parallel() // it mostly waits
	l := &loss{fleetSessions: newFleetSessions(t)}
	for _, s := range l.begin(l.lost, *lossSessions) {
		l.clients = append(l.clients, &lossClient{session: s.SessionID, token: s.RefreshToken})
	}
	l.endSome()
	l.awaitCopies(20*time.Second+l.each(2*time.Millisecond), l.fates())
	for _, r := range l.regions {
		t.Logf("copies in %s are %v old", r.way.Region, l.lag(r))
	}
	l.die()
	l.report()
	l.comeBack()
	l.settled()
}

// loss is a fleet of which a region is lost.
type loss struct {
	*fleetSessions
	clients []*lossClient
	// dying is closed when the region begins to die, dead when it has, at killed.
	dying, dead chan struct{}
	killed      time.Time
	// answers counts how the refreshes after the death were answered.
	answers [600]atomic.Int64
}

// lossClient is a client of the region that dies.
type lossClient struct {
	session, token string
	// ended says that its session was; refused that this was said elsewhere.
	ended, refused bool
	// came is when it was first without its region, back when it was refreshed elsewhere.
	came, back time.Time
	tries      int
}

// fates returns what has to become of the sessions.
func (l *loss) fates() (list []fate) {
	for _, c := range l.clients {
		list = append(list, fate{c.session, c.ended})
	}
	return list
}

// each returns so much time for each session: what one machine can bear.
func (l *loss) each(d time.Duration) time.Duration { return time.Duration(len(l.clients)) * d }

// calm is how often a client refreshes while all is well.
func (l *loss) calm() time.Duration { return max(time.Second, l.each(2*time.Millisecond)) }

// endSome ends some of the sessions, each with an acknowledgement.
func (l *loss) endSome() {
	several((len(l.clients)+lossRevoked-1)/lossRevoked, func(i int) {
		c := l.clients[i*lossRevoked]
		c.ended = true
		if status, text := l.post(l.regions[l.lost].way.URL+"/v1/logout", "", api.LogoutRequest{RefreshToken: c.token}, nil); status != http.StatusNoContent {
			l.t.Errorf("logout: %d %s", status, text)
		}
	})
}

// lag returns how old copies of other regions' sessions are in a region.
func (l *loss) lag(r *regionProcesses) string {
	lags, err := jetstreamtest.Dial(l.t, r.nats.ClientURL()).CopyLags(l.t.Context())
	var list []string
	for _, g := range lags {
		list = append(list, fmt.Sprintf("%s %v", g.Region, g.Behind.Round(10*time.Microsecond)))
	}
	return fmt.Sprintf("%s (%v)", strings.Join(list, ", "), err)
}

// die lets all clients refresh, kills the region at some moment after each has, and waits until
// all have come through it.
func (l *loss) die() {
	seed := *lossSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	moment := time.Duration(rand.New(rand.NewPCG(seed, 0)).Int64N(int64(l.calm())))
	l.t.Logf("dies %s after each client was refreshed (-loss-seed %d)", moment.Round(time.Millisecond), seed)
	ctx, stop := context.WithTimeout(l.t.Context(), 3*time.Minute)
	defer stop()
	l.dying, l.dead = make(chan struct{}), make(chan struct{})
	var all, refreshed sync.WaitGroup
	refreshed.Add(len(l.clients))
	for _, c := range l.clients {
		all.Go(func() {
			l.before(ctx, c, refreshed.Done)
			l.after(ctx, c)
		})
	}
	refreshed.Wait()
	idle(ctx, moment)
	close(l.dying)
	l.kill()
	all.Wait()
}

// idle waits, unless ctx ends.
func idle(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// before refreshes a session through its region until that is dead. first is called after the
// first time.
func (l *loss) before(ctx context.Context, c *lossClient, first func()) {
	sleep := rand.N(l.calm()) // clients do not come all at once
	for {
		select {
		case <-ctx.Done():
			first()
			return
		case <-l.dead:
			return
		case <-time.After(sleep):
		}
		reply, status, text := l.refresh(l.lost, api.RefreshRequest{RefreshToken: c.token})
		switch {
		case status == http.StatusOK && !c.ended:
			c.token = reply.RefreshToken
		case status == http.StatusUnauthorized && c.ended:
		case closed(l.dying) && (status == 0 || status == http.StatusServiceUnavailable):
		default:
			l.t.Errorf("session %s, ended: %t, before: %d %s", c.session, c.ended, status, text)
		}
		first()
		first = func() {}
		sleep = l.calm()/2 + rand.N(l.calm())
	}
}

// after refreshes a session through the other regions until one of them answers for it.
func (l *loss) after(ctx context.Context, c *lossClient) {
	idle(ctx, rand.N(*lossNotice))
	c.came = time.Now()
	for k := rand.IntN(2); ctx.Err() == nil; k++ {
		c.tries++
		reply, status, text := l.refresh(l.others[k%2], api.RefreshRequest{RefreshToken: c.token})
		l.answers[status].Add(1)
		switch {
		case status == http.StatusOK && !c.ended && reply.Server.Region != l.lost:
			c.token, c.back = reply.RefreshToken, time.Now()
			return
		case status == http.StatusOK && c.ended:
			l.t.Errorf("session %s was ended and is refreshed through %s", c.session, l.others[k%2])
			return
		case status == http.StatusUnauthorized:
			if c.refused = c.ended; !c.ended {
				l.t.Errorf("session %s has to log in: %s", c.session, text)
			}
			return
		}
		idle(ctx, lossRetry+rand.N(lossRetry))
	}
}

// kill ends all of the region at once, as kill -9 does.
func (l *loss) kill() {
	r := l.regions[l.lost]
	r.nats.Kill()
	r.tokens.crash(l.t)
	r.registry.crash(l.t)
	for _, s := range r.servers {
		s.crash(l.t)
	}
	l.killed = time.Now()
	close(l.dead)
}

// report prints how long the sessions took to go on, and fails for those that did not.
func (l *loss) report() {
	l.t.Helper()
	var took, waited []time.Duration
	refused, tries := 0, 0
	for _, c := range l.clients {
		tries += c.tries
		switch {
		case c.refused:
			refused++
		case c.ended:
			l.t.Errorf("session %s was ended and not refused elsewhere", c.session)
		case c.back.IsZero():
			l.t.Errorf("session %s was not refreshed elsewhere", c.session)
		default:
			took, waited = append(took, c.back.Sub(l.killed)), append(waited, c.back.Sub(c.came))
		}
	}
	if len(took) == 0 || refused == 0 {
		l.t.Fatalf("%d sessions went on elsewhere, %d that were ended were refused there", len(took), refused)
	}
	l.t.Logf("%d of %d sessions went on elsewhere, 0 logins, %d were refused as they had ended; %d refreshes", len(took), len(l.clients), refused, tries)
	l.t.Logf("after the kill %s; %d in the busiest second", spread(took), busiest(took))
	l.t.Logf("after the client came %s", spread(waited))
	text := ""
	for status := range l.answers {
		if n := l.answers[status].Load(); n > 0 {
			text += fmt.Sprintf(" %d: %d", status, n)
		}
	}
	l.t.Logf("answers by status:%s", text)
}

// spread describes how long something took.
func spread(took []time.Duration) string {
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[min(len(took)-1, int(share*float64(len(took))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %v, p95 %v, p99 %v, max %v", at(0.5), at(0.95), at(0.99), at(1))
}

// busiest returns how many of a sorted list fall into one second, at most.
func busiest(took []time.Duration) (most int) {
	first := 0
	for i := range took {
		for took[i]-took[first] > time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// comeBack starts the region's processes again.
func (l *loss) comeBack() {
	r := l.regions[l.lost]
	r.nats.Start(l.t)
	r.registry, r.tokens = start(l.t, r.registryArgs...), start(l.t, r.tokensArgs...)
	for id := range r.servers {
		said(l.t, l.startServer(l.t, l.lost, id, r.nats.ClientURL()), "serving on ")
	}
	said(l.t, r.tokens, "serving on ")
}

// settled waits until each session has one owner, or has ended in every region that knows it,
// refreshes each through the region that was lost, and looks again.
func (l *loss) settled() {
	limit := time.Minute + l.each(10*time.Millisecond)
	took := l.awaitOwners(limit, l.fates())
	l.t.Logf("%v after the return each of %d sessions has one owner, or has ended", took.Round(time.Millisecond), len(l.clients))
	several(len(l.clients), func(i int) {
		c, want := l.clients[i], http.StatusOK
		if c.ended {
			want = http.StatusUnauthorized
		}
		if _, status, text := l.refresh(l.lost, api.RefreshRequest{RefreshToken: c.token}); status != want {
			l.t.Errorf("session %s through the region that is back: %d %s", c.session, status, text)
		}
	})
	l.awaitOwners(limit, l.fates())
	l.t.Logf("refreshed through the region that is back: %d sessions, 0 with two owners, 0 lost", len(l.clients))
}
