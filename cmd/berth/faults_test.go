package main

import (
	"encoding/json"
	"flag"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

var kills = flag.Int("kills", 6, "how many servers TestKilledServersAreTold kills")

// TestKilledServersAreTold kills servers of three regions, one after the other, and looks into
// every token service until each shows the death. No other server is given up meanwhile. A region
// is left alone for some heartbeats after each: many deaths at once are held back, and should be.
//
//	go test ./cmd/berth -run TestKilledServersAreTold -v -args -kills 50
func TestKilledServersAreTold(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "us-east-1", "eu-west-1", "ap-southeast-1")
	var deaths []*stateLog
	var calm []*verdicts
	for _, r := range f.ready.Regions {
		w := watchStates(t, r.NATSURL, events.StateDown)
		deaths, calm = append(deaths, w), append(calm, watchVerdicts(t, w.nc))
	}
	var took []time.Duration
	for i := range *kills {
		region := f.ready.Regions[i%len(f.ready.Regions)]
		id := region.Servers[i/len(f.ready.Regions)%len(region.Servers)].ID
		calm[i%len(calm)].beatsSinceLast(4)
		f.awaitState(t, id, events.StateUp)
		began := time.Now()
		f.regions[region.Region].servers[id].crash(t)
		f.awaitState(t, id, events.StateDown)
		took = append(took, time.Since(began))
		f.startServer(t, region.Region, id, region.NATSURL)
	}
	slices.Sort(took)
	t.Logf("%d kills, told everywhere after p50 %s, max %s", *kills,
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	var told int
	for _, d := range deaths {
		told += len(d.heard())
	}
	if told != *kills {
		t.Errorf("%d servers told down, %d were killed", told, *kills)
	}
}

// awaitState waits until every token service shows a server in the state. It looks often, for
// the time until then is what is measured.
func (f *processes) awaitState(t *testing.T, id string, state events.State) {
	t.Helper()
	var all sync.WaitGroup
	for _, r := range f.regions {
		all.Go(func() {
			for deadline := time.Now().Add(30 * time.Second); shownState(t, r.way.Admin, id).State != state; time.Sleep(2 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%s is not %s in %s within 30 s: %+v", id, state, r.way.Region, shownState(t, r.way.Admin, id))
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// shownState returns a server as a service's admin listener shows it.
func shownState(t *testing.T, admin, id string) events.Server {
	t.Helper()
	_, body := client{t: t}.call("GET", admin+"/v1/servers", "", nil, nil)
	var list struct {
		Servers []events.Server `json:"servers"`
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Errorf("%s: %v: %s", admin, err, body)
	}
	for _, s := range list.Servers {
		if s.Server == id {
			return s
		}
	}
	return events.Server{}
}

// stateLog is what a registry said of servers.
type stateLog struct {
	nc *nats.Conn
	// mu guards list.
	mu   sync.Mutex
	list []string
}

// watchStates notes, from now on, which servers a region's registry tells to be in one of the
// states.
func watchStates(t *testing.T, url string, states ...events.State) *stateLog {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	w := &stateLog{nc: nc}
	for _, state := range states {
		subject := events.Subject{Kind: events.KindServer, State: string(state)}.Filter()
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.list = append(w.list, string(m.Data))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return w
}

// heard returns all that was said until now.
func (w *stateLog) heard() []string {
	_ = w.nc.Flush() // what was said before has come then; a lost connection shows elsewhere
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.list)
}

// TestStoppedServer stops a server's process for a while, its connections open: for two
// seconds nobody gives it up, for longer it is down until it goes on, and then begins slowly.
func TestStoppedServer(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1")
	const id = "eu-west-1-a"
	region := f.regions["eu-west-1"]
	server := region.servers[id].cmd.Process
	deaths := watchStates(t, f.ready.Regions[0].NATSURL, events.StateDown)
	beats := watchVerdicts(t, deaths.nc)
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := server.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	time.Sleep(2 * time.Second) // the length of the pause is what is tested
	signal(syscall.SIGCONT)
	beats.beats(3)
	if list := deaths.heard(); len(list) > 0 {
		t.Errorf("given up for a pause of two seconds: %s", list)
	}
	f.awaitState(t, id, events.StateUp)

	signal(syscall.SIGSTOP)
	began := time.Now()
	f.awaitState(t, id, events.StateDown)
	t.Logf("told %s after it stopped", time.Since(began).Round(time.Millisecond))
	signal(syscall.SIGCONT)
	began = time.Now()
	f.awaitState(t, id, events.StateUp)
	t.Logf("up %s after it went on", time.Since(began).Round(time.Millisecond))
	if s := shownState(t, region.way.Admin, id); s.RejoinedAt.IsZero() {
		t.Errorf("back without a slow start: %+v", s)
	}
	if n := len(deaths.heard()); n != 1 {
		t.Errorf("%d deaths told, want 1", n)
	}
}

// TestHeartbeatsDropped loses the heartbeats of two servers in five while their health URLs
// answer: nobody dies of it, and all are back when the heartbeats are.
func TestHeartbeatsDropped(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startProcesses(t, "eu-west-1")
	region, url := f.regions["eu-west-1"], f.ready.Regions[0].NATSURL
	link := jetstreamtest.NewProxy(t, url)
	for _, s := range []struct{ id, nats string }{{"eu-west-1-c", url}, {"eu-west-1-d", "nats://" + link.Addr()}, {"eu-west-1-e", "nats://" + link.Addr()}} {
		said(t, f.startServer(t, "eu-west-1", s.id, s.nats), "serving on ")
		f.awaitState(t, s.id, events.StateUp)
	}
	deaths := watchStates(t, url, events.StateDown, events.StateLeft)
	beats := watchVerdicts(t, deaths.nc)
	link.Blackhole()
	beats.beats(15) // of the three others, ten seconds
	if list := deaths.heard(); len(list) > 0 {
		t.Errorf("given up though they answer: %s", strings.Join(list, "\n"))
	}
	if s := shownState(t, region.way.Admin, "eu-west-1-d"); s.State != events.StateSuspect {
		t.Errorf("a server whose heartbeats are lost is %s", s.State)
	}
	link.Heal()
	f.awaitState(t, "eu-west-1-d", events.StateUp)
	f.awaitState(t, "eu-west-1-e", events.StateUp)
}
