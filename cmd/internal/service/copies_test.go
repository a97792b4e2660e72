package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// runTokens runs the token service of a region with one server, edges to all others, and returns its connection for
// looking around and the URL of its admin listener.
func runTokens(t *testing.T, f *jetstreamtest.Fleet, region string, regions []string) (conn *jetstream.Conn, admin string) {
	t.Helper()
	conn = jetstreamtest.Provisioned(t, f.Regions[region].ClientURL())
	putServer(t, conn, region)
	keys := filepath.Join(t.TempDir(), "keys.pem")
	if err := tokens.GenerateKey(keys); err != nil {
		t.Fatal(err)
	}
	edges := []jetstream.Edge{}
	for _, r := range regions {
		if r != region {
			edges = append(edges, jetstream.Edge{Region: r})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- service.RunTokens(ctx, service.TokensConfig{
			NATS: jetstream.Config{URL: f.Regions[region].ClientURL(), Region: region}, Topology: jetstream.Topology{Edges: edges},
			Listen: "127.0.0.1:0", Admin: "127.0.0.1:0", Issuer: "https://api.example.com", KeyFile: keys,
			Ready: func(_, admin string) { ready <- admin }, Log: jetstreamtest.Log(t),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn, <-ready
}

// TestStartsAreCopied starts sessions in one region of three: their records are in both others within moments, also those
// of the time in which one was cut off, and that one is not ready before they are.
func TestStartsAreCopied(t *testing.T) {
	t.Parallel()
	regions := []string{"eu-west-1", "us-east-1", "ap-southeast-1"}
	f := jetstreamtest.NewFleet(t, nil, regions...)
	conns, admins := map[string]*jetstream.Conn{}, map[string]string{}
	for _, r := range regions {
		conns[r], admins[r] = runTokens(t, f, r, regions)
	}
	start := func() sessions.Key {
		subject := events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: "global", Region: regions[0], Method: api.MethodStart}
		answer, err := conns[regions[0]].Call(t.Context(), subject.String(), nil, []byte(`{"subject":"ada"}`))
		var reply api.TokensReply
		if err = errors.Join(err, json.Unmarshal(answer.Data, &reply)); err != nil || reply.SessionID == "" {
			t.Fatalf("start a session: %v: %s", err, answer.Data)
		}
		return sessions.Key{Jurisdiction: "global", Session: reply.SessionID}
	}
	arrived := func(region string, key sessions.Key) bool {
		list, err := conns[region].Copies(jetstream.CopiesConfig{}).Copies(t.Context(), key)
		return err == nil && len(list) == 1 && list[0].Region == regions[0] && list[0].Record.Subject == "ada"
	}
	began, key := time.Now(), start()
	for _, r := range regions[1:] {
		jetstreamtest.Eventually(t, 10*time.Second, "the record is in "+r, func() bool { return arrived(r, key) })
		t.Logf("in %s after %v", r, time.Since(began))
	}
	const us = "us-east-1"
	shows := func(line string) func() bool {
		return func() bool { _, metrics := body(t, admins[us]+"/metrics"); return strings.Contains(metrics, line) }
	}
	jetstreamtest.Eventually(t, 10*time.Second, "the lag is measured", shows(`berth_session_copies_lag_seconds{origin="eu-west-1"} 0.`))

	f.Links[us].Cut()
	during := []sessions.Key{start(), start(), start()}
	jetstreamtest.Eventually(t, 15*time.Second, "the lag shows", shows(`berth_session_copies_lag_seconds{origin="eu-west-1"} 6.`))
	if status, why := body(t, admins[us]+"/readyz"); status != http.StatusNoContent {
		t.Errorf("a region that is cut off waits for others: %d %s", status, why)
	}
	f.Links[us].Heal()
	var said string
	jetstreamtest.Eventually(t, 10*time.Second, "the region says that it waits", func() bool {
		_, said = body(t, admins[us]+"/readyz")
		return strings.Contains(said, "have arrived yet") || arrived(us, during[0]) && arrived(us, during[2])
	})
	jetstreamtest.Eventually(t, 10*time.Second, "the region is ready again", func() bool {
		status, _ := body(t, admins[us]+"/readyz")
		return status == http.StatusNoContent
	})
	t.Logf("between the heal and then it said: %s", said)
	for _, key := range during {
		if !arrived(us, key) {
			t.Errorf("ready, and the copy of %s is missing", key)
		}
	}
}
