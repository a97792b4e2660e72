package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/policy"
)

// TestPolicy changes the policy of a running fleet, from a region that is not the primary one.
func TestPolicy(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1,ap-southeast-1", "--servers", "1")
	other := dev.Ready{Regions: ready.Regions[1:]}
	nc, err := nats.Connect(ready.Regions[0].NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	decisions, err := nc.SubscribeSync(events.Subject{Kind: events.KindDecision}.Filter())
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// decided returns the decision about a new session.
	decided := func() *events.Decision {
		t.Helper()
		session := client{t: t}.login(ready).SessionID
		for {
			m, err := decisions.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			e, err := events.Decode(m.Subject, m.Data)
			if d, ok := e.(*events.Decision); err == nil && ok && d.Session == session {
				return d
			}
		}
	}
	if d := decided(); d.Policy != "spread+prices" || d.Variant != "" {
		t.Errorf("before: policy %q, variant %q", d.Policy, d.Variant)
	}
	eventually(t, 20*time.Second, "the other region hears the primary one", func() bool {
		_, stderr, code := operatorCommand(t, other, "", "policy", "get")
		return code == 0 && !strings.Contains(stderr, "has not heard of region")
	})
	if stdout, stderr, code := operatorCommand(t, other, "", "policy", "get"); code != 0 || stdout != "version: 1\npolicy: spread+prices\n" || !strings.Contains(stderr, "no policy was ever set") {
		t.Errorf("get: exit code %d, %q, %q", code, stdout, stderr)
	}

	const document = "version: 1\npolicy: p2c # for a while\nvariants: [{name: all, percent: 100, cooldown: 1m}]\n"
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	const diff = "all.cooldown: none -> 1m0s\nall.critical_bound: none -> default\nall.drain_deadline: none -> default\nall.max_rtt_ms: none -> 0\n" +
		"all.percent: none -> 100\nall.policy: none -> p2c\nall.refresh_interval: none -> default\nall.return_after: none -> default\npolicy: spread+prices -> p2c\nvariants: none -> all\n"
	if stdout, stderr, code := operatorCommand(t, other, "", "policy", "diff", file); code != 0 || stdout != diff || stderr != "" {
		t.Errorf("diff: exit code %d, %q, %q", code, stdout, stderr)
	}
	for _, want := range []string{"policy is p2c; all 100% p2c\n", "policy was already p2c; all 100% p2c\n"} {
		began := time.Now()
		if stdout, stderr, code := operatorCommand(t, other, "", "policy", "set", file); code != 0 || stdout != want || stderr != "" {
			t.Fatalf("set: exit code %d, %q, %q", code, stdout, stderr)
		}
		set := time.Now()
		eventually(t, 5*time.Second, "a decision by the new policy", func() bool { d := decided(); return d.Policy == "p2c" && d.Variant == "all" })
		t.Logf("in force %s after `berth policy set` ended, which took %s", time.Since(set).Round(time.Millisecond), set.Sub(began).Round(time.Millisecond))
	}
	for name, bad := range map[string]string{"unknown field": "version: 1\ncooldwn: 5m\n", `want literal,`: "version: 1\n\npolicy: sprad\n"} {
		for _, verb := range []string{"set", "check"} {
			args := []string{"policy", verb, "-"}
			stdout, stderr, code := "", "", 0
			if verb == "set" {
				stdout, stderr, code = operatorCommand(t, other, bad, args...)
			} else {
				cmd := berth(t.Context(), t, args...)
				cmd.Stdin = strings.NewReader(bad)
				out, err := cmd.CombinedOutput()
				if err != nil {
					code, stderr = 1, string(out)
				}
			}
			if code == 0 || stdout != "" || !strings.Contains(stderr, name) || !strings.Contains(stderr, "line ") {
				t.Errorf("%s of %q: exit code %d, %q, %q", verb, bad, code, stdout, stderr)
			}
		}
	}
	for _, at := range []dev.Ready{ready, other} {
		var reply policy.Reply
		stdout, stderr, code := operatorCommand(t, at, "", "policy", "get", "--json")
		if err := json.Unmarshal([]byte(stdout), &reply); err != nil || code != 0 || reply.Posted.Document != document || reply.Posted.ChangedBy != self() || reply.Primary != "eu-west-1" || len(reply.Warnings) > 0 {
			t.Errorf("get: exit code %d, %+v, %q", code, reply, stderr)
		}
		if stdout, _, code := operatorCommand(t, at, "", "policy", "get"); code != 0 || stdout != document {
			t.Errorf("get: exit code %d, %q", code, stdout)
		}
	}
	if d := decided(); d.Policy != "p2c" {
		t.Errorf("after what is not valid: policy %q", d.Policy)
	}
}
