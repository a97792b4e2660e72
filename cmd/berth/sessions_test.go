package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// operatorCommand runs a command to its end and returns what it printed and its exit code.
func operatorCommand(t *testing.T, ready dev.Ready, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := berth(t.Context(), t, append(args, "--nats", ready.Regions[0].NATSURL)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errs, strings.NewReader(stdin)
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Run wraps nothing
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// moveToSingapore returns a session of a server in Singapore that Dublin owns.
func moveToSingapore(t *testing.T, ready dev.Ready) api.TokensReply {
	t.Helper()
	singapore := client{t: t, location: nearSingapore}
	login := client{t: t, location: nearDublin}.login(ready)
	var closest api.ClosestReply
	singapore.must("GET", ready.GlobalURL+"/v1/closestToMe", "", nil, &closest)
	return singapore.refresh(login.AuthURL, api.RefreshRequest{RefreshToken: login.RefreshToken, ClosestServerID: closest.ClosestServerID})
}

// served reports how the session's server answers its token.
func served(t *testing.T, s api.TokensReply) (status int, code string) {
	t.Helper()
	var p api.Problem
	status, body := client{t: t}.call("POST", s.Server.URL+"/api/cart", s.AccessToken, map[string]any{"items": []string{"tea"}}, nil)
	_ = json.Unmarshal([]byte(body), &p)
	return status, p.Code
}

// TestSessionsAcrossRegions lists, shows and ends sessions of a fleet of three regions from
// one of them, and measures how soon the servers of another region refuse them.
func TestSessionsAcrossRegions(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t)
	eventually(t, 20*time.Second, "all regions in the view", func() bool {
		out, _, code := operatorCommand(t, ready, "", "servers", "--json")
		return code == 0 && strings.Contains(out, "eu-west-1-b") && strings.Contains(out, "ap-southeast-1-b") && strings.Contains(out, "us-east-1-b")
	})
	far := moveToSingapore(t, ready)
	if far.Server.Region != "ap-southeast-1" {
		t.Fatalf("locked to %+v", far.Server)
	}
	if status, code := served(t, far); status != http.StatusCreated {
		t.Fatalf("before: %d %s", status, code)
	}

	out, errs, code := operatorCommand(t, ready, "", "sessions", "list", "--subject", ready.Users[0].Username, "--json")
	var list []tokens.SessionEntry
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 {
		t.Fatalf("list: %v, exit %d\n%s%s", err, code, out, errs)
	}
	if len(list) != 1 || list[0].Session != far.SessionID || list[0].ServerRegion != "ap-southeast-1" {
		t.Errorf("list: %+v", list)
	}
	for _, args := range [][]string{{"--region", "ap-southeast-1"}, {"--server", far.Server.ID}, {"list", "--subject", ready.Users[0].Username}} {
		if out, errs, code := operatorCommand(t, ready, "", append([]string{"sessions"}, args...)...); code != 0 || !strings.Contains(out, far.SessionID) {
			t.Errorf("sessions %v: exit %d\n%s%s", args, code, out, errs)
		}
	}
	out, errs, code = operatorCommand(t, ready, "", "sessions", "show", far.SessionID)
	if code != 0 || !strings.Contains(out, far.Server.ID+" in ap-southeast-1") || strings.Contains(out, far.RefreshToken) {
		t.Errorf("show: exit %d\n%s%s", code, out, errs)
	}

	// By command, in another region than the owner's and the server's.
	stop := watchRefusal(t, far)
	out, errs, code = operatorCommand(t, ready, "", "sessions", "revoke", far.SessionID)
	if code != 0 || out != "1 session ended\n" {
		t.Errorf("revoke: exit %d\n%s%s", code, out, errs)
	}
	refusedAt := stop()
	t.Logf("ended by command: refused in ap-southeast-1 %s before the command had returned", time.Since(refusedAt).Round(time.Millisecond))
	if status, code := (client{t: t}).call("POST", far.AuthURL+"/v1/refresh", "", api.RefreshRequest{RefreshToken: far.RefreshToken}, nil); status != 401 {
		t.Errorf("refresh of an ended session: %d %s", status, code)
	}
	out, _, code = operatorCommand(t, ready, "", "sessions", "revoke", far.SessionID)
	if code != 0 || out != "0 sessions ended, 1 had before\n" {
		t.Errorf("again: exit %d %s", code, out)
	}

	// By logout at the owner.
	far = moveToSingapore(t, ready)
	if status, code := served(t, far); status != http.StatusCreated {
		t.Fatalf("before: %d %s", status, code)
	}
	stop = watchRefusal(t, far)
	client{t: t}.must("POST", far.AuthURL+"/v1/logout", "", api.LogoutRequest{RefreshToken: far.RefreshToken}, nil)
	done := time.Now()
	t.Logf("ended by logout: refused in ap-southeast-1 %s after the answer (negative: before)", stop().Sub(done).Round(10*time.Microsecond))
}

// watchRefusal asks the session's server again and again. What it returns waits for the first
// refusal and says when that was.
func watchRefusal(t *testing.T, s api.TokensReply) func() time.Time {
	t.Helper()
	first := make(chan time.Time, 1)
	go func() {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if status, code := served(t, s); status == http.StatusUnauthorized && code == string(api.CodeSessionRevoked) {
				first <- time.Now()
				return
			}
		}
		close(first)
	}()
	return func() time.Time {
		t.Helper()
		at, ok := <-first
		if !ok {
			t.Fatal("the server did not refuse the session")
		}
		return at
	}
}

