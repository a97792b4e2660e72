package jetstreamtest

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/embedded"
)

// ProcessConfig says how to run a nats-server program.
type ProcessConfig struct {
	// Binary is the path of the program. Required.
	Binary string
	// Region is the region that it serves, with JetStream. Empty: it is a hub, with neither JetStream nor Hubs.
	Region string
	// Port is where clients connect, LeafPort where regions join a hub. 0: a free one.
	Port, LeafPort int
	// StoreDir holds streams, log and configuration. Empty: a temporary directory.
	StoreDir string
	// Hubs, Foreign and Cluster are those of embedded.RegionConfig.
	Hubs, Foreign []string
	Cluster       *embedded.Cluster
}

// Process is a running nats-server program.
type Process struct {
	cfg ProcessConfig
	cmd *exec.Cmd
}

// StartProcess runs the program until the test ends, and returns once it accepts connections.
func StartProcess(t testing.TB, cfg ProcessConfig) *Process {
	t.Helper()
	if cfg.Port == 0 {
		cfg.Port = FreePort(t)
	}
	if cfg.LeafPort == 0 && cfg.Region == "" {
		cfg.LeafPort = FreePort(t)
	}
	if cfg.StoreDir == "" {
		cfg.StoreDir = t.TempDir()
	}
	p := &Process{cfg: cfg}
	t.Cleanup(p.Kill)
	p.Start(t)
	return p
}

// ClientURL returns where clients connect.
func (p *Process) ClientURL() string { return "nats://" + loopback(p.cfg.Port) }

// LeafURL returns where regions join a hub.
func (p *Process) LeafURL() string { return "nats-leaf://" + loopback(p.cfg.LeafPort) }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// PID returns the process's id, 0 when it is not running.
func (p *Process) PID() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends the process by SIGKILL, as a crash does, and waits for its end. Killing what is dead does nothing.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}

// Start runs the program, anew after a Kill: same ports, same store.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	config := filepath.Join(p.cfg.StoreDir, "nats.json")
	// The program reads JSON, but not its escapes: a ">" has to stand as it is.
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(p.cfg.file())
	if err == nil {
		err = os.WriteFile(config, data.Bytes(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	logFile := filepath.Join(p.cfg.StoreDir, "nats.log")
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), p.cfg.Binary, "--config", config, "--log", logFile)
	p.cmd.Stderr = os.Stderr // what is wrong with the configuration is said there alone
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		t.Fatalf("start %s: %v", p.cfg.Binary, err)
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", loopback(p.cfg.Port))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(logFile)
			t.Fatalf("nats-server does not listen on port %d: %v\n%s", p.cfg.Port, err, text)
		}
	}
}

// file returns the program's configuration, what package embedded sets for its servers.
func (c *ProcessConfig) file() map[string]any {
	name := c.Region
	if name == "" {
		name = "hub"
	}
	leaf := map[string]any{"reconnect": "250ms", "no_advertise": true, "compression": "off"}
	file := map[string]any{
		"server_name":   name,
		"listen":        loopback(c.Port),
		"ping_interval": "2s",
		"ping_max":      2,
		"max_pending":   256 << 20,
		"leafnodes":     leaf,
	}
	if c.Region == "" {
		leaf["listen"] = loopback(c.LeafPort)
	} else {
		file["jetstream"] = map[string]any{
			"domain": c.Region, "store_dir": c.StoreDir, "max_memory_store": maxMemory, "max_file_store": maxStore,
		}
		c.accounts(file)
	}
	if len(c.Hubs) > 0 {
		deny := events.LeafDenials(c.Foreign)
		leaf["remotes"] = []any{map[string]any{
			"urls": c.Hubs, "account": account, "compression": "off",
			"deny_imports": deny, "deny_exports": append(slices.Clone(deny), events.LeafExportDenials(c.Region)...),
		}}
	}
	if c.Cluster != nil {
		file["server_name"] = c.Cluster.Node
		var routes []string
		for _, route := range c.Cluster.Routes {
			routes = append(routes, "nats-route://"+route)
		}
		file["cluster"] = map[string]any{
			"name": name, "listen": loopback(c.Cluster.Port), "no_advertise": true, "routes": routes,
		}
	}
	return file
}

// account holds everything of a region's.
const account = "BERTH"

// accounts lets berth's account hear whose connections end, which NATS says in its system account.
func (c *ProcessConfig) accounts(file map[string]any) {
	const disconnects = "$SYS.ACCOUNT." + account + ".DISCONNECT"
	file["accounts"] = map[string]any{
		"SYS": map[string]any{
			"users":   []any{map[string]string{"user": "sys", "password": "sys"}},
			"exports": []any{map[string]any{"stream": disconnects, "accounts": []string{account}}},
		},
		account: map[string]any{
			"jetstream": "enabled",
			"users":     []any{map[string]string{"user": "berth", "password": "berth"}},
			"imports":   []any{map[string]any{"stream": map[string]string{"account": "SYS", "subject": disconnects}}},
		},
	}
	file["system_account"], file["no_auth_user"] = "SYS", "berth"
}
