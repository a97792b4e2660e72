package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestHeartbeatLeaderKilled kills, in a region of three NATS servers, the one that leads the
// stream of heartbeats: no server is suspected or given up for that.
func TestHeartbeatLeaderKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	nodes := startCluster(t, "eu-west-1")
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.ClientURL())
	}
	url := strings.Join(urls, ",")
	registry := start(t, "-v", "registry", "--nats", url, "--region", "eu-west-1", "--admin", "127.0.0.1:0", "--replicas", "3")
	admin := said(t, registry, "admin on ")
	for _, suffix := range []string{"a", "b"} {
		s := start(t, "demo", "--drain", "0s", "--nats", url, "--region", "eu-west-1", "--server", "eu-west-1-"+suffix,
			"--listen", "127.0.0.1:0", "--issuer", "http://127.0.0.1:7070")
		said(t, s, "serving on ")
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	w := watchVerdicts(t, nc)
	w.beats(2)
	leader := leaderOf(t, nc, jetstream.StreamHeartbeats)
	t.Logf("%s leads %s and is killed", leader, jetstream.StreamHeartbeats)
	nodes[leader].Kill()
	// An election takes 4 to 7 s; the flow of heartbeats is watched well beyond it.
	w.beats(12)
	if next := leaderOf(t, nc, jetstream.StreamHeartbeats); next == leader {
		t.Errorf("%s still leads", next)
	}
	if n := w.verdicts.Load(); n > 0 {
		t.Errorf("%d verdicts after the death of a NATS server", n)
	}
	_, body := client{t: t}.call("GET", admin+"/v1/servers", "", nil, nil)
	if strings.Count(body, `"state":"up"`) != 2 {
		t.Errorf("the registry shows %s", body)
	}
}

// startCluster runs three NATS servers as one region, by their names.
func startCluster(t *testing.T, region string) map[string]*jetstreamtest.Process {
	t.Helper()
	program := tool(t, "nats-server")
	var ports []int
	var routes []string
	for range 3 {
		port := jetstreamtest.FreePort(t)
		ports = append(ports, port)
		routes = append(routes, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	nodes := map[string]*jetstreamtest.Process{}
	for i, port := range ports {
		name := fmt.Sprintf("%s-n%d", region, i+1)
		nodes[name] = jetstreamtest.StartProcess(t, jetstreamtest.ProcessConfig{
			Binary: program, Region: region, Cluster: &embedded.Cluster{Node: name, Port: port, Routes: routes},
		})
	}
	return nodes
}

// leaderOf returns the name of the NATS server that leads a stream.
func leaderOf(t *testing.T, nc *nats.Conn, stream string) string {
	t.Helper()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var leader string
	eventually(t, 20*time.Second, "a leader of "+stream, func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		leader = s.CachedInfo().Cluster.Leader
		return leader != ""
	})
	return leader
}
