package main

import (
	"bufio"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestProcesses runs the main job on separate processes: a NATS server for each of three
// regions and one for the hub, and a registry, a token service and two servers in each.
func TestProcesses(t *testing.T) {
	ready := startProcesses(t, "us-east-1", "eu-west-1", "ap-southeast-1")
	mainJob(t, ready)
}

// startProcesses runs a fleet as its operators would.
func startProcesses(t *testing.T, regions ...string) dev.Ready {
	t.Helper()
	dir := t.TempDir()
	program := tool(t, "nats-server")
	hub := jetstreamtest.StartProcess(t, jetstreamtest.ProcessConfig{Binary: program})
	users := filepath.Join(dir, "users.yaml")
	hash := berth(t.Context(), t, "user", "hash", "ada", "--scope", "orders")
	hash.Stdin = strings.NewReader("ada-dev\n")
	entry, err := hash.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, entry, 0o600); err != nil {
		t.Fatal(err)
	}
	// The front is the geo-DNS's stand-in. Its URL is the issuer, so it has to be known first.
	front := httptest.NewUnstartedServer(nil)
	ready := dev.Ready{
		GlobalURL: "http://" + front.Listener.Addr().String(),
		Users:     []dev.User{{Username: "ada", Password: "ada-dev"}},
	}
	var ways []dev.Way
	for _, name := range regions {
		nats := jetstreamtest.StartProcess(t, jetstreamtest.ProcessConfig{Binary: program, Region: name, Hubs: []string{hub.LeafURL()}})
		region, way := startRegion(t, dir, name, nats.ClientURL(), users, ready.GlobalURL)
		ready.Regions = append(ready.Regions, region)
		ways = append(ways, way)
	}
	front.Config.Handler = dev.NewFront(ways)
	front.Start()
	t.Cleanup(front.Close)
	c := client{t: t}
	for _, r := range ready.Regions {
		for _, way := range ways {
			// Every region has to know every server before the job begins.
			eventually(t, 30*time.Second, "servers of "+r.Region+" at "+way.URL, func() bool {
				status, body := c.call("GET", way.Admin+"/v1/servers", "", nil, nil)
				_, keys := c.call("GET", way.URL+"/.well-known/jwks.json", "", nil, nil)
				return status == 200 && strings.Contains(body, r.Servers[0].ID) && strings.Contains(body, r.Servers[1].ID) &&
					strings.Contains(keys, `"`+r.Region+".")
			})
		}
	}
	return ready
}

// startRegion runs the services and servers of a region.
func startRegion(t *testing.T, dir, name, nats, users, issuer string) (dev.ReadyRegion, dev.Way) {
	t.Helper()
	key := filepath.Join(dir, name+".key")
	if out, err := berth(t.Context(), t, "keys", "generate", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("generate key: %v\n%s", err, out)
	}
	start(t, "registry", "--nats", nats, "--region", name, "--admin", "127.0.0.1:0")
	service := start(t, "tokens", "--nats", nats, "--region", name, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--issuer", issuer, "--key-file", key, "--users-file", users, "--trust-location")
	region := dev.ReadyRegion{Region: name, NATSURL: nats, TokensURL: said(t, service, "serving on ")}
	for _, suffix := range []string{"a", "b"} {
		id := name + "-" + suffix
		s := start(t, "demo", "--nats", nats, "--region", name, "--server", id, "--listen", "127.0.0.1:0",
			"--issuer", issuer, "--location", dev.Location(name).String())
		region.Servers = append(region.Servers, dev.ReadyServer{ID: id, URL: said(t, s, "serving on "), PID: s.cmd.Process.Pid})
	}
	return region, dev.Way{Region: name, URL: region.TokensURL, Admin: said(t, service, "admin on ")}
}

// said waits for a line with the prefix and returns the rest of it.
func said(t *testing.T, p *process, prefix string) string {
	t.Helper()
	var rest string
	p.eventually(t, 30*time.Second, fmt.Sprintf("a line %q", prefix), func() bool {
		lines := bufio.NewScanner(strings.NewReader(p.stdout.String()))
		for lines.Scan() {
			var ok bool
			if rest, ok = strings.CutPrefix(lines.Text(), prefix); ok {
				return true
			}
		}
		return false
	})
	return rest
}

// tool returns the path of a program of the tools module, built into Go's cache.
func tool(t *testing.T, name string) string {
	t.Helper()
	mod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "tools")
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-C", dir, "-n", name).Output()
	if err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	return strings.TrimSpace(string(path))
}
