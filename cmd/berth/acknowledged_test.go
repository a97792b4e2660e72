package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/tokens/api"
)

// TestAcknowledgedGenerationsSurvive kills the token service, NATS, and both, while clients
// refresh as fast as they can: whoever has read a reply goes on from it, and whoever has not
// gets it again, or the next.
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
		clients[i] = &holder{t: t, url: region.way.URL + "/v1/refresh", token: f.begin(t, fmt.Sprint("user-", i))}
		g.Go(func() { clients[i].run(ctx) })
	}
	for round, crash := range []func(){
		func() { region.tokens.crash(t) },
		func() { region.nats.Kill() },
		func() { region.nats.Kill(); region.tokens.crash(t) },
		func() { region.tokens.crash(t) },
	} {
		grow(t, clients, 20)
		crash()
		if region.nats.PID() == 0 {
			region.nats.Start(t)
		}
		if !region.tokens.runs() {
			region.tokens = start(t, region.tokensArgs...)
			said(t, region.tokens, "serving on ")
		}
		t.Logf("round %d is over", round)
	}
	grow(t, clients, 20)
	stop()
	g.Wait()
	all := int64(0)
	for i := range clients {
		all += clients[i].granted.Load()
	}
	t.Logf("%d grants, none lost", all)
}

// runs reports whether the process has not ended.
func (p *process) runs() bool {
	select {
	case err := <-p.done:
		p.done <- err
		return false
	default:
		return true
	}
}

// begin starts a session as an application does whose users are its own.
func (f *processes) begin(t *testing.T, user string) string {
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
	return reply.RefreshToken
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
	granted    atomic.Int64
}

// run refreshes until ctx ends.
func (h *holder) run(ctx context.Context) {
	for ctx.Err() == nil {
		status, body, err := h.post(ctx)
		switch {
		case err != nil, status == http.StatusServiceUnavailable:
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
