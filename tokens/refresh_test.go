package tokens_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// healthy starts a real HTTP server that answers every path, and returns it as a server of
// the region.
func healthy(t *testing.T, id, region string) (events.Server, *httptest.Server) {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(h.Close)
	return server(id, region, h.URL), h
}

// TestOneTokenAtOnce presents one refresh token from 32 goroutines to two token services of
// a region, half of them before and half after a change of keys: all get the same bytes.
func TestOneTokenAtOnce(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	old, fresh := newKey(t), newKey(t)
	f.keys = keyring(t, old)
	services := []*tokens.Service{f.service(), f.service()}
	first := login(t, services[0])

	const clients = 32
	pairs := make([]string, clients)
	var wg sync.WaitGroup
	redeem := func(i int) {
		defer wg.Done()
		status, body, _ := post(t, services[i%2], "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		if status != http.StatusOK {
			t.Errorf("client %d: status %d: %s", i, status, body)
			return
		}
		var reply api.TokensReply
		if err := json.Unmarshal(body, &reply); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
		pairs[i] = reply.AccessToken + " " + reply.RefreshToken
	}
	for i := range clients {
		if i == clients/2 {
			wg.Wait()
			for _, s := range services {
				s.SetKeys(keyring(t, fresh, old))
			}
		}
		wg.Add(1)
		go redeem(i)
	}
	wg.Wait()
	for i, pair := range pairs {
		if pair != pairs[0] {
			t.Errorf("client %d got other tokens than client 0:\n%s\n%s", i, pair, pairs[0])
		}
	}

	second := granted(t, services[0], "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	third := granted(t, services[1], "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
	if third.RefreshToken == second.RefreshToken || !third.Rotated {
		t.Errorf("the successor was not rotated: %+v", third)
	}
	refused(t, services[0], "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeRefreshSuperseded)
	granted(t, services[0], "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken})
}

// TestOldTokenAfterTheWindow waits, in fake time, until the window has passed: the original
// token then ends the session.
func TestOldTokenAfterTheWindow(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		f := newFleet(t, connect(), server("eu-west-1-a", dublin, "http://127.0.0.1:1"))
		s := f.service()
		first := login(t, s)
		second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		third := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
		time.Sleep(29 * time.Second)
		refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeRefreshSuperseded)
		time.Sleep(2 * time.Second)
		refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeRefreshReused)
		if rec := f.record(first.SessionID); rec.State != sessions.StateRevoked {
			t.Errorf("the session is %s, want revoked", rec.State)
		}
		refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken}, api.CodeSessionRevoked)
	})
}

// TestLostReply repeats a refresh whose reply was lost, in fake time, after 31 s: the client
// goes on, and so does a second repeat of the newest token.
func TestLostReply(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		f := newFleet(t, connect(), server("eu-west-1-a", dublin, "http://127.0.0.1:1"))
		s := f.service()
		first := login(t, s)
		lost := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		time.Sleep(31 * time.Second)
		again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		if again.RefreshToken == lost.RefreshToken {
			t.Error("after the window the repeat got the old answer")
		}
		next := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: again.RefreshToken})
		time.Sleep(10 * time.Minute)
		granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: next.RefreshToken})
	})
}

// TestFailedServer reports the session's server as failed: alive, it is not left before a
// second report; dead, it is left at once, also by a repeat within the window.
func TestFailedServer(t *testing.T) {
	a, httpA := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	report := api.RefreshRequest{RefreshToken: first.RefreshToken, FailedServerID: "eu-west-1-a"}

	before := f.record(first.SessionID)
	refused(t, s, "/v1/refresh", report, api.CodeServerUnconfirmed)
	if after := f.record(first.SessionID); after.Op != before.Op {
		t.Error("an unconfirmed failure changed the record")
	}
	// A failure of some other server is none of the session's business.
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken, FailedServerID: "eu-west-1-z"})
	if second.Server.ID != "eu-west-1-a" {
		t.Errorf("moved to %+v", second.Server)
	}

	httpA.Close()
	report.RefreshToken = second.RefreshToken
	refused(t, s, "/v1/refresh", report, api.CodeNoHealthyServer)
	b, _ := healthy(t, "eu-west-1-b", dublin)
	f.set(a, b)
	third := granted(t, s, "/v1/refresh", report)
	if third.Server.ID != "eu-west-1-b" || third.Reason != "server_down" || !third.ServerChanged {
		t.Errorf("after the death of a: %+v", third)
	}
	// The reply was lost, and now b is dead as well: the repeat is another move.
	b.State = events.StateDown
	c, _ := healthy(t, "eu-west-1-c", dublin)
	f.set(a, b, c)
	fourth := granted(t, s, "/v1/refresh", report)
	if fourth.Server.ID == "eu-west-1-b" || fourth.Decision != "move" {
		t.Errorf("after the death of b: %+v", fourth)
	}
	if rec := f.record(first.SessionID); rec.Epoch.Number != 3 || rec.Server != fourth.Server.ID {
		t.Errorf("record %+v after two moves", rec)
	}
}

