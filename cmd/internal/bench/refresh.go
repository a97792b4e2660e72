package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// RefreshConfig says how to measure refreshes.
type RefreshConfig struct {
	// Setup says how. A phase, of those with fewer connections, takes 4 s by itself.
	Setup
	// Sessions is how many sessions are started, and refreshed once a round.
	Sessions int
}

// maxSessions bounds what a run starts: each takes about 1 KB of the clients' memory.
const maxSessions = 1_000_000

// What a refresh is to reach, at manyClients connections.
const (
	goalGrants     = 12_000
	goalGrants99   = 15 * time.Millisecond
	goalGrantCPU   = 110 * time.Microsecond
	goalGrantRatio = 1.8
)

// How many connections refresh at once: in a round, and in the two phases after it.
const (
	manyClients = 64
	someClients = 16
	oneClient   = 1
)

// signatures is how many a grant takes: the refresh token's and the access token's.
const signatures = 2

// refreshRun is one run of the bench of refreshes.
type refreshRun struct {
	RefreshConfig
	trial
	floor map[int]passed
	sign  time.Duration
}

// passed is what a number of clients got done, and what it took of the side that they asked.
type passed struct {
	ClientsReport
	// each is the side's processor time for a request.
	each time.Duration
}

// Refresh measures the token service: every session refreshed once over 64 connections, then
// for a phase each over 1 and over 16, with its events, on disk. The floors are an HTTP server
// that reads as much and answers as much, asked by the same clients, and a bare signature.
// A goal that is missed is no error.
func Refresh(ctx context.Context, c RefreshConfig) (Report, error) {
	if err := c.prepare("sessions", c.Sessions, maxSessions, 4*time.Second); err != nil {
		return Report{}, fmt.Errorf("bench refresh: %w", err)
	}
	r := &refreshRun{RefreshConfig: c, trial: trial{report: Report{Sessions: c.Sessions}}, floor: map[int]passed{}}
	if err := r.do(ctx, r.echoes, r.grants); err != nil {
		return r.report, fmt.Errorf("bench refresh: %w", err)
	}
	return r.report, nil
}

// tokens is the file of the refresh tokens.
func (r *refreshRun) tokens() string { return filepath.Join(r.dir, "tokens") }

// echoes measures the floors.
func (r *refreshRun) echoes(ctx context.Context) (err error) {
	r.say("the floors: an HTTP echo, a signature")
	if err := fakeTokens(r.tokens(), 16*manyClients); err != nil {
		return err
	}
	side, err := start(ctx, r.Program, "bench", "echo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.close()) }()
	var first EchoReport
	if err := side.hear(&first); err != nil {
		return err
	}
	clients, err := r.clients(ctx, first.URL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.close()) }()
	cpu := func() (time.Duration, error) {
		var now EchoReport
		err := side.ask("", &now)
		return now.CPU, err
	}
	for _, phase := range []phase{{manyClients, r.Phase / 16}, {manyClients, r.Phase * 3 / 8}, {someClients, r.Phase * 3 / 16}, {oneClient, r.Phase * 3 / 16}} {
		if r.floor[phase.connections], err = phase.run(clients, cpu); err != nil {
			return err
		}
	}
	var signed EchoReport
	if err := side.ask("sign", &signed); err != nil {
		return err
	}
	r.sign = signed.Signature
	return nil
}

// grants measures the token service.
func (r *refreshRun) grants(ctx context.Context) (err error) {
	r.say("%d sessions are started", r.Sessions)
	side, err := start(ctx, r.Program, "bench", "grants", "--dir", r.dir, "--tokens", r.tokens(), "--sessions", fmt.Sprint(r.Sessions))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.close()) }()
	var first, last GrantsReport
	if err := side.hear(&first); err != nil {
		return err
	}
	clients, err := r.clients(ctx, first.URL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.close()) }()
	cpu := func() (time.Duration, error) {
		err := side.ask("", &last)
		return last.CPU, err
	}
	got := map[int]passed{}
	var all int64
	for _, phase := range []phase{{manyClients, 0}, {oneClient, r.Phase}, {someClients, r.Phase}} {
		r.say("refreshes over %d connections", phase.connections)
		p, err := phase.run(clients, cpu)
		if err != nil {
			return err
		}
		got[phase.connections] = p
		all += p.Done
	}
	if err := side.ask("settle", &last); err != nil {
		return err
	}
	r.addGrants(got, fmt.Sprintf("%d sessions started in %.1f s; of %d grants %d events of the session and %d decisions (each stay beyond 200/s stands for several) were stored; RSS %d MB",
		r.Sessions, first.Took.Seconds(), all, last.Refreshed, last.Decisions, last.RSS/mb))
	return nil
}

