package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

var crashes = flag.Int("crashes", 9, "how often TestAcknowledgedGenerationsSurvive kills the token service, NATS, or both")

// TestAcknowledgedGenerationsSurvive kills the token service, NATS, and both, again and again, while
// clients refresh as fast as they can. After each death, and before anybody can write again, the store
// holds every generation whose reply was read. Whoever has read one goes on from it, and whoever has
// not gets it again, or the next.
//
//	go test ./cmd/berth -run TestAcknowledged -v -args -crashes 60
func TestAcknowledgedGenerationsSurvive(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1")
	region := f.regions["eu-west-1"]
	ctx, stop := context.WithCancel(t.Context())
	clients := make([]*holder, 12)
	var g sync.WaitGroup
	defer g.Wait()
	defer stop()
	for i := range clients {
		s := f.begin(t, fmt.Sprint("user-", i))
		clients[i] = &holder{t: t, url: region.way.URL + "/v1/refresh", token: s.RefreshToken, session: s.SessionID}
		g.Go(func() { clients[i].run(ctx) })
	}
	deaths := map[string]int{}
	lost := 0
	for round := range *crashes {
		grow(t, clients, 20)
		what := []string{"token service", "NATS", "both"}[round%3]
		deaths[what]++
		if what != "token service" {
			region.nats.Kill()
		}
		// Nobody writes from here on, until what is stored has been looked at.
		signal := syscall.SIGSTOP
		if what != "NATS" {
			signal = syscall.SIGKILL
		}
		region.tokens.signal(t, signal)
		if region.nats.PID() == 0 {
			region.nats.Start(t)
		}
		lost += lostGenerations(t, region.nats.ClientURL(), clients)
		if signal == syscall.SIGSTOP {
			region.tokens.signal(t, syscall.SIGCONT)
			continue
		}
		region.tokens = start(t, region.tokensArgs...)
		said(t, region.tokens, "serving on ")
	}
	grow(t, clients, 20)
	stop()
	g.Wait()
	var read, unread int64
	for i := range clients {
		read += clients[i].granted.Load()
		unread += clients[i].unread.Load()
	}
	t.Logf("%d crashes %v, %d generations acknowledged, %d lost; %d requests were not granted at once", *crashes, deaths, read, lost, unread)
}

// signal sends a process a signal, and waits for its end if that is what it means.
func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if s == syscall.SIGKILL {
		p.crash(t)
	} else if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// lostGenerations counts the clients that have read a generation which the store does not hold.
func lostGenerations(t *testing.T, url string, clients []*holder) (lost int) {
	t.Helper()
	records := jetstreamtest.Dial(t, url).Records()
	for i := range clients {
		key := sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: clients[i].session}
		var rec sessions.Record
		eventually(t, 20*time.Second, "the record of session "+key.Session, func() (ok bool) {
			var err error
			rec, _, err = records.Get(t.Context(), key)
			return err == nil
		})
		if read := clients[i].read.Load(); rec.Gen < read { // what is read now was stored before
			t.Errorf("session %s: generation %d was acknowledged, and %d is stored", key.Session, read, rec.Gen)
			lost++
		}
	}
	return lost
}

// begin starts a session as an application does whose users are its own.
func (f *processes) begin(t *testing.T, user string) api.TokensReply {
	t.Helper()
	nc, err := nats.Connect(f.ready.Regions[0].NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	body, err := json.Marshal(api.StartRequest{Subject: user})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := nc.Request("berth.v1.rpc.tokens.global.eu-west-1.start", body, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var reply api.TokensReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil || reply.RefreshToken == "" {
		t.Fatalf("start session: %s (%v)", msg.Data, err)
	}
	return reply
}

// grow waits until every client has so many grants more.
func grow(t *testing.T, clients []*holder, more int64) {
	t.Helper()
	before := make([]int64, len(clients))
	for i := range clients {
		before[i] = clients[i].granted.Load()
	}
	eventually(t, 60*time.Second, "grants to every client", func() bool {
		for i := range clients {
			if clients[i].granted.Load() < before[i]+more {
				return false
			}
		}
		return true
	})
}

// holder is a client that refreshes its one session, and repeats what was not answered.
type holder struct {
	t          *testing.T
	url, token string
	session    string
	// granted counts replies that were read, read is the generation of the last; unread counts requests
	// that were not granted.
	granted, unread atomic.Int64
	read            atomic.Uint64
}

// run refreshes until ctx ends.
func (h *holder) run(ctx context.Context) {
	for ctx.Err() == nil {
		status, body, err := h.post(ctx)
		switch {
		case err != nil, status == http.StatusServiceUnavailable:
			h.unread.Add(1)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		case status == http.StatusOK:
			h.take(body)
		default:
			h.t.Errorf("generation %d, which was acknowledged: status %d: %s", generation(h.t, h.token), status, body)
			return
		}
	}
}

// take goes on from a reply that was read.
func (h *holder) take(body []byte) {
	var reply api.TokensReply
	if err := json.Unmarshal(body, &reply); err != nil {
		h.t.Error(err)
	}
	if !reply.Rotated { // the store is away: the token is as good as before
		return
	}
	if was, is := generation(h.t, h.token), generation(h.t, reply.RefreshToken); is <= was {
		h.t.Errorf("generation %d after %d", is, was)
	}
	h.token = reply.RefreshToken
	h.read.Store(generation(h.t, h.token))
	h.granted.Add(1)
}

func (h *holder) post(ctx context.Context) (int, []byte, error) {
	body, err := json.Marshal(api.RefreshRequest{RefreshToken: h.token})
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// generation returns that of a refresh token.
func generation(t *testing.T, token string) uint64 {
	var claims struct {
		Gen uint64 `json:"gen"`
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		data, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil && json.Unmarshal(data, &claims) == nil {
			return claims.Gen
		}
	}
	t.Errorf("no refresh token: %q", token)
	return 0
}
