package embedded_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/berthhq/berth/jetstream/embedded"
)

// holdEnv makes the test binary hold a store directory, for TestStoreInUseByAnotherProcess.
const holdEnv = "BERTH_TEST_HOLD_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		os.Exit(hold(dir))
	}
	goleak.VerifyTestMain(m)
}

// hold runs a region on dir until its standard input is closed.
func hold(dir string) int {
	r, err := embedded.NewRegion(embedded.RegionConfig{Region: "eu-west-1", StoreDir: dir})
	if err == nil {
		err = r.Start(context.Background())
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	os.Stdout.WriteString("up\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// startRegion runs a region until the test ends.
func startRegion(t *testing.T, cfg embedded.RegionConfig) *embedded.Region {
	t.Helper()
	if cfg.Region == "" {
		cfg.Region = "eu-west-1"
	}
	if cfg.StoreDir == "" {
		cfg.StoreDir = t.TempDir()
	}
	r, err := embedded.NewRegion(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Shutdown(); err != nil {
			t.Errorf("shut down: %v", err)
		}
	})
	return r
}

func connect(t *testing.T, url string, opts ...nats.Option) natsjs.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestRegionIsADomainOnLoopback(t *testing.T) {
	r := startRegion(t, embedded.RegionConfig{})
	js := connect(t, r.ClientURL())
	info, err := js.AccountInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Domain != "eu-west-1" {
		t.Errorf("domain %q, want eu-west-1", info.Domain)
	}
	if !strings.HasPrefix(r.ClientURL(), "nats://127.0.0.1:") {
		t.Errorf("listens at %s, want loopback", r.ClientURL())
	}
	if r.Joined() {
		t.Error("a region without hubs says it has joined one")
	}
}

func TestRegionRestartsInPlace(t *testing.T) {
	r := startRegion(t, embedded.RegionConfig{})
	url := r.ClientURL()
	js := connect(t, url)
	if _, err := js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "KEPT", Subjects: []string{"kept.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kept.a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.ClientURL() != url {
		t.Errorf("restarted at %s, before at %s", r.ClientURL(), url)
	}
	s, err := connect(t, r.ClientURL()).Stream(t.Context(), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	if msgs := s.CachedInfo().State.Msgs; msgs != 1 {
		t.Errorf("%d messages after the restart, want 1", msgs)
	}
}

func TestRegionWithoutSockets(t *testing.T) {
	r := startRegion(t, embedded.RegionConfig{NoListen: true})
	js := connect(t, "", nats.InProcessServer(r))
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	dir := t.TempDir()
	r, err := embedded.NewRegion(embedded.RegionConfig{Region: "eu-west-1", Port: port, StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), strconv.Itoa(port)) {
		t.Errorf("got %v, want an error that names port %d as in use", err, port)
	}
	h, err := embedded.NewHub(embedded.HubConfig{LeafPort: port})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want an error that names the leaf port as in use", err)
	}
	// A failed start leaves nothing behind: neither the lock nor the server.
	startRegion(t, embedded.RegionConfig{StoreDir: dir})
}

func TestStoreDirectoryUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := embedded.NewRegion(embedded.RegionConfig{Region: "eu-west-1", StoreDir: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "store directory") {
		t.Errorf("got %v, want an error about the store directory", err)
	}
}

func TestStoreInUseByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	other := exec.CommandContext(t.Context(), os.Args[0])
	other.Env = append(os.Environ(), holdEnv+"="+dir)
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the other process did not start: %v", err)
	}
	r, err := embedded.NewRegion(embedded.RegionConfig{Region: "eu-west-1", StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	want := "in use by another process (pid " + strconv.Itoa(other.Process.Pid) + ")"
	if err := r.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	// The lock dies with its holder, however that dies.
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	_ = other.Wait()
	if err := r.Start(t.Context()); err != nil {
		t.Errorf("start after the other process died: %v", err)
	}
	if err := r.Shutdown(); err != nil {
		t.Error(err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := embedded.NewRegion(embedded.RegionConfig{Region: "eu-west-1", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	// Listening may win the race against the ended context; a server left running would not.
	if err := r.Start(ctx); err == nil {
		t.Cleanup(func() { _ = r.Shutdown() })
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestConfigFaults(t *testing.T) {
	ok := embedded.RegionConfig{Region: "eu-west-1", StoreDir: "dir"}
	tests := map[string]struct {
		change func(*embedded.RegionConfig)
		want   string
	}{
		"region":       {func(c *embedded.RegionConfig) { c.Region = "EU" }, `region "EU"`},
		"no region":    {func(c *embedded.RegionConfig) { c.Region = "" }, `region ""`},
		"no store":     {func(c *embedded.RegionConfig) { c.StoreDir = "" }, "no store directory"},
		"port":         {func(c *embedded.RegionConfig) { c.Port = 70000 }, "port 70000"},
		"limit":        {func(c *embedded.RegionConfig) { c.MaxStore = -1 }, "limits"},
		"hub":          {func(c *embedded.RegionConfig) { c.Hubs = []string{"nowhere"} }, `hub "nats-leaf://nowhere"`},
		"jurisdiction": {func(c *embedded.RegionConfig) { c.Foreign = []string{"a.b"} }, `jurisdiction "a.b"`},
		"node":         {func(c *embedded.RegionConfig) { c.Cluster = &embedded.Cluster{} }, "without a node name"},
		"routes":       {func(c *embedded.RegionConfig) { c.Cluster = &embedded.Cluster{Node: "a", Port: 1} }, "without routes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := ok
			test.change(&cfg)
			if _, err := embedded.NewRegion(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	if _, err := embedded.NewRegion(ok); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	if _, err := embedded.NewHub(embedded.HubConfig{LeafPort: -2}); err == nil {
		t.Error("hub with leaf port -2: no error")
	}
}

func TestRegionJoinsALateHub(t *testing.T) {
	hub, err := embedded.NewHub(embedded.HubConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaf := hub.LeafURL()
	if err := hub.Shutdown(); err != nil {
		t.Fatal(err)
	}
	r := startRegion(t, embedded.RegionConfig{Hubs: []string{leaf}})
	if r.Joined() {
		t.Fatal("joined a hub that is not there")
	}
	if err := hub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hub.Shutdown() })
	if hub.LeafURL() != leaf {
		t.Errorf("the hub restarted at %s, before at %s", hub.LeafURL(), leaf)
	}
	for deadline := time.Now().Add(5 * time.Second); !r.Joined() || hub.Leaves() != 1; {
		if time.Now().After(deadline) {
			t.Fatal("not joined within 5 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
