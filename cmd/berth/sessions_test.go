package main

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
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
	if len(list) != 1 || list[0].Session != far.SessionID || list[0].Region != "eu-west-1" || list[0].ServerRegion != "ap-southeast-1" {
		t.Errorf("list: %+v", list)
	}
	for _, args := range [][]string{{"--region", "ap-southeast-1"}, {"--region", "eu-west-1"}, {"--server", far.Server.ID}} {
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
