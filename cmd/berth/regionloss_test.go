package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

var lossSessions = flag.Int("loss-sessions", 200, "how many sessions TestRegionLoss has in the region that dies")

// One in so many sessions is ended before the region dies.
const lossRevoked = 20

// TestRegionLoss kills every process of a region, its NATS among them, while its sessions
// refresh. Each goes on elsewhere without a login, by its copy; those that were ended stay so. When
// the region is back no session has two owners and none is lost.
func TestRegionLoss(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1", "us-east-1", "ap-southeast-1")
	l := &loss{t: t, processes: f, lost: "eu-west-1", http: &http.Client{
		Timeout: 12 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	defer l.http.CloseIdleConnections()
	l.start(*lossSessions)
	l.revokeSome()
	l.awaitCopies()
	for _, r := range f.regions {
		t.Logf("copies in %s are %v old", r.way.Region, l.lag(r))
	}
	l.refreshing(func() {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond) // the moment of the kill is what varies
		l.kill()
	})
	l.report()
	l.comeBack()
	l.settled()
}

// loss is a fleet of which a region is lost.
type loss struct {
	*processes
	t       *testing.T
	lost    string
	http    *http.Client
	clients []*lossClient
	killed  time.Time
}

// lossClient is a client of the region that dies.
type lossClient struct {
	session, token string
	revoked        bool
	// way is the URL that it refreshes through; back is when it was first refreshed after the kill.
	way  string
	back time.Time
}

// post sends a request; status 0 says that there was no answer.
func (l *loss) post(url string, in, out any) (status int, text string) {
	data, err := json.Marshal(in)
	if err != nil {
		return 0, err.Error()
	}
	r, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return 0, err.Error()
	}
	resp, err := l.http.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK && out != nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// start starts the sessions, as the application's own login would.
func (l *loss) start(n int) {
	conn := jetstreamtest.Dial(l.t, l.regions[l.lost].nats.ClientURL())
	for i := range n {
		answer, err := conn.Call(l.t.Context(), service.TokensMethod(events.GlobalJurisdiction, l.lost, api.MethodStart), nil,
			fmt.Appendf(nil, `{"subject":"user-%d"}`, i))
		var reply api.TokensReply
		if err == nil {
			err = json.Unmarshal(answer.Data, &reply)
		}
		if err != nil || reply.Server.Region != l.lost {
			l.t.Fatalf("start session %d: on %+v: %v", i, reply.Server, err)
		}
		l.clients = append(l.clients, &lossClient{session: reply.SessionID, token: reply.RefreshToken, way: l.regions[l.lost].way.URL})
	}
}

// revokeSome ends some of the sessions, each with an acknowledgement.
func (l *loss) revokeSome() {
	for i, c := range l.clients {
		if i%lossRevoked != 0 {
			continue
		}
		c.revoked = true
		if status, text := l.post(c.way+"/v1/logout", api.LogoutRequest{RefreshToken: c.token}, nil); status != http.StatusNoContent {
			l.t.Fatalf("logout: %d %s", status, text)
		}
	}
}

// awaitCopies waits until the other regions have what was written before.
func (l *loss) awaitCopies() {
	for name, r := range l.regions {
		if name == l.lost {
			continue
		}
		copies := jetstreamtest.Dial(l.t, r.nats.ClientURL()).Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(l.t)})
		eventually(l.t, 20*time.Second+l.each(2*time.Millisecond), "copies in "+name, func() bool {
			for _, c := range l.clients {
				list, err := copies.Copies(l.t.Context(), c.key())
				if err != nil || len(list) == 0 || c.revoked && list[0].Record.State != sessions.StateRevoked {
					return false
				}
			}
			return true
		})
	}
}

func (c *lossClient) key() sessions.Key {
	return sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: c.session}
}

// lag returns how old copies of the lost region's sessions are in another.
func (l *loss) lag(r *regionProcesses) string {
	lags, err := jetstreamtest.Dial(l.t, r.nats.ClientURL()).CopyLags(l.t.Context())
	return fmt.Sprintf("%+v, %v", lags, err)
}

