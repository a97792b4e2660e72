package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/replay"
	"github.com/berthhq/berth/tokens/api"
)

var replays = flag.Int("replays", 500, "how many decisions TestReplay records, and makes again")

// TestReplay has a fleet decide while servers are busy, drained, killed and started again, and the policy
// is changed. All that it has recorded comes out as it was; and what another policy would change is what
// it decides on the recorded facts.
//
//	go test ./cmd/berth -run TestReplay$ -v -args -replays 10000
func TestReplay(t *testing.T) {
	t.Parallel() // it mostly waits
	_, ready := startDev(t, "--restart", "300ms")
	them := newVisitors(t, ready)
	them.decide(*replays)
	total := replay.Report{}
	for _, r := range ready.Regions {
		file := filepath.Join(t.TempDir(), r.Region+".ndjson")
		stdout, stderr, code := here(t, "", "replay", "--nats", r.NATSURL, "--save", file, "--json")
		report := readReport(t, stdout)
		if code != 0 || len(report.Differences)+report.NotRecorded+report.Unreadable > 0 || report.Agree+report.NoRule != report.Decisions {
			t.Errorf("%s: exit code %d, %+v\n%s", r.Region, code, report, stderr)
		}
		total.Decisions += report.Decisions
		total.Agree += report.Agree
		total.NoRule += report.NoRule
		total.Sights += report.Sights
		if candidate(t, file, placement.PolicyLiteral); r.Region == ready.Regions[0].Region {
			candidate(t, file, placement.PolicyP2C)
		}
	}
	t.Logf("%d decisions by %d views are made again with 0 differences (%d agree, %d were made by no rule): %v",
		total.Decisions, total.Sights, total.Agree, total.NoRule, them.counts())
	if total.Decisions < *replays {
		t.Errorf("%d decisions were recorded, want %d", total.Decisions, *replays)
	}
	table, _, code := here(t, "", "replay", "--nats", ready.Regions[0].NATSURL, "--policy", "literal", "--diff", "--since", "10m")
	if code != 0 || !strings.Contains(table, "literal: ") {
		t.Errorf("as a table: exit code %d\n%s", code, table)
	}
	t.Logf("as a table:\n%s", table[:min(len(table), 2000)])
}

// here runs a command in this process.
func here(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), code
}

func readReport(t *testing.T, text string) (r replay.Report) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return r
}

// visitors are clients of a fleet.
type visitors struct {
	t     *testing.T
	ready dev.Ready
	conns []*nats.Conn
	// made counts the decisions that were published.
	made atomic.Int64
	// over is closed when it is enough.
	over chan struct{}

	// mu guards reasons: how many decisions had which.
	mu      sync.Mutex
	reasons map[string]int
}

func newVisitors(t *testing.T, ready dev.Ready) *visitors {
	t.Helper()
	c := &visitors{t: t, ready: ready, over: make(chan struct{}), reasons: map[string]int{}}
	for _, r := range ready.Regions {
		nc, err := nats.Connect(r.NATSURL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		c.conns = append(c.conns, nc)
		if _, err := nc.Subscribe(events.Subject{Kind: events.KindDecision, Region: r.Region}.Filter(), c.hear); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *visitors) hear(m *nats.Msg) {
	s, err := events.ParseSubject(m.Subject)
	if err != nil {
		c.t.Error(err)
	}
	c.made.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reasons[s.Reason]++
}

func (c *visitors) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.reasons)
}

