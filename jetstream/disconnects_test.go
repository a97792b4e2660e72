package jetstream_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// boot is a regional server's.
const boot = "01JD0000000000000000000001"

// disconnects returns what a registry on conn is told.
func disconnects(t *testing.T, conn *jetstream.Conn, users ...string) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	stop, err := conn.Disconnects(users...).Watch(t.Context(), func(server, boot string) { heard <- server + " " + boot })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return heard
}

// come connects to url as a regional server of that user, and goes again.
func come(t *testing.T, url, user, region, server string) {
	t.Helper()
	c, err := jetstream.Dial(t.Context(), jetstream.Config{
		URL: url, Role: jetstream.RoleServer, Region: region, Server: server, Boot: boot,
		Options: []nats.Option{nats.UserInfo(user, user)},
	})
	if err != nil {
		t.Fatal(err)
	}
	kill(t, c)
}

// kill ends a connection as that of a killed process ends: nothing is flushed.
func kill(t *testing.T, c *jetstream.Conn) {
	t.Helper()
	c.NATS().Close()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// next returns what is heard next.
func next(t *testing.T, heard <-chan string) string {
	t.Helper()
	select {
	case s := <-heard:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is heard")
		return ""
	}
}

func TestDisconnects(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: "eu-west-1"})
	heard := disconnects(t, jetstreamtest.Dial(t, r.ClientURL()))
	// What is no regional server of this region is not told of; the last one ends the wait.
	for _, c := range []jetstream.Config{
		{Role: "tokens", Region: "eu-west-1"},
		{Role: "tokens", Server: "eu-west-1-a", Boot: boot},
		{Role: jetstream.RoleServer, Server: "eu-west-1-a", Boot: boot}, // of no region
		{Role: jetstream.RoleServer, Region: "eu-west-1", Server: "eu-west-1-a"},
		{Role: jetstream.RoleServer, Region: "eu-west-1", Server: "eu-west-1-a", Boot: boot},
	} {
		c.URL = r.ClientURL()
		conn, err := jetstream.Dial(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		kill(t, conn)
	}
	if got, want := next(t, heard), "eu-west-1-a "+boot; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
	jetstreamtest.Restart(t, r)
	jetstreamtest.Eventually(t, 10*time.Second, "the loss after a restart of NATS", func() bool {
		come(t, r.ClientURL(), "", "eu-west-1", "eu-west-1-b")
		select {
		case got := <-heard:
			return got == "eu-west-1-b "+boot
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
}

// accounts is a NATS that knows its users, as an operator configures it.
const accounts = `
accounts {
  SYS { users: [{user: sys, password: sys}], exports: [{stream: "$SYS.ACCOUNT.BERTH.DISCONNECT", accounts: [BERTH]}] }
  BERTH {
    jetstream: enabled
    users: [
      {user: registry, password: registry}
      {user: eu-west-1-a, password: eu-west-1-a, permissions: {publish: ["berth.v1.heartbeat.eu-west-1.eu-west-1-a", "$JS.API.INFO"]}}
      {user: eu-west-1.eu-west-1-b, password: eu-west-1.eu-west-1-b}
      {user: servers, password: servers}
      {user: mallory, password: mallory}
    ]
    imports: [{stream: {account: SYS, subject: "$SYS.ACCOUNT.BERTH.DISCONNECT"}}]
  }
  OTHER { jetstream: enabled, users: [{user: other, password: other}] }
}
system_account: SYS
`

// TestDisconnectsByUser: whose connection it is counts, not what it calls itself.
func TestDisconnectsByUser(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: "eu-west-1", Adjust: func(o *server.Options) {
		if err := o.ProcessConfigString(accounts); err != nil {
			t.Error(err)
		}
	}})
	registry := jetstreamtest.Dial(t, r.ClientURL(), func(c *jetstream.Config) {
		c.Options = []nats.Option{nats.UserInfo("registry", "registry")}
	})
	heard := disconnects(t, registry, "servers")
	for _, c := range []struct{ user, server string }{
		{"mallory", "eu-west-1-a"},
		{"eu-west-1-a", "eu-west-1-b"},
		{"eu-west-1-a", "eu-west-1-a"}, // heard
		{"eu-west-1.eu-west-1-b", "eu-west-1-a"},
		{"eu-west-1.eu-west-1-b", "eu-west-1-b"}, // heard
		{"servers", "eu-west-1-c"},               // heard
		{"registry", "eu-west-1-d"},              // heard
	} {
		come(t, r.ClientURL(), c.user, "eu-west-1", c.server)
	}
	var got []string
	for range 4 {
		server, _, _ := strings.Cut(next(t, heard), " ")
		got = append(got, server)
	}
	if got, want := strings.Join(got, " "), "eu-west-1-a eu-west-1-b eu-west-1-c eu-west-1-d"; got != want {
		t.Errorf("heard %s, want %s", got, want)
	}
}

// TestDocumentedAccounts runs NATS with the accounts that docs/nats.md shows.
func TestDocumentedAccounts(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "nats.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```")
	if len(blocks) != 3 {
		t.Fatalf("%d parts around blocks in docs/nats.md, want 3", len(blocks))
	}
	for _, name := range []string{"SYS_PASSWORD", "REGISTRY_PASSWORD", "TOKENS_PASSWORD", "OPERATOR_PASSWORD", "SERVER_PASSWORD"} {
		t.Setenv(name, "secret")
	}
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: "eu-west-1", Adjust: func(o *server.Options) {
		if err := o.ProcessConfigString(blocks[1]); err != nil {
			t.Error(err)
		}
	}})
	as := func(user string) func(*jetstream.Config) {
		return func(c *jetstream.Config) { c.Options = []nats.Option{nats.UserInfo(user, "secret")} }
	}
	heard := disconnects(t, jetstreamtest.Dial(t, r.ClientURL(), as("registry")))
	c := jetstream.Config{URL: r.ClientURL(), Role: jetstream.RoleServer, Region: "eu-west-1", Server: "eu-west-1-a", Boot: boot}
	as("eu-west-1-a")(&c)
	conn, err := jetstream.Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, conn)
	if got, want := next(t, heard), "eu-west-1-a "+boot; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}
