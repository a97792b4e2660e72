package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestOperate looks at a fleet with the commands, and sees a killed server come back.
func TestOperate(t *testing.T) {
	t.Parallel() // it mostly waits
	file := filepath.Join(t.TempDir(), "ready.json")
	p := start(t, "dev", "--base-port", "0", "--ready-file", file, "--regions", "eu-west-1", "--servers", "1", "--restart", "300ms")
	ready := readyFile(t, p, file)
	url := ready.Regions[0].NATSURL

	out, err := berth(t.Context(), t, "servers", "--nats", url, "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []events.Server
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(list) != 1 || list[0].Server != "eu-west-1-a" || list[0].State != events.StateUp || list[0].Load.Utilisation < 0 {
		t.Errorf("berth servers --json: %+v", list)
	}
	if out, err = berth(t.Context(), t, "servers", "--nats", url).Output(); err != nil || !strings.Contains(string(out), "1 server in the view of eu-west-1") {
		t.Errorf("berth servers: %v\n%s", err, out)
	}
	if out, err = berth(t.Context(), t, "servers", "--nats", url, "--region", "atlantis").CombinedOutput(); err == nil ||
		!strings.HasPrefix(string(out), `berth: region "atlantis" has no servers in the view of eu-west-1`) {
		t.Errorf("berth servers of an unknown region: %v\n%s", err, out)
	}

	if out, err = berth(t.Context(), t, "events", "--nats", url, "--region", "atlantis").CombinedOutput(); err == nil ||
		string(out) != "berth: no region \"atlantis\" in the view of eu-west-1; known are eu-west-1\n" {
		t.Errorf("berth events of an unknown region: %v\n%s", err, out)
	}

	// A context of the nats CLI names the server, too.
	config := t.TempDir()
	contexts := filepath.Join(config, "nats", "context")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(contexts, "dev.json"), []byte(`{"url":"`+url+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	byContext := berth(t.Context(), t, "servers", "--context", "dev")
	byContext.Env = append(byContext.Env, "XDG_CONFIG_HOME="+config)
	if out, err = byContext.CombinedOutput(); err != nil || !strings.Contains(string(out), "1 server in the view of eu-west-1") {
		t.Errorf("berth servers --context: %v\n%s", err, out)
	}

	watch := start(t, "events", "--nats", url, "--kind", "decision", "--kind", "server", "--count", "2", "--json")
	// Decisions are printed from the moment the command listens: log in until it does.
	c := client{t: t}
	var login api.TokensReply
	watch.eventually(t, 20*time.Second, "a decision event", func() bool {
		login = c.login(ready)
		return strings.Contains(watch.stdout.String(), `"subject":"berth.v1.decision.eu-west-1.move.login"`)
	})

	kill(t, ready, "eu-west-1-a")
	p.eventually(t, 20*time.Second, "the killed server to serve again", func() bool {
		again := readyFile(t, p, file)
		if again.Regions[0].Servers[0].PID == ready.Regions[0].Servers[0].PID {
			return false
		}
		status, _ := c.call("GET", login.Server.URL+"/healthz", "", nil, nil)
		return status == 204
	})
	var refreshed api.TokensReply
	eventually(t, 10*time.Second, "a refresh, once the registry knows of that too", func() bool {
		status, body := c.call("POST", ready.GlobalURL+"/v1/refresh", "", api.RefreshRequest{RefreshToken: login.RefreshToken}, &refreshed)
		if status != http.StatusOK && (status != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"no_healthy_server"`)) {
			t.Fatalf("a refresh while the only server is away: %d %s", status, body)
		}
		return status == http.StatusOK
	})
	eventually(t, 10*time.Second, "the workflow on the server that came back", func() bool {
		status, _ := c.call("POST", refreshed.Server.URL+"/api/cart", refreshed.AccessToken, map[string]any{"items": []string{"tea"}}, nil)
		return status == 201
	})
}

// readyFile reads the ready file once it is there.
func readyFile(t *testing.T, p *process, file string) dev.Ready {
	t.Helper()
	var ready dev.Ready
	p.eventually(t, 60*time.Second, "the ready file", func() bool {
		data, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(data, &ready) == nil
	})
	return ready
}

// TestDevDir stops a fleet that keeps its directory and starts it again: its sessions are
// still there. While it runs, nobody else can have the directory or the ports.
func TestDevDir(t *testing.T) {
	t.Parallel() // it mostly waits
	base, dir := freePorts(t, 12), t.TempDir()
	args := []string{"dev", "--base-port", fmt.Sprint(base), "--regions", "eu-west-1", "--servers", "1", "--dir", dir}
	file := filepath.Join(t.TempDir(), "ready.json")
	p := start(t, append(args, "--ready-file", file)...)
	ready := readyFile(t, p, file)
	c := client{t: t}
	login := c.login(ready)

	for _, second := range [][]string{
		{"dev", "--base-port", "0", "--regions", "eu-west-1", "--dir", dir},
		{"dev", "--base-port", fmt.Sprint(base), "--regions", "eu-west-1"},
	} {
		out, err := berth(t.Context(), t, second...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "in use") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("berth %s beside another: %v\n%s", strings.Join(second, " "), err, out)
		}
	}

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err != nil {
		t.Fatalf("berth dev ended with %v\n%s", err, p.stderr)
	}
	p.done <- nil
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p = start(t, append(args, "--ready-file", file)...)
	ready = readyFile(t, p, file)
	next := c.refresh(ready.GlobalURL, api.RefreshRequest{RefreshToken: login.RefreshToken})
	if next.SessionID != login.SessionID {
		t.Errorf("session %s became %s", login.SessionID, next.SessionID)
	}
	foundAtOwner(t, ready, next)
}

// freePorts returns the first of n free ports in a row.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for base := 20_000; base < 30_000; base += n {
		free := true
		for port := base; port < base+n && free; port++ {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// TestServiceWaitsForNATS starts a service before its NATS: it says so in clear lines, waits,
// and serves once NATS is there. A taken port and the NATS of another region end it.
func TestServiceWaitsForNATS(t *testing.T) {
	port := jetstreamtest.FreePort(t)
	url := fmt.Sprintf("nats://127.0.0.1:%d", port)
	registry := start(t, "registry", "--nats", url, "--region", "eu-west-1", "--admin", "127.0.0.1:0")
	registry.eventually(t, 10*time.Second, "a line about NATS", func() bool {
		return strings.Contains(registry.stderr.String(), url)
	})
	jetstreamtest.Start(t, embedded.RegionConfig{Region: "eu-west-1", Port: port})
	said(t, registry, "admin on ")

	out, err := berth(t.Context(), t, "registry", "--nats", url, "--region", "us-east-1", "--admin", "").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "us-east-1") || !strings.Contains(string(out), "eu-west-1") {
		t.Errorf("a registry at the NATS of another region: %v\n%s", err, out)
	}

	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	key := filepath.Join(t.TempDir(), "eu.key")
	if out, err := berth(t.Context(), t, "keys", "generate", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = berth(t.Context(), t, "tokens", "--nats", url, "--region", "eu-west-1", "--issuer", "https://api.example.com",
		"--key-file", key, "--listen", l.Addr().String()).CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "berth: listen on "+l.Addr().String()+": ") || !strings.Contains(string(out), "address already in use") {
		t.Errorf("a token service on a taken port: %v\n%s", err, out)
	}
}