// refreshing lets all clients refresh, lets the accident happen, and waits until each has come
// through it.
func (l *loss) refreshing(accident func()) {
	ctx, stop := context.WithTimeout(l.t.Context(), time.Minute+l.each(8*time.Millisecond))
	defer stop()
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, c := range l.clients {
		all.Go(func() {
			select { // clients do not come all at once
			case <-ctx.Done():
			case <-time.After(rand.N(l.calm())):
			}
			ways := []string{l.regions["us-east-1"].way.URL, l.regions["ap-southeast-1"].way.URL}
			for k := i; ctx.Err() == nil; k++ {
				mu.Lock()
				killed := l.killed
				mu.Unlock()
				began := time.Now()
				var reply api.TokensReply
				status, text := l.post(c.way+"/v1/refresh", api.RefreshRequest{RefreshToken: c.token}, &reply)
				switch {
				case c.revoked && status == http.StatusUnauthorized:
					if !killed.IsZero() && c.way != l.regions[l.lost].way.URL {
						return // also where it was taken over from
					}
				case status == http.StatusOK && c.revoked:
					l.t.Errorf("session %s was ended and is refreshed through %s", c.session, c.way)
					return
				case status == http.StatusOK:
					c.token = reply.RefreshToken
					if !killed.IsZero() && began.After(killed) && reply.Server.Region != l.lost {
						c.back = time.Now()
						return
					}
				case status == http.StatusUnauthorized:
					l.t.Errorf("session %s has to log in: %s", c.session, text)
					return
				}
				if !killed.IsZero() && c.way == l.regions[l.lost].way.URL || status != http.StatusOK && c.way != l.regions[l.lost].way.URL {
					c.way = ways[k%len(ways)]
				}
				pause := 300*time.Millisecond + l.each(500*time.Microsecond)
				if killed.IsZero() {
					pause = l.calm()
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause + time.Duration(rand.IntN(200))*time.Millisecond):
				}
			}
		})
	}
	time.Sleep(l.calm()) // each has been refreshed by then, or is about to be
	accident()
	mu.Lock()
	l.killed = time.Now()
	mu.Unlock()
	all.Wait()
}

// each returns so much time for each session: what one machine can bear.
func (l *loss) each(d time.Duration) time.Duration { return time.Duration(len(l.clients)) * d }

// calm is how often a client refreshes while all is well.
func (l *loss) calm() time.Duration { return max(time.Second, l.each(2*time.Millisecond)) }

// kill ends all of the region at once, as kill -9 does.
func (l *loss) kill() {
	r := l.regions[l.lost]
	r.nats.Kill()
	r.tokens.crash(l.t)
	r.registry.crash(l.t)
	for _, s := range r.servers {
		s.crash(l.t)
	}
}

// report prints how long the sessions took to go on, and fails for those that did not.
func (l *loss) report() {
	l.t.Helper()
	var took []time.Duration
	for _, c := range l.clients {
		switch {
		case c.revoked:
		case c.back.IsZero():
			l.t.Errorf("session %s was not refreshed elsewhere", c.session)
		default:
			took = append(took, c.back.Sub(l.killed))
		}
	}
	if len(took) == 0 {
		l.t.Fatal("no session was taken over")
	}
	slices.Sort(took)
	l.t.Logf("%d of %d sessions went on elsewhere, 0 logins: p50 %v, p99 %v, max %v after the kill", len(took), len(l.clients)-(len(l.clients)+lossRevoked-1)/lossRevoked,
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
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

// settled waits until each session has one owner, or has ended in every region that knows it, and
// refreshes each once more through the region that was lost.
func (l *loss) settled() {
	records := map[string]*jetstream.Records{}
	for name, r := range l.regions {
		records[name] = jetstreamtest.Dial(l.t, r.nats.ClientURL()).Records()
	}
	began := time.Now()
	var wrong string
	eventually(l.t, 60*time.Second+l.each(10*time.Millisecond), "one owner of each session", func() bool {
		wrong = ""
		for _, c := range l.clients {
			if wrong = l.wrong(c, records); wrong != "" {
				return false
			}
		}
		return true
	})
	l.t.Logf("%v after the return each session has one owner", time.Since(began).Round(time.Millisecond))
	for _, c := range l.clients {
		want := http.StatusOK
		if c.revoked {
			want = http.StatusUnauthorized
		}
		if status, text := l.post(l.regions[l.lost].way.URL+"/v1/refresh", api.RefreshRequest{RefreshToken: c.token}, nil); status != want {
			l.t.Errorf("session %s through the region that is back: %d %s", c.session, status, text)
		}
	}
}

// wrong says what is wrong with a session, empty if nothing is.
func (l *loss) wrong(c *lossClient, records map[string]*jetstream.Records) string {
	active, over, text := 0, 0, ""
	for name, r := range records {
		rec, _, err := r.Get(l.t.Context(), c.key())
		if err != nil {
			continue
		}
		text += fmt.Sprintf(" %s: %s %s", name, rec.State, rec.Current())
		switch rec.State {
		case sessions.StateActive:
			active++
		case sessions.StateRevoked:
			over++
		case sessions.StateMoving, sessions.StatePrepared, sessions.StateMoved:
		}
	}
	if c.revoked && active == 0 && over > 0 || !c.revoked && active == 1 && over == 0 {
		return ""
	}
	return "session " + c.session + ":" + text
}
