package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

// readable returns a server as the token service at an admin URL sees it.
func readable(t *testing.T, admin, id string) (found events.Server) {
	t.Helper()
	var view service.AdminServers
	client{t: t}.must("GET", admin+"/v1/servers", "", nil, &view)
	for _, s := range view.Servers {
		if s.Server == id {
			found = s
		}
	}
	return found
}

// told waits until every region's token service reads the state of a server, and returns how
// long that took.
func (f *processes) told(t *testing.T, id string, want events.State) time.Duration {
	t.Helper()
	began := time.Now()
	for name, r := range f.regions {
		var s events.Server
		eventually(t, 10*time.Second, id+" "+string(want)+" in "+name, func() bool {
			s = readable(t, r.way.Admin, id)
			return s.State == want
		})
		if want == events.StateDraining && !s.DrainUntil.After(began) {
			t.Errorf("%s drains until %s", id, s.DrainUntil)
		}
	}
	return time.Since(began)
}

// ask runs a command that prints JSON.
func ask[T any](t *testing.T, args ...string) (reply T) {
	t.Helper()
	cmd := berth(t.Context(), t, append(args, "--json")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &reply)
	}
	if err != nil {
		t.Fatalf("berth %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return reply
}

// natsOf returns the address of a region's NATS.
func natsOf(ready dev.Ready, region string) string {
	for _, r := range ready.Regions {
		if r.Region == region {
			return r.NATSURL
		}
	}
	return ""
}

// TestDrain drains a server and a region by commands to another region's NATS, across the
// death of the registry that leads.
func TestDrain(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1", "us-east-1")
	standby := start(t, f.regions["eu-west-1"].registryArgs...)
	admin := said(t, standby, "admin on ")
	dublin := client{t: t, location: nearDublin}
	home, abroad := natsOf(f.ready, "eu-west-1"), natsOf(f.ready, "us-east-1")
	login := dublin.login(f.ready)
	id := login.Server.ID
	if login.Server.Region != "eu-west-1" {
		t.Fatalf("login near Dublin landed on %s", id)
	}
	workflow(t, dublin, login)

	reply := ask[registry.DrainReply](t, "drain", id, "--nats", abroad, "--deadline", "90s")
	if reply.Region != "eu-west-1" || reply.Server != id || reply.Servers != 1 || time.Until(reply.Until) > 90*time.Second || len(reply.Warnings) > 0 {
		t.Errorf("drain: %+v", reply)
	}
	t.Logf("told everywhere after %s", f.told(t, id, events.StateDraining).Round(time.Millisecond))
	for range 5 {
		if other := dublin.login(f.ready); other.Server.ID == id || other.Server.Region != "eu-west-1" {
			t.Errorf("login on %s while %s drains", other.Server.ID, id)
		}
	}
	workflow(t, dublin, login)
	stay := dublin.refresh(login.AuthURL, api.RefreshRequest{RefreshToken: login.RefreshToken, CriticalTaskInProgress: true})
	if stay.Reason != "critical_task" || stay.Server.ID != id {
		t.Errorf("critical refresh: %s for %s", stay.Server.ID, stay.Reason)
	}

	// The registry that leads dies; the one that stood by takes over and knows.
	f.regions["eu-west-1"].registry.crash(t)
	eventually(t, 10*time.Second, "the standby to lead", func() bool {
		_, body := client{t: t}.call("GET", admin+"/metrics", "", nil, nil)
		return strings.Contains(body, "\nberth_registry_leads 1\n")
	})
	f.told(t, id, events.StateDraining)
	if s := readable(t, admin, id); s.State != events.StateDraining || s.Reason != "operator" || !s.DrainUntil.Equal(reply.Until) {
		t.Errorf("the standby shows %+v, want it to drain until %s", s, reply.Until)
	}
	out, err := berth(t.Context(), t, "servers", "--nats", abroad).Output()
	if err != nil || !strings.Contains(string(out), "draining until "+reply.Until.Local().Format("15:04:05")) {
		t.Errorf("berth servers: %v\n%s", err, out)
	}

	moved := dublin.refresh(stay.AuthURL, api.RefreshRequest{RefreshToken: stay.RefreshToken})
	if moved.Reason != "server_draining" || moved.Server.ID == id || moved.Server.Region != "eu-west-1" {
		t.Fatalf("refresh: %s for %s", moved.Server.ID, moved.Reason)
	}
	workflow(t, dublin, moved)
	refusedByOld(t, dublin, stay, moved)

	if reply := ask[registry.DrainReply](t, "undrain", id, "--nats", abroad); !reply.Changed {
		t.Errorf("undrain: %+v", reply)
	}
	f.told(t, id, events.StateUp)
	eventually(t, 30*time.Second, "a login on "+id, func() bool { return dublin.login(f.ready).Server.ID == id })

	f.drainRegion(t, moved, home, abroad)
}

// drainRegion drains the session's region and makes it a standby.
func (f *processes) drainRegion(t *testing.T, s api.TokensReply, home, abroad string) {
	t.Helper()
	dublin := client{t: t, location: nearDublin}
	reply := ask[registry.DrainReply](t, "drain", "eu-west-1", "--nats", abroad, "--deadline", "1m")
	if reply.Servers != 2 || reply.Server != "" || len(reply.Warnings) > 0 {
		t.Errorf("drain of the region: %+v", reply)
	}
	f.told(t, "eu-west-1-a", events.StateDraining)
	f.told(t, "eu-west-1-b", events.StateDraining)
	if reply := ask[registry.DrainReply](t, "drain", "us-east-1", "--nats", abroad); len(reply.Warnings) != 1 ||
		reply.Warnings[0] != "no other region takes sessions: those of us-east-1 stay until one does, and logins fail (503)" {
		t.Errorf("drain of the last region: %+v, want a warning", reply)
	}
	ask[registry.DrainReply](t, "undrain", "us-east-1", "--nats", home)
	f.told(t, "us-east-1-a", events.StateUp)
	moved := dublin.refresh(s.AuthURL, api.RefreshRequest{RefreshToken: s.RefreshToken})
	if moved.Reason != "server_draining" || moved.Server.Region != "us-east-1" {
		t.Errorf("refresh: %s for %s", moved.Server.ID, moved.Reason)
	}
	if login := dublin.login(f.ready); login.Server.Region != "us-east-1" {
		t.Errorf("login on %s while eu-west-1 drains", login.Server.ID)
	}
	ask[registry.DrainReply](t, "undrain", "eu-west-1", "--nats", home)
	f.told(t, "eu-west-1-a", events.StateUp)

	set := ask[registry.RegionReply](t, "region", "role", "eu-west-1", "standby", "--nats", abroad)
	if set.Role != events.RoleStandby || set.Weight != 100 || len(set.Warnings) > 0 {
		t.Errorf("region role: %+v", set)
	}
	ask[registry.RegionReply](t, "region", "weight", "eu-west-1", "40", "--nats", home)
	for _, nats := range []string{home, abroad} {
		eventually(t, 10*time.Second, "the setting at "+nats, func() bool {
			list := ask[[]registry.RegionStatus](t, "region", "--nats", nats)
			return len(list) == 2 && list[0].Role == events.RoleStandby && list[0].Weight == 40 && list[0].Up == 2 &&
				list[0].Reachable && list[1].Role == events.RoleActive && list[1].Weight == 100
		})
	}
	none := ask[registry.RegionReply](t, "region", "role", "us-east-1", "standby", "--nats", home)
	if len(none.Warnings) != 1 || !strings.HasPrefix(none.Warnings[0], "no region is active any more") {
		t.Errorf("region role of the last active region: %+v", none)
	}
	ask[registry.RegionReply](t, "region", "role", "us-east-1", "active", "--nats", home)
	eventually(t, 10*time.Second, "a login beside the standby", func() bool { return dublin.login(f.ready).Server.Region == "us-east-1" })
	ask[registry.RegionReply](t, "region", "role", "eu-west-1", "active", "--nats", home)
	ask[registry.RegionReply](t, "region", "weight", "eu-west-1", "100", "--nats", home)
	eventually(t, 10*time.Second, "a login in eu-west-1", func() bool { return dublin.login(f.ready).Server.Region == "eu-west-1" })
}

// TestSIGTERM ends a server in the middle of a workflow: it says that it drains, serves on,
// gives the session away at its next refresh, and says goodbye.
func TestSIGTERM(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1,us-east-1", "--drain", "6s")
	dublin := client{t: t, location: nearDublin}
	login := dublin.login(ready)
	id := login.Server.ID
	tokens := adminURLs(ready)
	told := func(want events.State) {
		t.Helper()
		for region, admin := range tokens {
			eventually(t, 10*time.Second, id+" "+string(want)+" in "+region, func() bool { return readable(t, admin, id).State == want })
		}
	}
	call := func(step string, in, out any) {
		t.Helper()
		dublin.must("POST", login.Server.URL+"/api/"+step, login.AccessToken, in, out)
	}
	var o order
	call("cart", map[string]any{"items": []string{"tea"}}, &o)
	began := time.Now()
	signalServer(t, ready, id, syscall.SIGTERM)
	told(events.StateDraining)
	t.Logf("draining everywhere after %s", time.Since(began).Round(time.Millisecond))
	if s := readable(t, tokens["us-east-1"], id); s.Reason != "announced" || s.DrainUntil.Sub(began) > 7*time.Second || s.DrainUntil.Before(began) {
		t.Errorf("drains until %s for %s", s.DrainUntil, s.Reason)
	}
	call("address", map[string]any{"orderId": o.OrderID, "address": "1 Quay"}, &o)
	call("checkout", map[string]any{"orderId": o.OrderID}, &o)
	if o.Status != "placed" {
		t.Errorf("the workflow ended as %+v", o)
	}
	moved := dublin.refresh(login.AuthURL, api.RefreshRequest{RefreshToken: login.RefreshToken})
	if moved.Reason != "server_draining" || moved.Server.ID == id || moved.Server.Region != "eu-west-1" {
		t.Errorf("refresh: %s for %s", moved.Server.ID, moved.Reason)
	}
	workflow(t, dublin, moved)
	told(events.StateLeft)
	eventually(t, 5*time.Second, "the end of its listener", func() bool {
		status, _ := dublin.call("GET", login.Server.URL+"/healthz", "", nil, nil)
		return status != http.StatusNoContent
	})
}

// adminURLs returns the admin listeners of the token services by region.
func adminURLs(ready dev.Ready) map[string]string {
	urls := map[string]string{}
	for _, r := range ready.Regions {
		urls[r.Region] = r.AdminURL
	}
	return urls
}

// TestGoodbyeComesLast: a server that is told to end takes no more requests, finishes the one
// it has, and only then says that it has left.
func TestGoodbyeComesLast(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--drain", "200ms")
	dublin := client{t: t, location: nearDublin}
	login := dublin.login(ready)
	id, admin := login.Server.ID, ready.Regions[0].AdminURL
	body, slow := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, login.Server.URL+"/api/cart", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+login.AccessToken)
	answered := make(chan int, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("the request in flight: %v", err)
			answered <- 0
			return
		}
		_ = resp.Body.Close()
		answered <- resp.StatusCode
	}()
	if _, err := io.WriteString(slow, `{"items":`); err != nil {
		t.Fatal(err)
	}
	signalServer(t, ready, id, syscall.SIGTERM)
	eventually(t, 5*time.Second, "the end of its listener", func() bool {
		status, _ := dublin.call("GET", login.Server.URL+"/healthz", "", nil, nil)
		return status == 0
	})
	if s := readable(t, admin, id); s.State != events.StateDraining {
		t.Errorf("%s is %s with a request in flight", id, s.State)
	}
	if _, err := io.WriteString(slow, `["tea"]}`); err != nil {
		t.Fatal(err)
	}
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status != http.StatusCreated {
		t.Errorf("the request in flight was answered with %d", status)
	}
	eventually(t, 5*time.Second, id+" gone", func() bool { return readable(t, admin, id).State == events.StateLeft })
}