// decide has the fleet decide so often, at least, while an operator and bad luck are at work.
func (c *visitors) decide(n int) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute+time.Duration(n)*10*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { c.load(ctx) })
	for i := range 8 {
		all.Go(func() { c.visit(ctx, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	c.trouble(ctx)
	eventually(c.t, time.Minute+time.Duration(n)*10*time.Millisecond, fmt.Sprintf("%d decisions", n), func() bool { return c.made.Load() >= int64(n) })
	close(c.over)
	all.Wait()
	// What was decided last is on its way.
	last := int64(-1)
	eventually(c.t, 10*time.Second, "the last decision", func() bool {
		before := last
		last = c.made.Load()
		idle(ctx, 200*time.Millisecond)
		return before == last
	})
}

// load tells the registries how busy the servers are, as central telemetry would, until it is over.
func (c *visitors) load(ctx context.Context) {
	for !closed(c.over) && ctx.Err() == nil {
		for i, r := range c.ready.Regions {
			for _, s := range r.Servers {
				e := &events.LoadReport{
					Version: 1, Server: s.ID, Region: r.Region, At: time.Now(), Source: "test", Fields: []string{"utilisation"},
					Load: events.Load{Utilisation: rand.Float64() * 1.1},
				}
				data, err := events.Encode(e)
				if err == nil {
					err = c.conns[i].Publish(e.Subject().String(), data)
				}
				if err != nil {
					c.t.Error(err)
				}
			}
		}
		idle(ctx, 400*time.Millisecond)
	}
}

// trouble kills a server, which comes back, drains another and the region of a third for a while, and
// changes the policy.
func (c *visitors) trouble(ctx context.Context) {
	region := c.ready.Regions[1]
	states, err := c.conns[1].SubscribeSync(events.Subject{Kind: events.KindServer, Region: region.Region, Server: region.Servers[0].ID}.Filter())
	if err != nil {
		c.t.Fatal(err)
	}
	operate := func(stdin string, args ...string) {
		if _, stderr, code := here(c.t, stdin, append(args, "--nats", region.NATSURL)...); code != 0 {
			c.t.Errorf("berth %v: exit code %d: %s", args, code, stderr)
		}
	}
	operate("", "drain", region.Servers[1].ID, "--deadline", "3s")
	kill(c.t, c.ready, region.Servers[0].ID)
	for state := ""; state != string(events.StateUp); {
		m, err := states.NextMsgWithContext(ctx)
		if err != nil {
			c.t.Fatalf("the killed server is %q: %v", state, err)
		}
		s, _ := events.ParseSubject(m.Subject)
		state = s.State
	}
	operate("version: 1\npolicy: lowest-load\ncooldown: 1s\nmax_rtt_ms: 150\nvariants: [{name: half, percent: 50, policy: p2c}]\n", "policy", "set", "-")
	idle(ctx, 1200*time.Millisecond) // in slow start
	operate("", "undrain", region.Servers[1].ID)
	operate("", "drain", c.ready.Regions[2].Region, "--deadline", "1m")
	idle(ctx, 500*time.Millisecond)
	operate("version: 1\npolicy: spread+prices\n", "policy", "set", "-")
	operate("", "undrain", c.ready.Regions[2].Region)
}

// visit begins sessions and refreshes them, from here and there, until it is over.
func (c *visitors) visit(ctx context.Context, random *rand.Rand) {
	places := []string{nearDublin, nearSingapore, "38.9,-77", ""}
	var open []api.TokensReply
	for !closed(c.over) && ctx.Err() == nil {
		if len(open) == 0 || len(open) < 40 && random.IntN(4) == 0 {
			if s, ok := c.begin(ctx, random.IntN(len(c.ready.Regions))); ok {
				open = append(open, s)
			}
			continue
		}
		k := random.IntN(len(open))
		s := &open[k]
		at := slices.IndexFunc(c.ready.Regions, func(r dev.ReadyRegion) bool { return r.Region == s.Server.Region })
		req := api.RefreshRequest{RefreshToken: s.RefreshToken, CriticalTaskInProgress: random.IntN(8) == 0}
		if random.IntN(3) == 0 {
			req.ClosestServerID = c.anyServer(random)
		}
		if random.IntN(3) == 0 {
			req.RTTMs = map[string]float64{c.anyServer(random): 200 * random.Float64(), s.Server.ID: 200 * random.Float64()}
		}
		visitor := client{t: c.t, location: places[random.IntN(len(places))]}
		status, body := visitor.call("POST", c.ready.Regions[at].TokensURL+"/v1/refresh", "", req, nil)
		var reply api.TokensReply
		switch {
		case status == http.StatusOK && json.Unmarshal([]byte(body), &reply) == nil:
			if reply.RefreshToken == "" {
				reply.RefreshToken = s.RefreshToken
			}
			*s = reply
			if reply.Decision == "stay" {
				idle(ctx, 10*time.Millisecond) // more than 200 a second of a region are not all recorded
			}
		case status == http.StatusServiceUnavailable: // its server is gone, and none may have it
			open = slices.Delete(open, k, k+1)
		case ctx.Err() == nil:
			c.t.Errorf("refresh: %d %s", status, body)
			return
		}
	}
}

func (c *visitors) anyServer(random *rand.Rand) string {
	r := c.ready.Regions[random.IntN(len(c.ready.Regions))]
	return r.Servers[random.IntN(len(r.Servers))].ID
}

// begin starts a session in a region, as an application does.
func (c *visitors) begin(ctx context.Context, region int) (reply api.TokensReply, ok bool) {
	m, err := c.conns[region].RequestWithContext(ctx, service.TokensMethod(events.GlobalJurisdiction, c.ready.Regions[region].Region, api.MethodStart), []byte(`{"subject":"ada"}`))
	if err == nil {
		err = json.Unmarshal(m.Data, &reply)
	}
	if err != nil && ctx.Err() == nil {
		c.t.Errorf("begin a session: %v", err)
	}
	return reply, reply.RefreshToken != ""
}

// TestReplayFaults: what cannot be replayed is said in a line, with exit code 1.
func TestReplayFaults(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	decision := &events.Decision{
		Version: 1, Region: "eu-west-1", At: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Session: "s", Verdict: "stay", Reason: "already_best",
		Policy: "spread", From: "a", To: "a", Instance: "i", Sight: 1, Draw: placement.Draw("s", 0),
	}
	sight := &events.Sight{
		Version: 1, Region: "eu-west-1", Instance: "i", At: decision.At, Number: 1, Whole: true, Part: 1, Of: 1,
		Servers: []events.SightServer{{Server: "a", Region: "eu-west-1", State: events.StateUp, Capacity: 1}},
	}
	line := func(e events.Event) string {
		data, err := events.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("{\"subject\":%q,\"event\":%s}\n", e.Subject(), data)
	}
	good := write("good", line(decision)+"\n"+line(sight)+`{"subject":"berth.v1.report.eu-west-1","event":{}}`+"\n")
	wrong := *decision
	wrong.To = "b"
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--from", good}, "", 0},
		{[]string{"--from", good, "--policy", "spread", "--diff"}, "", 0},
		{[]string{"--from", write("two", line(decision)+line(sight)+line(decision)), "--count", "1"}, "go on with --since 2026-11-21T12:00:00Z", 0},
		{[]string{"--from", write("wrong", line(&wrong)+line(sight))}, "1 of 1 decisions come out otherwise", 1},
		{[]string{"--from", write("unseen", line(decision))}, "none of 1 decisions can be made again", 1},
		{[]string{"--from", write("empty", "")}, "no decision is recorded there", 1},
		{[]string{"--from", good, "--since", "2027-01-01T00:00:00Z"}, "no decision is recorded there", 1},
		{[]string{"--from", write("text", "hello\n")}, "line 1: want", 1},
		{[]string{"--from", write("long", `{"subject":"`+strings.Repeat("x", 2*events.MaxSize)+"\n")}, "a line is longer than", 1},
		{[]string{"--from", good, "--save", good}, "would overwrite", 1},
		{[]string{"--from", good, "--since", "yesterday"}, `since "yesterday"`, 1},
		{[]string{"--from", good, "--count", "0"}, "count 0: want 1 to", 1},
		{[]string{"--from", good, "--diff"}, "--diff wants --policy", 1},
		{[]string{"--from", good, "--policy", "sprad"}, "sprad is no file, nor a policy", 1},
		{[]string{"--from", good, "--policy", write("policy", "version: 1\npolicy: sprad\n")}, "line 2", 1},
	} {
		stdout, stderr, code := here(t, "", append([]string{"replay"}, test.args...)...)
		if code != test.code {
			t.Errorf("%v: exit code %d\n%s%s", test.args, code, stdout, stderr)
		}
		if !strings.Contains(stderr, test.want) || test.want == "" && stderr != "" || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%v: %q, want %q", test.args, stderr, test.want)
		}
	}
}
