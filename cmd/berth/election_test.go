package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestSessionsLeaderKilled kills the leader of the stream that holds the sessions, in a region of
// three NATS servers, under clients that refresh without pause: until there is another, which
// takes 4 to 7 s, they go on unrotated, every one of them, and afterwards by the very tokens that
// they had.
func TestSessionsLeaderKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	region := startReplicated(t)
	nc, err := nats.Connect(region.urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	told, err := nc.SubscribeSync(events.Subject{Kind: events.KindSession, Region: region.name}.Filter())
	if err != nil {
		t.Fatal(err)
	}
	clients := make([]goer, 8)
	for i := range clients {
		clients[i] = goer{holder: holder{t: t, url: region.tokensURL + "/v1/refresh", token: region.begin(t, nc, fmt.Sprint("user-", i))}}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{}, len(clients))
	for i := range clients {
		go func() { clients[i].run(ctx); done <- struct{}{} }()
	}
	leader := leaderOf(t, nc, "KV_"+jetstream.BucketSessions)
	grow(t, holders(clients), 5)
	t.Logf("%s leads KV_%s and is killed", leader, jetstream.BucketSessions)
	killed := time.Now()
	region.nodes[leader].Kill()
	if next := leaderOf(t, nc, "KV_"+jetstream.BucketSessions); next == leader {
		t.Errorf("%s still leads", next)
	}
	elected := time.Since(killed)
	grow(t, holders(clients), 5)
	stop()
	for range clients {
		<-done
	}
	region.conclude(t, clients, told, elected)
}

// conclude checks what the clients and the operator were told.
func (r *replicated) conclude(t *testing.T, clients []goer, told *nats.Subscription, elected time.Duration) {
	t.Helper()
	var waits []time.Duration
	unrotated := 0
	for i := range clients {
		c := &clients[i]
		unrotated += c.unrotated
		waits = append(waits, c.slowest)
		if c.refused > 0 {
			t.Errorf("client %d was refused %d times", i, c.refused)
		}
	}
	t.Logf("elected after %s; %d answers unrotated; the slowest answer of a client %s at the median, %s at most",
		elected.Round(time.Millisecond), unrotated, median(waits).Round(time.Millisecond), slices.Max(waits).Round(time.Millisecond))
	if unrotated == 0 {
		t.Error("nobody went on unrotated")
	}
	// The events wait for their own stream's leader, which may have died, too.
	events := 0
	for deadline := time.Now().Add(30 * time.Second); events < unrotated && time.Now().Before(deadline); {
		if m, err := told.NextMsg(time.Second); err == nil && strings.HasSuffix(m.Subject, ".unrotated") {
			events++
		}
	}
	if events < unrotated {
		t.Errorf("%d of %d unrotated answers were told", events, unrotated)
	}
	_, metrics := client{t: t}.call("GET", r.admin+"/metrics", "", nil, nil)
	if want := fmt.Sprintf(`berth_refreshes_total{verdict="unrotated"} %d`, unrotated); !strings.Contains(metrics, want) {
		t.Errorf("the metrics have no %s", want)
	}
}

// goer is a client that goes on by whatever it gets, and counts.
type goer struct {
	holder
	unrotated, refused int
	slowest            time.Duration
}

// run refreshes until ctx ends.
func (g *goer) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		status, body, err := g.post(ctx)
		if ctx.Err() != nil {
			return
		}
		g.slowest = max(g.slowest, time.Since(began))
		var reply api.TokensReply
		switch {
		case err != nil || status != http.StatusOK || json.Unmarshal(body, &reply) != nil:
			g.refused++
			g.t.Logf("refused: %d %s %v", status, body, err)
		case reply.Rotated:
			g.take(body)
		case reply.AccessToken == "" || reply.RefreshToken != "" || reply.ServerChanged || reply.Reason != "store_unavailable":
			g.t.Errorf("unrotated: %s", body)
		default:
			g.unrotated++
		}
	}
}

func holders(clients []goer) []*holder {
	list := make([]*holder, len(clients))
	for i := range clients {
		list[i] = &clients[i].holder
	}
	return list
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// replicated is a region on three NATS servers.
type replicated struct {
	name, urls, tokensURL, admin string
	nodes                        map[string]*jetstreamtest.Process
}

// startReplicated runs a registry, a token service and a server on three NATS servers.
func startReplicated(t *testing.T) *replicated {
	t.Helper()
	r := &replicated{name: "eu-west-1", nodes: startCluster(t, "eu-west-1")}
	var urls []string
	for _, n := range r.nodes {
		urls = append(urls, n.ClientURL())
	}
	r.urls = strings.Join(urls, ",")
	key := filepath.Join(t.TempDir(), "region.key")
	if out, err := berth(t.Context(), t, "keys", "generate", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("generate key: %v\n%s", err, out)
	}
	const issuer = "http://127.0.0.1:7070"
	start(t, "registry", "--nats", r.urls, "--region", r.name, "--admin", "127.0.0.1:0", "--replicas", "3")
	s := start(t, "tokens", "--nats", r.urls, "--region", r.name, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--issuer", issuer, "--key-file", key, "--replicas", "3")
	r.tokensURL, r.admin = said(t, s, "serving on "), said(t, s, "admin on ")
	demo := start(t, "demo", "--drain", "0s", "--nats", r.urls, "--region", r.name, "--server", r.name+"-a", "--listen", "127.0.0.1:0", "--issuer", issuer)
	said(t, demo, "serving on ")
	return r
}

// begin starts a session as an application does whose users are its own.
func (r *replicated) begin(t *testing.T, nc *nats.Conn, user string) string {
	t.Helper()
	body, err := json.Marshal(api.StartRequest{Subject: user})
	if err != nil {
		t.Fatal(err)
	}
	var reply api.TokensReply
	eventually(t, 30*time.Second, "a session", func() bool {
		msg, err := nc.Request("berth.v1.rpc.tokens.global."+r.name+".start", body, 10*time.Second)
		return err == nil && json.Unmarshal(msg.Data, &reply) == nil && reply.RefreshToken != ""
	})
	return reply.RefreshToken
}