// addGrants adds the rows.
func (r *refreshRun) addGrants(got map[int]passed, detail string) {
	many, floor := got[manyClients], r.floor[manyClients]
	failed := func(p passed) string { return fmt.Sprintf("%d refused or failed", p.Failed) }
	r.report.add(Row{
		Work: fmt.Sprintf("refresh grants over %d connections, %d sessions", manyClients, r.Sessions), Unit: "/s",
		Ours: many.Rate, Floor: floor.Rate, Goal: fmt.Sprintf("at least %d/s, p99 at most %.0f ms", goalGrants, millis(goalGrants99)),
		Met: many.Rate >= goalGrants && many.P99 <= goalGrants99 && many.Failed == 0,
		Detail: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, %s; floor: HTTP echo of the same sizes, p50 %.2f ms, p99 %.2f ms; %s",
			millis(many.P50), millis(many.P99), failed(many), millis(floor.P50), millis(floor.P99), detail),
	})
	least := floor.each + signatures*r.sign
	r.report.add(Row{
		Work: "refresh grant, CPU of NATS and token service", Unit: "µs", Ours: micros(many.each), Floor: micros(least),
		Goal: fmt.Sprintf("at most %.0f µs and %.1f times the floor", micros(goalGrantCPU), goalGrantRatio),
		Met:  many.each <= goalGrantCPU && float64(many.each) <= goalGrantRatio*float64(least),
		Detail: fmt.Sprintf("floor: the echo %.1f µs and %d signatures of %.1f µs; clients %.1f µs",
			micros(floor.each), signatures, micros(r.sign), micros(many.CPU/time.Duration(max(1, many.Done)))),
	})
	for _, n := range []int{someClients, oneClient} {
		p, floor := got[n], r.floor[n]
		r.report.add(Row{
			Work: fmt.Sprintf("refresh over %d connections, p50", n), Unit: "ms", Ours: millis(p.P50), Floor: millis(floor.P50),
			Goal: "none failed", Met: p.Failed == 0,
			Detail: fmt.Sprintf("%.0f/s, p99 %.2f ms, %s, CPU %.1f µs; floor: %.0f/s, p99 %.2f ms",
				p.Rate, millis(p.P99), failed(p), micros(p.each), floor.Rate, millis(floor.P99)),
		})
	}
}

// clients starts those who refresh, with the sessions of the tokens file.
func (r *refreshRun) clients(ctx context.Context, url string) (*child, error) {
	return start(ctx, r.Program, "bench", "clients", "--url", url, "--tokens", r.tokens())
}

// phase is one measurement: so many connections for a time, zero: once round the sessions.
type phase struct {
	connections int
	time        time.Duration
}

// run lets the clients do it, and asks before and after what the side has used.
func (p phase) run(clients *child, cpu func() (time.Duration, error)) (got passed, err error) {
	before, err := cpu()
	if err != nil {
		return got, err
	}
	if err := clients.ask(fmt.Sprintf("%d %g", p.connections, p.time.Seconds()), &got.ClientsReport); err != nil {
		return got, err
	}
	after, err := cpu()
	if err != nil {
		return got, err
	}
	if got.Done == 0 {
		return got, fmt.Errorf("nothing was answered over %d connections: %s", p.connections, got.Fault)
	}
	got.each = (after - before) / time.Duration(got.Done)
	return got, nil
}
