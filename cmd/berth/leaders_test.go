package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
)

var (
	takeovers = flag.Int("takeovers", 4, "how many leading registries TestLeadersKilled kills")
	crowdSize = flag.Int("crowd", 300, "how many servers beat in TestLeadersKilled")
)

// TestLeadersKilled kills the leading one of two registries time and again while many servers
// send heartbeats and one of them changes its state. Each change is told once, by whoever
// leads, and nothing else is.
//
//	go test ./cmd/berth -run TestLeadersKilled -v -args -takeovers 20 -crowd 300
func TestLeadersKilled(t *testing.T) {
	f := startProcesses(t, "eu-west-1") // by itself: beats that come late are missed beats
	region, url := f.regions["eu-west-1"], f.ready.Regions[0].NATSURL
	c := newCrowd(t, url, *crowdSize)
	registries := []*process{region.registry, start(t, region.registryArgs...)}
	c.awaitView(t, region.way.Admin)
	began := time.Now()
	var took []time.Duration
	var said []string
	for range *takeovers {
		i := leading(t, registries)
		registries[i].crash(t)
		killed := time.Now()
		id, state := c.turn(time.Duration(rand.IntN(900)) * time.Millisecond)
		said = append(said, id+" "+string(state))
		eventually(t, 10*time.Second, "a take-over", func() bool { return leads(t, registries[1-i]) })
		took = append(took, time.Since(killed))
		f.awaitState(t, id, state)
		registries[i] = start(t, region.registryArgs...)
		next := registries[i]
		eventually(t, 20*time.Second, "the new registry to follow", func() bool { return strings.Contains(next.stdout.String(), "watching") })
	}
	slices.Sort(took)
	t.Logf("%d leaders killed, taken over after %s at the median, %s at most", *takeovers,
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if longest := took[len(took)-1]; longest > 2*time.Second {
		t.Errorf("taken over after %s, want 2 s at most", longest)
	}
	if diff := cmp.Diff(said, storedStates(t, url, began)); diff != "" {
		t.Errorf("changes of state and the events of them (-changed +stored):\n%s", diff)
	}
	c.awaitView(t, region.way.Admin)

	// A leader that was stopped for long writes nothing of what it then has in hand.
	i := leading(t, registries)
	fenced := fencedWrites(t, registries[i])
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := registries[i].cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	began = time.Now()
	signal(syscall.SIGSTOP)
	eventually(t, 10*time.Second, "a take-over", func() bool { return leads(t, registries[1-i]) })
	id, state := c.turn(0)
	f.awaitState(t, id, state)
	c.beats(t, 10)
	signal(syscall.SIGCONT)
	c.beats(t, 3)
	if leads(t, registries[i]) || !leads(t, registries[1-i]) {
		t.Error("the lease went back to the registry that was stopped")
	}
	f.awaitState(t, id, state)
	if diff := cmp.Diff([]string{id + " " + string(state)}, storedStates(t, url, began)); diff != "" {
		t.Errorf("while the leader was stopped, and after (-changed +stored):\n%s", diff)
	}
	c.awaitView(t, region.way.Admin)
	t.Logf("%d of its late writes were refused", fencedWrites(t, registries[i])-fenced)
}

// leading waits until one of the registries leads and returns which.
func leading(t *testing.T, registries []*process) int {
	t.Helper()
	leader := -1
	eventually(t, 10*time.Second, "a leader", func() bool {
		leader = slices.IndexFunc(registries, func(p *process) bool { return leads(t, p) })
		return leader >= 0
	})
	return leader
}

// leads reports whether a registry says that it leads.
func leads(t *testing.T, p *process) bool {
	t.Helper()
	return metric(t, p, "berth_registry_leads") == 1
}

// fencedWrites returns how many of a registry's writes were refused.
func fencedWrites(t *testing.T, p *process) int {
	t.Helper()
	return metric(t, p, `berth_registry_writes_total{outcome="fenced"}`)
}

// metric returns a metric of a service, 0 if it has none.
func metric(t *testing.T, p *process, name string) int {
	t.Helper()
	_, body := client{t: t}.call("GET", said(t, p, "admin on ")+"/metrics", "", nil, nil)
	for line := range strings.Lines(body) {
		var n int
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, _ = fmt.Sscan(rest, &n)
			return n
		}
	}
	return 0
}

// storedStates returns what was told of servers' states since then.
func storedStates(t *testing.T, url string, since time.Time) []string {
	t.Helper()
	conn, err := jetstream.Dial(t.Context(), jetstream.Config{URL: url, Role: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	messages, err := conn.Recent(t.Context(), since, events.Subject{Kind: events.KindServer, Region: "eu-west-1"}.Filter())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range messages {
		var s events.ServerState
		if err := json.Unmarshal(m.Data, &s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s.Server+" "+string(s.State))
	}
	return list
}

// crowd is many servers that one process speaks for.
type crowd struct {
	nc *nats.Conn

	// mu guards the fields below: what they say, and how often all of them have.
	mu     sync.Mutex
	says   []*events.Heartbeat
	rounds int
}

// newCrowd starts n servers whose load changes all the time.
func newCrowd(t *testing.T, url string, n int) *crowd {
	t.Helper()
	health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(health.Close)
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{nc: nc}
	for i := range n {
		c.says = append(c.says, &events.Heartbeat{
			Version: events.Version, Server: fmt.Sprintf("eu-west-1-%03d", i), Region: "eu-west-1", URL: health.URL,
			Boot: ulid.Make().String(), IntervalMS: 1000, State: events.StateUp, Capacity: 1000,
		})
	}
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second / time.Duration(n))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-tick.C:
				c.say(i % n)
			}
		}
	}()
	t.Cleanup(func() { close(end); <-ended; nc.Close() })
	return c
}

// say sends the next heartbeat of one of them.
func (c *crowd) say(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.says[i]
	h.Seq++
	h.At = time.Now().UTC()
	h.Load.Utilisation = rand.Float64()
	if i == 0 {
		c.rounds++
	}
	if data, err := events.Encode(h); err == nil {
		_ = c.nc.Publish(h.Subject().String(), data) // a lost one is followed by another
	}
}

// turn lets one of them announce, after a while, that it drains or that it does no more.
func (c *crowd) turn(after time.Duration) (id string, state events.State) {
	time.Sleep(after) // where in the take-over it comes is what varies
	i := rand.IntN(len(c.says))
	c.mu.Lock()
	h := c.says[i]
	if state = events.StateDraining; h.State == state {
		state = events.StateUp
	}
	h.State = state
	c.mu.Unlock()
	c.say(i)
	return h.Server, state
}

// beats waits until all have sent n heartbeats more.
func (c *crowd) beats(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.rounds
	}
	until := count() + n
	eventually(t, 60*time.Second, "heartbeats", func() bool { return count() >= until })
}

// awaitView waits until a token service shows all of them as they say they are.
func (c *crowd) awaitView(t *testing.T, admin string) {
	t.Helper()
	eventually(t, 20*time.Second, "all servers as they say they are", func() bool {
		_, body := client{t: t}.call("GET", admin+"/v1/servers", "", nil, nil)
		var list struct {
			Servers []events.Server `json:"servers"`
		}
		if json.Unmarshal([]byte(body), &list) != nil {
			return false
		}
		shown := map[string]events.State{}
		for _, s := range list.Servers {
			shown[s.Server] = s.State
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(c.says, func(h *events.Heartbeat) bool { return shown[h.Server] != h.State })
	})
}
