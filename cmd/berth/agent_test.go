package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestAgent locks an application of another language: python3's http.server, behind nginx that asks an agent.
func TestAgent(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	a := startApplication(t, ready)
	c := client{t: t}

	var here, there api.TokensReply
	eventually(t, 30*time.Second, "sessions at both servers", func() bool {
		switch s := c.login(ready); s.Server.ID {
		case "eu-west-1-app":
			here = s
		default:
			there = s
		}
		return here.AccessToken != "" && there.AccessToken != ""
	})
	if here.Server.URL != a.url || here.AuthURL != a.url+"/berth" {
		t.Errorf("the session is sent to %+v, refreshes at %s", here.Server, here.AuthURL)
	}
	get := func(token string) (int, http.Header, api.Problem) { return a.get(t, token) }
	if status, _, _ := get(here.AccessToken); status != http.StatusOK {
		t.Errorf("of its own session: %d", status)
	}
	if status, header, _ := get(""); status != http.StatusUnauthorized || header.Get("WWW-Authenticate") == "" {
		t.Errorf("without a token: %d %v", status, header)
	}
	status, header, problem := get(there.AccessToken)
	if status != http.StatusMisdirectedRequest || problem.Code != string(api.CodeLockedElsewhere) || problem.Server == nil || problem.Server.URL != there.Server.URL || header.Get("Cache-Control") != "no-store" {
		t.Errorf("of another server's session: %d %v %+v", status, header, problem)
	}
	again := c.refresh(here.AuthURL, api.RefreshRequest{RefreshToken: here.RefreshToken, CriticalTaskInProgress: true})
	if again.Server.ID != "eu-west-1-app" {
		t.Errorf("refreshed through nginx: %+v", again)
	}

	// The application's load is what it says, and without the application there is no server.
	a.eventually(t, 20*time.Second, "the load of the application", func() bool {
		out, _, code := operatorCommand(t, ready, "", "servers", "--json")
		return code == 0 && strings.Contains(out, `"in_flight": 7`)
	})
	if err := a.python.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.eventually(t, 20*time.Second, "its end", func() bool {
		out, _, code := operatorCommand(t, ready, "", "servers", "--json")
		at := strings.Index(out, `"eu-west-1-app"`)
		return code == 0 && at >= 0 && strings.Contains(out[at:], `"state": "down"`)
	})
	if moved := c.refresh(ready.Regions[0].TokensURL, api.RefreshRequest{RefreshToken: again.RefreshToken}); moved.Server.ID == "eu-west-1-app" {
		t.Errorf("after the end of its application the session is at %+v", moved.Server)
	}
}

// application is an application with its proxy and its agent.
type application struct {
	*process
	url    string
	python *exec.Cmd
}

// startApplication runs python3, nginx and berth agent until the test ends.
func startApplication(t *testing.T, ready dev.Ready) *application {
	t.Helper()
	for _, name := range []string{"python3", "nginx"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is not installed: apt-get install python3 nginx-light", name)
		}
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "www")
	if err := os.Mkdir(page, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"index.html": "hello", "load.json": `{"in_flight": 7, "max_in_flight": 100, "utilisation": 0.07}`} {
		if err := os.WriteFile(filepath.Join(page, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := jetstreamtest.FreePort(t)
	address := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	app, proxy, listen := address(port), address(jetstreamtest.FreePort(t)), address(jetstreamtest.FreePort(t))
	a := &application{url: "http://" + proxy}
	a.python = exec.CommandContext(t.Context(), "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", page, fmt.Sprint(port))
	background(t, a.python)
	background(t, exec.CommandContext(t.Context(), "nginx", "-p", dir, "-c", nginxConfig(t, dir, proxy, app, listen), "-e", "stderr"))
	eventually(t, 20*time.Second, "python3", func() bool { return answers(t, "http://"+app) })
	a.process = start(t, "agent", "--nats", ready.Regions[0].NATSURL, "--region", "eu-west-1", "--server", "eu-west-1-app", "--issuer", ready.GlobalURL,
		"--url", a.url, "--auth-url", a.url+"/berth", "--path-prefix", "/berth", "--health", "http://"+app, "--load-url", "http://"+app+"/load.json",
		"--listen", listen, "--admin", "", "--interval", "250ms", "--drain", "0s")
	a.eventually(t, 20*time.Second, "the agent", func() bool { return strings.Contains(a.stdout.String(), "judging on ") })
	return a
}

// nginxConfig writes a configuration that includes the one which is shipped.
func nginxConfig(t *testing.T, dir, proxy, app, agent string) string {
	t.Helper()
	shipped, err := os.ReadFile("../../deploy/nginx/berth.conf")
	if err != nil {
		t.Fatal(err)
	}
	include := filepath.Join(dir, "berth.conf")
	if err := os.WriteFile(include, []byte(strings.ReplaceAll(string(shipped), "127.0.0.1:9500", agent)), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		include %[3]s;
		location / {
			auth_request /_berth/verify;
			proxy_pass http://%[4]s;
		}
	}
}
`, dir, proxy, include, app)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// background runs a command until the test ends.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", cmd.Path, out.String())
		}
	})
}

func answers(t *testing.T, url string) bool {
	t.Helper()
	status, _ := client{t: t}.call("GET", url, "", nil, nil)
	return status == http.StatusOK
}

// get asks the application by way of nginx.
func (a *application) get(t *testing.T, token string) (int, http.Header, api.Problem) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p api.Problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, resp.Header, p
}
