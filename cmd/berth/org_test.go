package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
)

// TestOrg changes an organization from a region that is not the primary one, and reads it in both.
func TestOrg(t *testing.T) {
	_, ready := startDev(t, "--regions", "eu-west-1,ap-southeast-1", "--servers", "1")
	primary, other := ready, dev.Ready{Regions: ready.Regions[1:]}

	stdout, stderr, code := operatorCommand(t, other, "", "org", "get", "acme")
	if code != 0 || !strings.Contains(stdout, "acme          available") || !strings.Contains(stderr, "nothing is set of acme") {
		t.Errorf("before: exit code %d, %q, %q", code, stdout, stderr)
	}
	for _, want := range []string{"takeover of acme is strict\n", "takeover of acme was already strict\n"} {
		if stdout, stderr, code = operatorCommand(t, other, "", "org", "set", "acme", "--takeover", "strict"); code != 0 || stdout != want || stderr != "" {
			t.Errorf("set: exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	for _, at := range []dev.Ready{primary, other} {
		var reply residency.Reply
		jetstreamtest.Eventually(t, 5*time.Second, "the change is known in "+at.Regions[0].Region, func() bool {
			stdout, stderr, code := operatorCommand(t, at, "", "org", "get", "acme", "--json")
			if code != 0 || stderr != "" {
				t.Fatalf("get: exit code %d, %q", code, stderr)
			}
			return json.Unmarshal([]byte(stdout), &reply) == nil && reply.Org.Takeover == residency.TakeoverStrict
		})
		if reply.Region != at.Regions[0].Region || reply.Primary != "eu-west-1" || reply.AgeMS < 0 || reply.AgeMS > 5000 || !reply.Set || reply.Org.ChangedBy != self() {
			t.Errorf("%+v", reply)
		}
		stdout, stderr, code := operatorCommand(t, at, "", "org", "list")
		if code != 0 || stderr != "" || !strings.Contains(stdout, "acme          strict    20") ||
			!strings.Contains(stdout, "1 organization as of "+at.Regions[0].Region+"; they are changed in eu-west-1") {
			t.Errorf("list: exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	if stdout, _, code = operatorCommand(t, other, "", "org", "set", "acme", "--takeover", "available", "--json"); code != 0 || !strings.Contains(stdout, `"changed": true`) {
		t.Errorf("set back: exit code %d, %q", code, stdout)
	}
}
