package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Places of clients.
const (
	nearDublin    = "53.3,-6.3"
	nearSingapore = "1.3,103.8"
)

// TestMainJob walks a client through the whole path on a fleet of three regions in one
// process tree: login, stay, move, the lock, and the death of its server.
func TestMainJob(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t)
	mainJob(t, ready)
}

// mainJob is the path that both ways of running a fleet must serve.
func mainJob(t *testing.T, ready dev.Ready) {
	dublin := client{t: t, location: nearDublin}
	login := dublin.login(ready)
	if login.Server.Region != "eu-west-1" || login.Reason != "login" {
		t.Fatalf("login near Dublin landed on %+v for %q, want eu-west-1 for login", login.Server, login.Reason)
	}
	foundAtOwner(t, ready, login)
	order := workflow(t, dublin, login)
	if order.Status != "placed" || len(order.Servers) != 3 {
		t.Errorf("workflow ended as %+v", order)
	}

	singapore := client{t: t, location: nearSingapore}
	var closest api.ClosestReply
	singapore.must("GET", ready.GlobalURL+"/v1/closestToMe", "", nil, &closest)
	if closest.Region != "ap-southeast-1" || len(closest.Candidates) != 3 {
		t.Fatalf("closest to Singapore: %+v", closest)
	}

	stay := singapore.refresh(login.AuthURL, api.RefreshRequest{
		RefreshToken: login.RefreshToken, ClosestServerID: closest.ClosestServerID, CriticalTaskInProgress: true,
	})
	if stay.Decision != "stay" || stay.Reason != "critical_task" || stay.ServerChanged || stay.Server != login.Server || stay.Notice != nil {
		t.Errorf("critical refresh: %+v", stay)
	}
	foundAtOwner(t, ready, stay)

	moved := singapore.refresh(stay.AuthURL, api.RefreshRequest{
		RefreshToken: stay.RefreshToken, ClosestServerID: closest.ClosestServerID,
	})
	if moved.Decision != "move" || moved.Reason != "closer_region" || !moved.ServerChanged || moved.Server.Region != "ap-southeast-1" {
		t.Fatalf("refresh without a critical task: %+v", moved)
	}
	if moved.Notice == nil || moved.Notice.Message != api.NoticeServerChanged || moved.Notice.Code != "server_changed" || moved.Notice.SyncedWithinSeconds != 300 {
		t.Errorf("notice %+v", moved.Notice)
	}
	foundAtOwner(t, ready, moved)
	refusedByOld(t, singapore, stay, moved)
	workflow(t, singapore, moved)

	killed := time.Now()
	kill(t, ready, moved.Server.ID)
	var after api.TokensReply
	eventually(t, 10*time.Second, "a refresh through the global URL after the kill", func() bool {
		status, _ := singapore.call("POST", ready.GlobalURL+"/v1/refresh", "", api.RefreshRequest{
			RefreshToken: moved.RefreshToken, FailedServerID: moved.Server.ID, ClosestServerID: closest.ClosestServerID,
		}, &after)
		return status == http.StatusOK
	})
	t.Logf("on %s %s after the kill of %s, reason %s", after.Server.ID, time.Since(killed).Round(time.Millisecond), moved.Server.ID, after.Reason)
	if after.Server.ID == moved.Server.ID || after.Decision != "move" || !after.ServerChanged {
		t.Errorf("after the kill: %+v", after)
	}
	foundAtOwner(t, ready, after)
	workflow(t, singapore, after)
}

// order is what the demo servers answer.
type order struct {
	OrderID string   `json:"orderId"`
	Status  string   `json:"status"`
	Region  string   `json:"region"`
	Servers []string `json:"servers"`
}

// workflow runs the three dependent steps on the session's server.
func workflow(t *testing.T, c client, s api.TokensReply) order {
	t.Helper()
	var o order
	c.must("POST", s.Server.URL+"/api/cart", s.AccessToken, map[string]any{"items": []string{"tea"}}, &o)
	c.must("POST", s.Server.URL+"/api/address", s.AccessToken, map[string]any{"orderId": o.OrderID, "address": "1 Quay"}, &o)
	c.must("POST", s.Server.URL+"/api/checkout", s.AccessToken, map[string]any{"orderId": o.OrderID}, &o)
	if o.Region != s.Server.Region {
		t.Errorf("order %+v of a session in %s", o, s.Server.Region)
	}
	return o
}

// refusedByOld waits for the old server to hear of the release; from then on it answers 421
// with the new server.
func refusedByOld(t *testing.T, c client, old, now api.TokensReply) {
	t.Helper()
	var p api.Problem
	eventually(t, 5*time.Second, "421 from the old server", func() bool {
		status, body := c.call("POST", old.Server.URL+"/api/cart", old.AccessToken, map[string]any{"items": []string{"tea"}}, nil)
		return status == http.StatusMisdirectedRequest && json.Unmarshal([]byte(body), &p) == nil
	})
	if p.Code != "locked_elsewhere" || p.Server == nil || p.Server.URL != now.Server.URL {
		t.Errorf("the old server says %+v, want locked_elsewhere with %s", p, now.Server.URL)
	}
}

