package idempotency_test

import (
	"bufio"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

var kills = flag.Int("kills", 24, "how many processes TestKilled and TestKilledTx kill, each, in `go test -args -kills N`")

// The environment of a process that TestKilled starts and kills: a server with this test binary's code.
const (
	envNATS   = "BERTH_TEST_NATS"
	envServer = "BERTH_TEST_SERVER"
	envBoot   = "BERTH_TEST_BOOT"
	// envEffects is a file, or the socket of a PostgreSQL where envTx is set.
	envEffects = "BERTH_TEST_EFFECTS"
	envTx      = "BERTH_TEST_TX"
)

// killable is the main function of such a process. It does not return.
func killable() {
	if err := serveEffects(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// serveEffects serves POSTs that have an effect.
func serveEffects() error {
	ctx := context.Background()
	conn, err := jetstream.Dial(ctx, jetstream.Config{URL: os.Getenv(envNATS), Role: "test"})
	if err != nil {
		return err
	}
	self := self()
	self.Server, self.Boot = os.Getenv(envServer), os.Getenv(envBoot)
	cfg := idempotency.Config{
		Self: self, Store: conn.Idempotency(), Copies: conn.Idempotency(), Scope: byHeader, Deadline: time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	var handler http.HandlerFunc
	if os.Getenv(envTx) != "" {
		db, err := dial(os.Getenv(envEffects))
		if err != nil {
			return err
		}
		cfg.Ledger, handler = &idempotency.Table{DB: db}, byTransaction(self.Boot, db)
	} else if handler, err = byLine(self.Boot); err != nil {
		return err
	}
	guard, err := idempotency.New(cfg)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	return http.Serve(l, guard.Once(handler)) //nolint:gosec // it is killed soon enough
}

// byLine returns a handler whose effect is a line of a file, with the key and the reply: once written it outlives the process.
func byLine(boot string) (http.HandlerFunc, error) {
	file, err := os.OpenFile(os.Getenv(envEffects), os.O_APPEND|os.O_WRONLY, 0)
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		id := fmt.Sprint(boot, "-", n.Add(1))
		work()
		fmt.Fprintln(file, r.Header.Get(idempotency.HeaderKey), id)
		work()
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, id)
	}, err
}

// byTransaction returns a handler whose effect is a row.
func byTransaction(boot string, db *sql.DB) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		id := fmt.Sprint(boot, "-", n.Add(1))
		work()
		reply, err := order(r.Context(), db, r.Header.Get(idempotency.HeaderKey), id)
		work()
		answerOrder(w, reply, err)
	}
}

// work takes a moment, in which the process may be killed.
func work() { time.Sleep(rand.N(2 * time.Millisecond)) }

// mortal is a server that is killed and started anew.
type mortal struct {
	t             *testing.T
	nats, effects string
	tx            bool
	name          string
	boots         int
	cmd           *exec.Cmd
	// url is where its present life listens.
	url atomic.Pointer[string]
}

func (m *mortal) start() {
	m.boots++
	m.cmd = exec.CommandContext(m.t.Context(), os.Args[0])
	m.cmd.Env = append(os.Environ(), envNATS+"="+m.nats, envServer+"="+m.name, envBoot+"="+fmt.Sprint(m.name, "-", m.boots), envEffects+"="+m.effects)
	if m.tx {
		m.cmd.Env = append(m.cmd.Env, envTx+"=1")
	}
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		m.t.Error(err)
		return
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		m.t.Errorf("start %s: %v", m.name, err)
		return
	}
	url := strings.TrimSpace(line)
	m.url.Store(&url)
}

func (m *mortal) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// told is what a client was told of its request in the end.
type told struct {
	key, reply        string
	replayed, unknown bool
}