// TestSessionsRevokeByFilter ends many sessions: asked before, counted first, told when some
// could not be asked.
func TestSessionsRevokeByFilter(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	c := client{t: t}
	var all []api.TokensReply
	for range 3 {
		all = append(all, c.login(ready))
	}
	user := ready.Users[0].Username
	for _, step := range []struct {
		name, stdin, stdout, stderr string
		args                        []string
		code                        int
	}{
		{"nothing named", "", "", "name sessions, or say which", nil, 1},
		{"both", "", "", "not both", []string{"x", "--subject", user}, 1},
		{"a wild id", "", "", "want 1 to 64", []string{"global.*"}, 1},
		{"a wild filter", "", "", "want 1 to 64", []string{"--org", ">"}, 1},
		{"an unknown id", "", "0 sessions ended\n", "nobody goes on: no region that answered knows it", []string{"nobody"}, 1},
		{"dry", "", "3 sessions would be ended\n", "", []string{"--subject", user, "--dry-run"}, 0},
		{"no", "n\n", "", "not confirmed; no session was ended", []string{"--subject", user}, 1},
		{"no answer", "", "", "not confirmed; no session was ended", []string{"--subject", user}, 1},
		{"nobody's", "", "0 sessions ended\n", "", []string{"--subject", "nobody"}, 0},
		{"yes", "y\n", "3 sessions ended\n", "End 3 sessions?", []string{"--subject", user}, 0},
		{"again", "", "0 sessions ended, 3 had before\n", "", []string{"--subject", user, "--yes"}, 0},
		{"dry again", "", "0 sessions would be ended\n", "", []string{"--subject", user, "--dry-run"}, 0},
	} {
		out, errs, code := operatorCommand(t, ready, step.stdin, append([]string{"sessions", "revoke"}, step.args...)...)
		if code != step.code || out != step.stdout || !strings.Contains(errs, step.stderr) {
			t.Errorf("%s: exit %d\n%s%s", step.name, code, out, errs)
		}
	}
	for _, s := range all {
		if status, code := served(t, s); status != 401 || code != "session_revoked" {
			t.Errorf("an ended session: %d %s", status, code)
		}
	}
}

