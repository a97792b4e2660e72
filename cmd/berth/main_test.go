package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// asBerth makes the test binary, and every process that it starts, the berth program. It is no BERTH_ variable: berth dev
// keeps those from its children.
const asBerth = "TEST_AS_BERTH"

// prompt lets a program that was built with the race detector end at once, not after a second, and at its first race, which
// no test survives.
const prompt = "GORACE=atexit_sleep_ms=0 halt_on_error=1"

func TestMain(m *testing.M) {
	if os.Getenv(asBerth) != "" {
		main()
	}
	jetstreamtest.AtOnce(4)
	code := m.Run()
	if dir := filepath.Dir(plain.path); plain.path != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// plain is the berth program as users build it, built once by the first test that needs it.
var plain struct {
	once sync.Once
	path string
	err  error
}

// berth returns a command that runs the berth program. All services in one process, as `berth dev` runs them, are the test
// binary itself, under the race detector if the tests are. The processes of a fleet are the program as users build it: with
// the detector dozens of them at a time would compete for the processors, and what is tested is how they fail.
func berth(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if len(args) > 0 && args[0] == "dev" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Env = append(os.Environ(), asBerth+"=1", prompt)
		return cmd
	}
	plain.once.Do(func() {
		var dir string
		if dir, plain.err = os.MkdirTemp("", "berth-"); plain.err != nil {
			return
		}
		plain.path = filepath.Join(dir, "berth")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", plain.path, ".").CombinedOutput(); err != nil {
			plain.err = fmt.Errorf("build the berth program: %w\n%s", err, out)
		}
	})
	if plain.err != nil {
		t.Fatal(plain.err)
	}
	return exec.CommandContext(ctx, plain.path, args...)
}

// process is a running berth command.
type process struct {
	cmd    *exec.Cmd
	stdout *lockedBuffer
	stderr *lockedBuffer
	done   chan error
}

// lockedBuffer is a buffer that a process writes while the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs a berth command until the test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: berth(context.WithoutCancel(t.Context()), t, args...), stdout: new(lockedBuffer), stderr: new(lockedBuffer), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		p.done <- p.cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-ended
			t.Errorf("berth %s did not end within 10 s of SIGTERM", strings.Join(args, " "))
		}
		if strings.Contains(p.stderr.String(), "WARNING: DATA RACE") {
			t.Errorf("berth %s has a data race", strings.Join(args, " "))
		}
		if t.Failed() {
			t.Logf("berth %s wrote:\n%s%s", strings.Join(args, " "), p.stdout, p.stderr)
		}
	})
	return p
}

// startDev runs `berth dev` on free ports and returns its ready file.
func startDev(t *testing.T, args ...string) (*process, dev.Ready) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ready.json")
	p := start(t, append([]string{"dev", "--base-port", "0", "--ready-file", file}, args...)...)
	return p, readyFile(t, p, file)
}

// eventually polls until ok, or fails the test if the process ends first or time runs out.
func (p *process) eventually(t *testing.T, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(timeout)
	for !ok() {
		select {
		case err := <-p.done:
			p.done <- err
			t.Fatalf("%s: the process ended (%v) with\n%s%s", what, err, p.stdout, p.stderr)
		case <-deadline:
			t.Fatalf("%s: not within %s\n%s%s", what, timeout, p.stdout, p.stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(timeout)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, timeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// client is an API client as a team would write it.
type client struct {
	t *testing.T
	// location is where it stands, as the front is told.
	location string
}

// call sends a request and decodes the reply into out; it returns status and body.
func (c client) call(method, url, token string, in, out any) (int, string) {
	c.t.Helper()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			c.t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.location != "" {
		req.Header.Set("X-Berth-Client-Location", c.location)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			c.t.Fatalf("%s %s: status %d, body %q: %v", method, url, resp.StatusCode, data, err)
		}
	}
	return resp.StatusCode, string(data)
}

// must is call for a request that has to succeed.
func (c client) must(method, url, token string, in, out any) {
	c.t.Helper()
	if status, body := c.call(method, url, token, in, out); status < 200 || status > 299 {
		c.t.Fatalf("%s %s: status %d: %s", method, url, status, body)
	}
}

// login starts a session through the global URL, if need be once the user may again.
func (c client) login(r dev.Ready) api.TokensReply {
	c.t.Helper()
	req := api.LoginRequest{Username: r.Users[0].Username, Password: r.Users[0].Password}
	var reply api.TokensReply
	eventually(c.t, 30*time.Second, "a login", func() bool {
		status, body := c.call("POST", r.GlobalURL+"/v1/login", "", req, &reply)
		if status != http.StatusOK && status != http.StatusTooManyRequests {
			c.t.Fatalf("login: status %d: %s", status, body)
		}
		return status == http.StatusOK
	})
	return reply
}

// refresh redeems at base, which is the session's authUrl or the global URL.
func (c client) refresh(base string, req api.RefreshRequest) api.TokensReply {
	c.t.Helper()
	var reply api.TokensReply
	c.must("POST", base+"/v1/refresh", "", req, &reply)
	if !reply.Rotated {
		reply.RefreshToken = req.RefreshToken // it is as good as before
	}
	return reply
}