// request sends a request to one server after the other until it is told how it ended.
func request(t *testing.T, client *http.Client, servers []*mortal, key string) (told, error) {
	for try, deadline := rand.N(2), time.Now().Add(time.Minute); time.Now().Before(deadline); try++ {
		s := site{t: t, client: client, url: *servers[try%2].url.Load()}
		got, err := s.try(t.Context(), http.MethodPost, "/", "x", "Idempotency-Key: "+key)
		switch {
		case err != nil:
		case got.Status == http.StatusCreated:
			return told{key: key, reply: got.Body, replayed: got.Replayed}, nil
		case got.Code == api.CodeOutcomeUnknown:
			return told{key: key, unknown: true}, nil
		case got.Code != api.CodeIdempotencyInFlight && got.Code != api.CodeUnavailable:
			return told{}, fmt.Errorf("%s: %+v", key, got)
		}
		time.Sleep(5 * time.Millisecond) // a client waits longer
	}
	return told{}, fmt.Errorf("%s: no answer within a minute", key)
}

// TestKilled kills servers at any point of handler, effect and reply, while clients send each request until they know how it
// ended: no request has two effects, each that was answered has one, with that very answer.
func TestKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "effects")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all := killServers(t, file, false)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	had := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		key, reply, _ := strings.Cut(strings.TrimSpace(line), " ")
		had[key] = append(had[key], reply)
	}
	if unknown := judgeEffects(t, had, all); unknown == 0 {
		t.Error("nothing was killed while it mattered")
	}
}

// TestKilledTx does so where the effect is a transaction: each request has exactly one, and its client the answer of that.
func TestKilledTx(t *testing.T) {
	t.Parallel()
	socket := postgres(t)
	all := killServers(t, socket, true)
	if unknown := judgeEffects(t, effects(t, openDB(t, socket)), all); unknown > 0 {
		t.Errorf("of %d requests nobody knows how they ended", unknown)
	}
}

// killServers kills servers while clients send requests, and returns what these were told.
func killServers(t *testing.T, effects string, tx bool) []told {
	nats := jetstreamtest.Shared(t)
	jetstreamtest.Provisioned(t, nats)
	var servers []*mortal
	for _, name := range []string{"a", "b"} {
		m := &mortal{t: t, nats: nats, effects: effects, tx: tx, name: name}
		m.start()
		t.Cleanup(m.kill)
		servers = append(servers, m)
	}
	if t.Failed() {
		t.FailNow()
	}
	over := make(chan struct{})
	var killers, clients sync.WaitGroup
	for _, m := range servers {
		killers.Go(func() {
			for range *kills / 2 {
				time.Sleep(rand.N(150 * time.Millisecond)) // at any point of what it does
				m.kill()
				m.start()
			}
		})
	}
	var mu sync.Mutex
	var all []told
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 10 * time.Second}
	for c := range 8 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				got, err := request(t, client, servers, fmt.Sprint("client-", c, "-", i))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, got)
				mu.Unlock()
			}
		})
	}
	killers.Wait()
	close(over)
	clients.Wait()
	client.CloseIdleConnections()
	return all
}

// judgeEffects compares what has happened, by key, with what clients were told, and returns how many were told that nobody
// knows.
func judgeEffects(t *testing.T, had map[string][]string, all []told) (unknown int) {
	t.Helper()
	for key, replies := range had {
		if len(replies) > 1 {
			t.Errorf("%s has had %d effects: %v", key, len(replies), replies)
		}
	}
	replayed, without := 0, 0
	for _, a := range all {
		effect := had[a.key]
		switch {
		case a.unknown:
			unknown++
			if len(effect) == 0 {
				without++
			}
		case len(effect) != 1 || effect[0] != a.reply:
			t.Errorf("%s was answered %q and has had the effects %v", a.key, a.reply, effect)
		case a.replayed:
			replayed++
		}
	}
	t.Logf("%d kills, %d requests: %d replayed, %d outcome_unknown, of which %d had no effect", *kills, len(all), replayed, unknown, without)
	if len(all) == 0 {
		t.Error("there were no requests")
	}
	return unknown
}
