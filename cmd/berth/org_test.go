package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
)

// TestOrg changes an organization from a region that is not the primary one, and reads it in both.
func TestOrg(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1,ap-southeast-1", "--servers", "1")
	primary, other := ready, dev.Ready{Regions: ready.Regions[1:]}

	stdout, stderr, code := operatorCommand(t, other, "", "org", "get", "acme")
	if code != 0 || !strings.Contains(stdout, "acme          available  all      none  none       global        -        -") || !strings.Contains(stderr, "nothing is set of acme") {
		t.Errorf("before: exit code %d, %q, %q", code, stdout, stderr)
	}
	for _, want := range []string{"acme: takeover available -> strict\n", "acme was already so: takeover strict, allowed all, home none, fallbacks none, jurisdiction global\n"} {
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
		if code != 0 || stderr != "" || !strings.Contains(stdout, "acme          strict    all      none  none       global        20") ||
			!strings.Contains(stdout, "1 organization as of "+at.Regions[0].Region+"; they are changed in eu-west-1") {
			t.Errorf("list: exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	if stdout, _, code = operatorCommand(t, other, "", "org", "set", "acme", "--takeover", "available", "--json"); code != 0 || !strings.Contains(stdout, `"changed": true`) {
		t.Errorf("set back: exit code %d, %q", code, stdout)
	}
	if stdout, _, code = operatorCommand(t, other, "", "org", "set", "passing", "--home", "ap-southeast-1"); code != 0 || stdout != "passing: home none -> ap-southeast-1\n" {
		t.Errorf("set a home: exit code %d, %q", code, stdout)
	}
	for _, want := range []string{"passing is deleted\n", "passing was not set\n"} {
		if stdout, stderr, code = operatorCommand(t, other, "", "org", "delete", "passing"); code != 0 || stdout != want || stderr != "" {
			t.Errorf("delete: exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the removal is known in "+other.Regions[0].Region, func() bool {
		_, stderr, code := operatorCommand(t, other, "", "org", "get", "passing")
		return code == 0 && strings.Contains(stderr, "nothing is set of passing")
	})
	importOrgs(t, other)

	// More than a message of NATS holds: the list comes in pages.
	written := manyOrgs(t, primary.Regions[0], 4500)
	var reply residency.Reply
	jetstreamtest.Eventually(t, 20*time.Second, "all organizations are known", func() bool {
		stdout, stderr, code := operatorCommand(t, other, "", "org", "list", "--json")
		if code != 0 || stderr != "" {
			t.Fatalf("list: exit code %d, %q", code, stderr)
		}
		return json.Unmarshal([]byte(stdout), &reply) == nil && len(reply.Orgs) >= written+1
	})
	last := ""
	for _, o := range reply.Orgs {
		if o.Org <= last {
			t.Fatalf("%s is listed after %s", o.Org, last)
		}
		last = o.Org
	}
	if len(reply.Orgs) != written+1 || reply.Next != "" || reply.Primary != "eu-west-1" || reply.AgeMS < 0 {
		t.Errorf("%d organizations, %+v", len(reply.Orgs), residency.Reply{Next: reply.Next, Primary: reply.Primary, AgeMS: reply.AgeMS})
	}
	if stdout, _, code = operatorCommand(t, other, "", "org", "list"); code != 0 || !strings.Contains(stdout, "4501 organizations as of ap-southeast-1") {
		t.Errorf("list: exit code %d", code)
	}
}

// importOrgs changes organizations by a file, of which nothing is taken while a row is bad.
func importOrgs(t *testing.T, at dev.Ready) {
	t.Helper()
	try := func(file string, wantCode int, want string, args ...string) {
		t.Helper()
		stdout, stderr, code := operatorCommand(t, at, file, append([]string{"org", "import", "-"}, args...)...)
		if code != wantCode || !strings.Contains(stdout+stderr, want) {
			t.Errorf("import: exit code %d, %q, %q; want %q", code, stdout, stderr, want)
		}
	}
	const good = "org,takeover,allowed,home\nnorth,strict,,eu-west-1\nacme,available,all,none\n"
	try("org,allowed,jurisdiction\nnorth,eu-west-1,eu\nsouth,eu-west-1,\n", 1, "line 2: organization north: jurisdiction eu is not known")
	try(good, 0, "1 added, 0 changed, 1 unchanged (dry run: nothing was changed)", "--dry-run")
	try(good, 0, "+ north: takeover strict, allowed all, home eu-west-1, fallbacks none, jurisdiction global\n1 added, 0 changed, 1 unchanged\n")
	jetstreamtest.Eventually(t, 5*time.Second, "the import is known", func() bool {
		stdout, _, _ := operatorCommand(t, at, "", "org", "list")
		return strings.Contains(stdout, "2 organizations")
	})
	stdout, _, _ := operatorCommand(t, at, "", "org", "list", "--json")
	try(stdout, 0, "0 added, 0 changed, 2 unchanged")
	try(`[{"org":"north","home":""}]`, 0, "~ north: home eu-west-1 -> none")
	if _, _, code := operatorCommand(t, at, "", "org", "delete", "north"); code != 0 {
		t.Error("not deleted")
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the removal is known", func() bool {
		stdout, _, _ := operatorCommand(t, at, "", "org", "list")
		return strings.Contains(stdout, "1 organization ")
	})
}

// manyOrgs writes n organizations, which take more than a megabyte.
func manyOrgs(t *testing.T, at dev.ReadyRegion, n int) int {
	t.Helper()
	js := jetstreamtest.Dial(t, at.NATSURL, func(c *jetstream.Config) { c.Region = at.Region }).JetStream()
	size := 0
	for i := range n {
		o := residency.Default(fmt.Sprintf("%s-%04d", strings.Repeat("o", 50), i))
		o.ChangedAt, o.ChangedBy = time.Now().UTC(), strings.Repeat("b", 128)
		data, err := residency.Encode(o)
		if err == nil {
			_, err = js.PublishAsync("$KV."+jetstream.BucketOrgs+"."+o.Org, data, natsjs.WithStallWait(10*time.Second))
		}
		if err != nil {
			t.Fatal(err)
		}
		size += len(data)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(20 * time.Second):
		t.Fatal("the organizations were not stored")
	}
	if size <= 1<<20 {
		t.Fatalf("%d bytes fit into a message", size)
	}
	return n
}
