package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

func TestMain(m *testing.M) { jetstreamtest.Main(m) }

// putServer puts one server of a region, that is up, into its view.
func putServer(t *testing.T, conn *jetstream.Conn, region string) events.Server {
	t.Helper()
	s := events.Server{
		Server: region + "-a", Region: region, URL: "http://127.0.0.1:1", Boot: "01ARZ3NDEKTSV4RRFFQ69G5FAV", State: events.StateUp,
		Reason: "heartbeat", Since: time.Now(), SeenAt: time.Now(), IntervalMS: 1000, Capacity: 100, Seq: 1,
	}
	value, err := json.Marshal(s)
	if err == nil {
		_, err = conn.Servers().Put(t.Context(), s.Key(), value, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// body returns what a URL answers.
func body(t *testing.T, url string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(data)
}

// TestStartingServiceRefusesNobody starts a second token service of a region while clients are
// served: it takes requests only once it can answer them.
func TestStartingServiceRefusesNobody(t *testing.T) {
	const region = "eu-west-1"
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: region})
	conn := jetstreamtest.Provisioned(t, r.ClientURL())
	putServer(t, conn, region)
	keys := filepath.Join(t.TempDir(), "keys.pem")
	if err := tokens.GenerateKey(keys); err != nil {
		t.Fatal(err)
	}
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- service.RunTokens(ctx, service.TokensConfig{
				NATS: jetstream.Config{URL: r.ClientURL(), Region: region}, Listen: "127.0.0.1:0",
				Issuer: "https://api.example.com", KeyFile: keys, Ready: func(string, string) { close(ready) }, Log: jetstreamtest.Log(t),
			})
		}()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		}
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	defer run()()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan map[string]int, 1)
	subject := events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: "global", Region: region, Method: api.MethodClosest}.String()
	go func() {
		got := map[string]int{}
		for ctx.Err() == nil {
			answer, err := conn.Call(ctx, subject, nil, nil)
			if ctx.Err() == nil {
				got[fmt.Sprint(http.Header(answer.Header).Get(api.HeaderStatus), " ", err)]++
			}
		}
		done <- got
	}()
	for range 5 {
		run()()
	}
	cancel()
	for outcome, n := range <-done {
		if outcome != "200 <nil>" {
			t.Errorf("%d requests: %s", n, outcome)
		}
	}
}

// TestTokensSayThatTheirViewIsStale cuts a token service off from NATS: it goes on answering by
// the servers that it knew and says that they are old, until the cut heals.
func TestTokensSayThatTheirViewIsStale(t *testing.T) {
	t.Parallel() // it mostly waits
	const region = "eu-west-1"
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: region})
	conn := jetstreamtest.Provisioned(t, r.ClientURL())
	s := putServer(t, conn, region)
	keys := filepath.Join(t.TempDir(), "keys.pem")
	if err := tokens.GenerateKey(keys); err != nil {
		t.Fatal(err)
	}
	proxy := jetstreamtest.NewProxy(t, conn.NATS().ConnectedAddr())
	through, err := url.Parse(r.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	through.Host = proxy.Addr()
	ctx, cancel := context.WithCancel(t.Context())
	type urls struct{ public, admin string }
	ready, ended := make(chan urls, 1), make(chan error, 1)
	go func() {
		ended <- service.RunTokens(ctx, service.TokensConfig{
			NATS: jetstream.Config{URL: through.String(), Region: region}, Listen: "127.0.0.1:0", Admin: "127.0.0.1:0",
			Issuer: "https://api.example.com", KeyFile: keys, ViewBound: 3 * time.Second, Log: jetstreamtest.Log(t),
			Ready: func(public, admin string) { ready <- urls{public, admin} },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	at := <-ready
	get := func(address string) (int, string) { return body(t, address) }
	says := func(stale bool) func() bool {
		return func() bool {
			var list service.AdminServers
			_, body := get(at.admin + "/v1/servers")
			_, metrics := get(at.admin + "/metrics")
			want := map[bool]string{false: "berth_view_stale 0", true: "berth_view_stale 1"}[stale]
			return json.Unmarshal([]byte(body), &list) == nil && list.Stale == stale && strings.Contains(metrics, want)
		}
	}
	jetstreamtest.Eventually(t, 10*time.Second, "a fresh view", says(false))
	proxy.Cut()
	jetstreamtest.Eventually(t, 10*time.Second, "a stale view", says(true))
	if status, body := get(at.public + "/v1/closestToMe"); status != http.StatusOK || !strings.Contains(body, s.Server) {
		t.Errorf("closestToMe by the old view: %d %s", status, body)
	}
	proxy.Heal()
	jetstreamtest.Eventually(t, 10*time.Second, "a fresh view again", says(false))
}