// TestWhatIsEndedStandsOnTheCommandLine sets what services are set by: it must not be taken for the
// sessions to end.
func TestWhatIsEndedStandsOnTheCommandLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(file, []byte("region: eu-west-1\nserver: eu-west-1-a\nyes: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := berth(t.Context(), t, "sessions", "revoke", "--config", file)
	cmd.Env = append(cmd.Env, "BERTH_REGION=eu-west-1", "BERTH_SERVER=eu-west-1-a", "BERTH_ORG=acme", "BERTH_SUBJECT=ada", "BERTH_YES=true")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "berth: name sessions, or say which by") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSessionsInterrupted interrupts a mass revocation: what it says has ended has, and the same
// command goes on.
func TestSessionsInterrupted(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	const n = 800
	writeSessions(t, ready.Regions[0].NATSURL, n)
	args := []string{"sessions", "revoke", "--org", "acme", "--yes", "--rate", "200", "--nats", ready.Regions[0].NATSURL}
	p := start(t, args...)
	p.eventually(t, 20*time.Second, "the first progress", func() bool { return strings.Contains(p.stderr.String(), "ended of about 800") })
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := <-p.done
	p.done <- nil
	var ended int
	if _, scanErr := fmt.Sscanf(p.stdout.String(), "%d sessions ended\n", &ended); scanErr != nil || err == nil || !strings.Contains(p.stderr.String(), "interrupted after") {
		t.Fatalf("interrupted: %v, %v\n%s%s", err, scanErr, p.stdout, p.stderr)
	}
	out, _, _ := operatorCommand(t, ready, "", "sessions", "list", "--org", "acme", "--state", "revoked", "--count")
	if want := fmt.Sprintf("%d sessions\n", ended); out != want || ended == 0 || ended == n {
		t.Errorf("it said that %d have ended; there are %s", ended, out)
	}
	out, errs, code := operatorCommand(t, ready, "", "sessions", "revoke", "--org", "acme", "--yes", "--rate", "10000", "--json")
	var rest revokeOutcome
	if err := json.Unmarshal([]byte(out), &rest); err != nil || code != 0 || rest.Ended != n-ended || rest.Already != ended {
		t.Errorf("the rest: exit %d, %v\n%s%s", code, err, out, errs)
	}
}

// writeSessions writes sessions of the organization acme as a token service would.
func writeSessions(t *testing.T, url string, n int) {
	t.Helper()
	records := jetstreamtest.Dial(t, url).Records()
	now := time.Now().UTC().Truncate(time.Second)
	for i := range n {
		rec := sessions.Start(sessions.Record{
			Session: fmt.Sprintf("01k9zj4q8r5t6v7w8x9y%06d", i), Jurisdiction: "global", Subject: "ada", ClientID: "berth", Org: "acme",
			StartedAt: now, ExpiresAt: now.Add(time.Hour),
		}, "eu-west-1", sessions.Answer{Server: "eu-west-1-a", Region: "eu-west-1"}, "op", now)
		if _, err := records.Put(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessionsOfARegionThatDoesNotAnswer has a region in the view whose token services are gone:
// what the others say is printed, and that it is not all.
func TestSessionsOfARegionThatDoesNotAnswer(t *testing.T) {
	t.Parallel() // it mostly waits
	nats := jetstreamtest.Start(t, embedded.RegionConfig{Region: "eu-west-1"})
	conn := jetstreamtest.Provisioned(t, nats.ClientURL())
	for _, region := range []string{"eu-west-1", "us-east-1"} {
		s := events.Server{
			Server: region + "-a", Region: region, URL: "http://127.0.0.1:1", Boot: "01ARZ3NDEKTSV4RRFFQ69G5FAV", State: events.StateUp,
			Reason: "heartbeat", Since: time.Now(), SeenAt: time.Now(), IntervalMS: 1000, Capacity: 100, Seq: 1,
		}
		value, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Servers().Put(t.Context(), s.Key(), value, 0); err != nil {
			t.Fatal(err)
		}
	}
	writeSessions(t, nats.ClientURL(), 3)
	key := filepath.Join(t.TempDir(), "eu.key")
	if out, err := berth(t.Context(), t, "keys", "generate", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("generate key: %v\n%s", err, out)
	}
	said(t, start(t, "tokens", "--nats", nats.ClientURL(), "--region", "eu-west-1", "--listen", "127.0.0.1:0", "--admin", "",
		"--issuer", "https://api.example.com", "--key-file", key), "serving on ")
	ready := dev.Ready{Regions: []dev.ReadyRegion{{NATSURL: nats.ClientURL()}}}
	const silent = "1 of 2 regions did not answer: us-east-1 (no token service can be reached)\n"
	for _, step := range []struct {
		args   []string
		stdout string
	}{
		{[]string{"list"}, "3 sessions\n"},
		{[]string{"list", "--count", "--json"}, "{\"sessions\": 3}\n"},
		{[]string{"list", "--subject", "nobody", "--json"}, "[]\n"},
		{[]string{"list", "--limit", "2"}, "2 sessions, and there are more"},
		{[]string{"show", "01k9zj4q8r5t6v7w8x9y000001"}, "epoch 1 of eu-west-1, generation 1"},
		{[]string{"show", "nobody"}, ""},
		{[]string{"revoke", "01k9zj4q8r5t6v7w8x9y000001"}, "1 session ended\n"},
		{[]string{"revoke", "--org", "acme", "--dry-run"}, "2 sessions would be ended\n"},
		{[]string{"revoke", "--org", "acme", "--yes"}, "2 sessions ended, 1 had before\n"},
	} {
		out, errs, code := operatorCommand(t, ready, "", append([]string{"sessions"}, step.args...)...)
		if code != 1 || !strings.Contains(out, step.stdout) || !strings.HasSuffix(errs, silent) {
			t.Errorf("sessions %v: exit %d\n%s%s", step.args, code, out, errs)
		}
	}
}
