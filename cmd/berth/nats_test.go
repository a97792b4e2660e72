package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
)

// TestNATSCommand checks that operators see the fleet with the nats CLI as it is: heartbeats,
// the registry's consumer, the view and the services.
func TestNATSCommand(t *testing.T) {
	t.Parallel() // it mostly waits
	cli := tool(t, "nats")
	_, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	home := t.TempDir()
	nats := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, cli, append([]string{"--server", ready.Regions[0].NATSURL, "--no-context"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("nats %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"sub", "--count", "1", "berth.v1.heartbeat.>"}, []string{`"server":"eu-west-1-a"`, `"utilisation":`}},
		{[]string{"consumer", "ls", "BERTH_HEARTBEATS"}, []string{"registry"}},
		{[]string{"kv", "get", "berth_servers", "eu-west-1.eu-west-1-a", "--raw"}, []string{`"state":"up"`}},
		{[]string{"stream", "ls"}, []string{"BERTH_EVENTS", "BERTH_HEARTBEATS", "BERTH_VIEWS"}},
		{[]string{"micro", "ls"}, []string{"berth_tokens"}},
	} {
		out := nats(c.args...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("nats %s does not show %q:\n%s", strings.Join(c.args, " "), want, out)
			}
		}
	}
	watchServers(t, cli, home, ready)
}

// watchServers checks that `nats kv watch berth_servers` shows the death of a server.
func watchServers(t *testing.T, cli, home string, ready dev.Ready) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := new(lockedBuffer)
	cmd := exec.CommandContext(ctx, cli, "--server", ready.Regions[0].NATSURL, "--no-context", "kv", "watch", "berth_servers")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	eventually(t, 10*time.Second, "the server in nats kv watch", func() bool { return strings.Contains(out.String(), `"state":"up"`) })
	kill(t, ready, "eu-west-1-a")
	eventually(t, 15*time.Second, "its death in nats kv watch", func() bool { return strings.Contains(out.String(), `"state":"down"`) })
}
