package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// ClientsConfig says whom a process of clients asks.
type ClientsConfig struct {
	// URL is where refreshes are posted.
	URL string
	// Tokens is a file of refresh tokens, a line each: those of the sessions.
	Tokens string
}

// ClientsReport is what a run of clients was.
type ClientsReport struct {
	// Done counts answered refreshes, Failed those that were refused or got lost; Fault is the
	// first such.
	Done   int64  `json:"done"`
	Failed int64  `json:"failed"`
	Fault  string `json:"fault,omitempty"`
	// Rate is that of Done, per second; P50 and P99 are what they took.
	Rate float64       `json:"rate"`
	P50  time.Duration `json:"p50"`
	P99  time.Duration `json:"p99"`
	// CPU is the processor time of the clients.
	CPU time.Duration `json:"cpu"`
}

// Clients refreshes sessions as it is told on in, one order a line: over how many connections,
// and for how many seconds (0: every session once). It answers each with a ClientsReport. It
// ends with in, or with ctx.
func Clients(ctx context.Context, c ClientsConfig, in io.Reader, out io.Writer) error {
	f := &refreshers{url: c.URL}
	if err := f.read(c.Tokens); err != nil {
		return err
	}
	return answer(ctx, in, out, func(ctx context.Context, order string, say func(any) error) error {
		var connections int
		var seconds float64
		if _, err := fmt.Sscanf(order, "%d %g", &connections, &seconds); err != nil || connections < 1 {
			return fmt.Errorf("order %q: want connections and seconds: %w", order, err)
		}
		return say(f.run(ctx, connections, time.Duration(seconds*float64(time.Second))))
	})
}

// refreshers are clients of a token service, each with a connection of its own.
type refreshers struct {
	url      string
	sessions []session
	next     atomic.Int64
}

// session is refreshed by one client at a time.
type session struct {
	// mu guards token, the refresh token that it has now.
	mu    sync.Mutex
	token string
}

// read loads the tokens.
func (f *refreshers) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open tokens: %w", err)
	}
	lines := bufio.NewScanner(file)
	for lines.Buffer(nil, api.MaxToken); lines.Scan(); {
		f.sessions = append(f.sessions, session{token: lines.Text()})
	}
	if err := errors.Join(lines.Err(), file.Close()); err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	if len(f.sessions) == 0 {
		return fmt.Errorf("read tokens: %s has none", path)
	}
	return nil
}

// run refreshes over so many connections for a time, zero: every session once.
func (f *refreshers) run(ctx context.Context, connections int, d time.Duration) ClientsReport {
	first, began, before := f.next.Load(), time.Now(), cpuTime()
	last := func(i int64) bool {
		return ctx.Err() != nil || d == 0 && i >= first+int64(len(f.sessions)) || d > 0 && time.Since(began) >= d
	}
	clients := make([]refresher, connections)
	var g sync.WaitGroup
	for i := range clients {
		c := &clients[i]
		g.Go(func() {
			defer c.open(f.url)()
			for i := f.next.Add(1) - 1; !last(i); i = f.next.Add(1) - 1 {
				s := &f.sessions[i%int64(len(f.sessions))]
				s.mu.Lock()
				s.token = c.refresh(ctx, s.token)
				s.mu.Unlock()
			}
		})
	}
	g.Wait()
	r := ClientsReport{CPU: cpuTime() - before}
	took := time.Since(began)
	var all []time.Duration
	for i := range clients {
		all = append(all, clients[i].took...)
		r.Failed += clients[i].failed
		if r.Fault == "" && clients[i].fault != nil {
			r.Fault = clients[i].fault.Error()
		}
	}
	slices.Sort(all)
	r.Done, r.P50, r.P99 = int64(len(all)), quantile(all, 0.5), quantile(all, 0.99)
	r.Rate = float64(r.Done) / took.Seconds()
	return r
}

// refresher is one client. It reads no more of an answer than it needs, to leave the machine to
// what is measured.
type refresher struct {
	url        string
	http       http.Client
	body, text bytes.Buffer
	took       []time.Duration
	failed     int64
	fault      error
}

// open prepares the client and returns what closes its connection.
func (c *refresher) open(url string) (closed func()) {
	t := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}
	c.url, c.http = url, http.Client{Transport: t, Timeout: 10 * time.Second}
	return t.CloseIdleConnections
}

// refresh redeems a token and returns the next, the same one if that failed.
func (c *refresher) refresh(ctx context.Context, token string) string {
	began := time.Now()
	next, err := c.post(ctx, token)
	if err != nil {
		c.failed++
		if c.fault == nil {
			c.fault = err
		}
		return token
	}
	c.took = append(c.took, time.Since(began))
	return next
}

// nextToken stands before the new refresh token in an answer.
const nextToken = `"refreshToken":"`

func (c *refresher) post(ctx context.Context, token string) (string, error) {
	c.body.Reset()
	c.body.WriteString(`{"refreshToken":"` + token + `","closestServerId":"` + serverID(0) + `","criticalTaskInProgress":false}`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, &c.body)
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	c.text.Reset()
	_, err = c.text.ReadFrom(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	text := c.text.Bytes()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return newToken(text)
}

// newToken returns the refresh token of an answer.
func newToken(text []byte) (string, error) {
	_, rest, ok := bytes.Cut(text, []byte(nextToken))
	token, _, ok2 := bytes.Cut(rest, []byte(`"`))
	if !ok || !ok2 {
		return "", fmt.Errorf("no refresh token in the answer: %s", text)
	}
	return string(token), nil
}

// fakeTokens writes a file of texts as long as refresh tokens are.
func fakeTokens(path string, n int) error {
	line := strings.Repeat("x", tokenLength) + "\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(line, n)), 0o600); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	return nil
}