// kill ends a demo server as kill -9 does.
func kill(t *testing.T, ready dev.Ready, id string) {
	t.Helper()
	signalServer(t, ready, id, syscall.SIGKILL)
}

// signalServer sends a demo server a signal.
func signalServer(t *testing.T, ready dev.Ready, id string, sig syscall.Signal) {
	t.Helper()
	for _, r := range ready.Regions {
		for _, s := range r.Servers {
			if s.ID == id {
				if err := syscall.Kill(s.PID, sig); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("no server %s in %+v", id, ready)
}

// foundAtOwner checks that the region which the refresh token names holds the session's
// record, with the server that the client was told.
func foundAtOwner(t *testing.T, ready dev.Ready, reply api.TokensReply) {
	t.Helper()
	var claims api.RefreshClaims
	decodeSegment(t, reply.RefreshToken, &claims)
	rec := record(t, ready, claims)
	if rec.Server != reply.Server.ID || rec.Answer.URL != reply.Server.URL || rec.State != sessions.StateActive {
		t.Errorf("record at %s names %s (%s), the client was told %s", claims.EpochRegion, rec.Server, rec.State, reply.Server.ID)
	}
	if rec.Epoch.Number != claims.Epoch || rec.Epoch.Region != claims.EpochRegion || rec.Gen != claims.Generation {
		t.Errorf("record at %d.%s/%d, token %d.%s/%d", rec.Epoch.Number, rec.Epoch.Region, rec.Gen, claims.Epoch, claims.EpochRegion, claims.Generation)
	}
}

// record reads a session's record from its owner's bucket.
func record(t *testing.T, ready dev.Ready, claims api.RefreshClaims) sessions.Record {
	t.Helper()
	for _, r := range ready.Regions {
		if r.Region != claims.EpochRegion {
			continue
		}
		nc, err := nats.Connect(r.NATSURL)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := natsjs.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		kv, err := js.KeyValue(ctx, "berth_sessions")
		if err != nil {
			t.Fatal(err)
		}
		entry, err := kv.Get(ctx, claims.Jurisdiction+"."+claims.SessionID)
		if err != nil {
			t.Fatal(err)
		}
		var rec sessions.Record
		if err := json.Unmarshal(entry.Value(), &rec); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	t.Fatalf("no region %q", claims.EpochRegion)
	return sessions.Record{}
}

// TestDevStops checks that Ctrl-C ends the fleet within 5 s with exit code 0 and leaves no
// process, port or temporary directory.
func TestDevStops(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	// What is set for some other berth command is not the demo servers'.
	t.Setenv("BERTH_URL", "http://127.0.0.1:9")
	t.Setenv("BERTH_CAPACITY", "none")
	p, ready := startDev(t, "--regions", "eu-west-1,us-east-1", "--servers", "1")
	left, err := os.ReadDir(tmp)
	if err != nil || !hasDev(left) {
		t.Fatalf("no temporary directory while it runs: %v, %v", left, err)
	}
	if url := ready.Regions[0].Servers[0].URL; url == "http://127.0.0.1:9" {
		t.Errorf("a demo server took BERTH_URL for its own")
	}
	began := time.Now()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		p.done <- err
		if err != nil {
			t.Errorf("berth dev ended with %v\n%s", err, p.stderr)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("still running 5 s after Ctrl-C\n%s", p.stderr)
	}
	t.Logf("ended after %s", time.Since(began).Round(time.Millisecond))
	for _, r := range ready.Regions {
		for _, s := range r.Servers {
			if err := syscall.Kill(s.PID, 0); err == nil {
				t.Errorf("server %s, pid %d, still runs", s.ID, s.PID)
			}
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || hasDev(left) {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func hasDev(entries []os.DirEntry) bool {
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "berth-dev-") {
			return true
		}
	}
	return false
}

// TestDevDiesWithChildren checks that a killed `berth dev` takes its children along.
func TestDevDiesWithChildren(t *testing.T) {
	t.Parallel() // it mostly waits
	p, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	pid := ready.Regions[0].Servers[0].PID
	eventually(t, 10*time.Second, "the end of the child", func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestDevOneRegion checks that a region without a hub is a complete fleet.
func TestDevOneRegion(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--restart", "100ms")
	c := client{t: t, location: nearDublin}
	login := c.login(ready)
	workflow(t, c, login)
	kill(t, ready, login.Server.ID)
	var after api.TokensReply
	eventually(t, 10*time.Second, "a refresh after the kill", func() bool {
		status, _ := c.call("POST", ready.GlobalURL+"/v1/refresh", "", api.RefreshRequest{RefreshToken: login.RefreshToken, FailedServerID: login.Server.ID}, &after)
		return status == http.StatusOK
	})
	if after.Server.ID == login.Server.ID && after.Reason != "already_best" {
		t.Errorf("after the kill: %+v", after)
	}
	workflow(t, c, after)
}