// TestUnreachableFromClient lets the client report a living server twice, five seconds
// apart, in fake time.
func TestUnreachableFromClient(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		a, b := server("eu-west-1-a", dublin, "http://127.0.0.1:1"), server("eu-west-1-b", dublin, "http://127.0.0.1:2")
		f := newFleet(t, connect(), a)
		s := f.service(func(c *tokens.Config) { c.Prober = alive{} })
		first := login(t, s)
		f.set(a, b)
		report := api.RefreshRequest{RefreshToken: first.RefreshToken, FailedServerID: "eu-west-1-a"}
		refused(t, s, "/v1/refresh", report, api.CodeServerUnconfirmed)
		time.Sleep(3 * time.Second)
		refused(t, s, "/v1/refresh", report, api.CodeServerUnconfirmed)
		time.Sleep(2 * time.Second)
		moved := granted(t, s, "/v1/refresh", report)
		if moved.Server.ID != "eu-west-1-b" || moved.Reason != "unreachable_from_client" {
			t.Errorf("after the second report: %+v", moved)
		}
	})
}

// alive is a prober in a bubble, where there are no sockets: every server answers.
type alive struct{}

func (alive) Probe(ctx context.Context, _ string) error { return ctx.Err() }

// TestCriticalTask keeps a session where it is while a critical task is in progress, also
// one that only a repeat tells of.
func TestCriticalTask(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	singapore, _ := healthy(t, "ap-southeast-1-a", "ap-southeast-1")
	singapore.Location = events.Location{Lat: 1.35, Lon: 103.82}
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	f.set(a, singapore)
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{
		RefreshToken: first.RefreshToken, ClosestServerID: "ap-southeast-1-a", CriticalTaskInProgress: true,
	})
	if second.Decision != "stay" || second.Reason != "critical_task" {
		t.Errorf("critical: %+v", second)
	}
	if rec := f.record(first.SessionID); rec.CriticalSince.IsZero() {
		t.Error("the record does not know of the critical task")
	}
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
	if rec := f.record(first.SessionID); !rec.CriticalSince.IsZero() {
		t.Error("the record still knows of a critical task")
	}
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken, CriticalTaskInProgress: true})
	if rec := f.record(first.SessionID); rec.CriticalSince.IsZero() {
		t.Error("the repeat's critical task was not recorded")
	}
}

// TestLogout ends a session durably, by any of its refresh tokens.
func TestLogout(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	for range 2 {
		if status, body, _ := post(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken}); status != http.StatusNoContent {
			t.Fatalf("logout: status %d: %s", status, body)
		}
	}
	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken}, api.CodeSessionRevoked)
	if rec := f.record(first.SessionID); rec.State != sessions.StateRevoked {
		t.Errorf("the record is %s", rec.State)
	}
}

// TestLostRecord refreshes a session whose record the store has lost: its token makes it
// anew, one epoch higher.
func TestLostRecord(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	kv, err := f.conn.JetStream().KeyValue(t.Context(), jetstream.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), fmt.Sprintf("global.%s", first.SessionID)); err != nil {
		t.Fatal(err)
	}
	again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	rec := f.record(first.SessionID)
	if rec.Epoch.Number != 2 || rec.Subject != "ada" || rec.Claims["role"] != "captain" || rec.Server != again.Server.ID {
		t.Errorf("the record made anew is %+v", rec)
	}
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: again.RefreshToken})
}
