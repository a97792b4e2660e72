package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestKeysRotate rotates a region's key by the commands while the other region's token service is
// dead: the command names it, and may be interrupted, and the token service killed, for nothing is
// lost by that. Then a leaked key is ended: its sessions have to log in again, others go on.
func TestKeysRotate(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1", "ap-southeast-1")
	home := f.regions["eu-west-1"]
	nats := natsOf(f.ready, "eu-west-1")
	dublin := client{t: t, location: nearDublin}
	session := dublin.login(f.ready)
	workflow(t, dublin, session)
	old := ask[tokens.KeysReply](t, "keys", "list", "--nats", nats).Signing

	f.regions["ap-southeast-1"].tokens.crash(t)
	waiting := berth(t.Context(), t, "keys", "rotate", "--wait", "2s", "--nats", nats)
	out, err := waiting.CombinedOutput()
	if err == nil || waiting.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "not reported yet by ap-southeast-1") || !strings.Contains(string(out), old+" signs on") {
		t.Errorf("rotate without a region: %v\n%s", err, out)
	}
	patient := start(t, "keys", "rotate", "--wait", "5m", "--nats", nats)
	patient.eventually(t, 20*time.Second, "progress", func() bool { return strings.Contains(patient.stderr.String(), "not reported yet by ap-southeast-1") })
	if err := patient.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the interrupted command to say how to go on", func() bool {
		return strings.Contains(patient.stderr.String(), "the rotation goes on by itself, see: berth keys list")
	})
	home.tokens.crash(t)
	home.tokens = start(t, home.tokensArgs...)
	said(t, home.tokens, "serving on ")
	session = dublin.refresh(session.AuthURL, api.RefreshRequest{RefreshToken: session.RefreshToken})
	abroad := f.regions["ap-southeast-1"]
	abroad.tokens = start(t, abroad.tokensArgs...)
	said(t, abroad.tokens, "serving on ")
	done := ask[tokens.KeysReply](t, "keys", "rotate", "--wait", "60s", "--nats", nats)
	if done.Signing == old || done.Signing != done.KID || done.Waiting != nil {
		t.Errorf("rotate: %+v", done)
	}
	session = dublin.refresh(session.AuthURL, api.RefreshRequest{RefreshToken: session.RefreshToken})
	workflow(t, dublin, session)
	table, err := berth(t.Context(), t, "keys", "list", "--nats", nats).CombinedOutput()
	if err != nil || !strings.Contains(string(table), "retired") || !strings.Contains(string(table), "3 keys known in eu-west-1") {
		t.Errorf("list: %v\n%s", err, table)
	}

	far := client{t: t, location: "1.3,103.8"}
	other := far.login(f.ready)
	out, err = berth(t.Context(), t, "keys", "rotate", "--compromised", "--nats", nats).CombinedOutput()
	if err != nil || !strings.Contains(string(out), done.Signing+" is revoked") {
		t.Fatalf("rotate --compromised: %v\n%s", err, out)
	}
	eventually(t, 10*time.Second, "the server to refuse what the key signed", func() bool {
		status, _ := dublin.call("POST", session.Server.URL+"/api/cart", session.AccessToken, map[string]any{"items": []string{"tea"}}, nil)
		return status == http.StatusUnauthorized
	})
	if status, body := dublin.call("POST", session.AuthURL+"/v1/refresh", "", api.RefreshRequest{RefreshToken: session.RefreshToken}, nil); status != http.StatusUnauthorized {
		t.Errorf("a session of the leaked key: status %d: %s", status, body)
	}
	workflow(t, dublin, dublin.login(f.ready))
	workflow(t, far, other)
	if out, err := berth(t.Context(), t, "keys", "retire", "--now", "--nats", nats, other.Server.Region+".x").CombinedOutput(); err == nil || !strings.Contains(string(out), "not of region eu-west-1") {
		t.Errorf("retire another region's key: %v\n%s", err, out)
	}
}
