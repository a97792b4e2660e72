package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestTelemetry has a real Prometheus tell the load of a server that says nothing of its own,
// through its death and return.
func TestTelemetry(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--regions", "eu-west-1", "--servers", "1")
	nats := ready.Regions[0].NATSURL
	var load atomic.Int64
	load.Store(30)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "shop_sessions{node=\"eu-west-1-a\"} %d\nshop_sessions{node=\"not-ours\"} 7\n", 10*load.Load())
		fmt.Fprintf(w, "shop_busy_ratio{node=\"eu-west-1-a\"} %g\n", float64(load.Load())/100)
	}))
	t.Cleanup(target.Close)
	prom := newPrometheus(t, target.Listener.Addr().String())
	stop := prom.start(t)
	args := []string{
		"telemetry", "--nats", nats, "--region", "eu-west-1", "--prometheus", prom.url, "--server-label", "node",
		"--interval", "1s", "--admin", "127.0.0.1:0",
	}
	config := filepath.Join(t.TempDir(), "telemetry.yaml")
	queries := "query:\n  - sessions=sum by (node, job) (shop_sessions)\n  - utilisation=max by (node) (shop_busy_ratio)\n"
	if err := os.WriteFile(config, []byte(queries), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, append(args, "--config", config)...)
	shows := func(want float64) func() bool {
		return func() bool {
			out, err := berth(t.Context(), t, "servers", "--nats", nats, "--json").Output()
			var list []events.Server
			return err == nil && json.Unmarshal(out, &list) == nil && len(list) == 1 && list[0].LoadSource == "prometheus" &&
				math.Abs(list[0].Load.Utilisation-want) < 1e-9 && list[0].Load.Sessions == int(1000*want)
		}
	}
	p.eventually(t, 20*time.Second, "the load that Prometheus tells", shows(0.3))
	if out, err := berth(t.Context(), t, "servers", "--nats", nats).Output(); err != nil || !strings.Contains(string(out), "prometheus") {
		t.Errorf("berth servers does not say where the load is from: %v\n%s", err, out)
	}
	admin := said(t, p, "admin on ")
	c := client{t: t}
	c.must("GET", admin+"/readyz", "", nil, nil)
	if _, metrics := c.call("GET", admin+"/metrics", "", nil, nil); !strings.Contains(metrics, `berth_telemetry_skipped_total{reason="unknown_server"}`) {
		t.Errorf("metrics do not count the unknown server:\n%s", metrics)
	}

	stop()
	p.eventually(t, 10*time.Second, "readyz to say that Prometheus is away", func() bool {
		status, body := c.call("GET", admin+"/readyz", "", nil, nil)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "refused")
	})
	// One that starts now says so, and where it can be asked why.
	if status, _ := c.call("GET", said(t, start(t, append(args, "--config", config)...), "admin on ")+"/readyz", "", nil, nil); status != http.StatusServiceUnavailable {
		t.Errorf("a bridge without its Prometheus is ready: %d", status)
	}
	load.Store(80)
	prom.start(t)
	p.eventually(t, 20*time.Second, "the load after Prometheus is back", shows(0.8))
	for what, want := range map[string]int{"load is not reported": 1, "connection refused": 1, "load is reported again": 1, "server=not-ours": 1} {
		if got := strings.Count(p.stderr.String(), what); got != want {
			t.Errorf("%q is logged %d times, want %d:\n%s", what, got, want, p.stderr)
		}
	}
	for line := range strings.Lines(p.stderr.String()) {
		if strings.Contains(line, "load is not reported") && !strings.Contains(line, "connection refused") {
			t.Errorf("it is not said why: %s", line)
		}
	}

	out, err := berth(t.Context(), t, append(args, "--query", "cpu=rate(up{)")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "berth: ask for cpu: query is invalid: prometheus says: ") || !strings.Contains(string(out), "parse error") {
		t.Errorf("a query that is none: %v\n%s", err, out)
	}
}

// prometheus is a Prometheus that scrapes one target. It is asked through a gate at url.
type prometheus struct{ binary, dir, address, gate, url string }

func newPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("this test needs a real Prometheus; on Debian: apt-get install prometheus")
	}
	p := &prometheus{binary: binary, dir: t.TempDir(), address: fmt.Sprintf("127.0.0.1:%d", jetstreamtest.FreePort(t))}
	p.gate = fmt.Sprintf("127.0.0.1:%d", jetstreamtest.FreePort(t))
	p.url = "http://" + p.gate
	config := "global: {scrape_interval: 500ms}\nscrape_configs: [{job_name: shop, static_configs: [{targets: ['" + target + "']}]}]\n"
	if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// start runs it until stop, or until the test ends. It answers when start returns.
func (p *prometheus) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, p.binary, "--config.file="+filepath.Join(p.dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(p.dir, "data"), "--web.listen-address="+p.address, "--log.level=error")
	out := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	eventually(t, 20*time.Second, "Prometheus", func() bool {
		status, _ := client{t: t}.call("GET", "http://"+p.address+"/-/ready", "", nil, nil)
		return status == http.StatusOK
	})
	shut := p.open(t)
	stop = func() {
		shut()
		cancel()
		<-ended
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("prometheus wrote:\n%s", out)
		}
	})
	return stop
}

// open lets requests through to Prometheus until shut, which lets those under way end and refuses what comes later. A process
// that is killed may also cut answers off and reset connections that its kernel has taken for it, so that it is chance how
// its absence shows first.
func (p *prometheus) open(t *testing.T) (shut func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.gate)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.address})
	through := new(http.Transport)
	proxy.Transport = through
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // it is shut
	return func() {
		if err := server.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("shut the gate: %v", err)
		}
		through.CloseIdleConnections()
	}
}
