package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/tokens"
)

// sessionsRevokeCmd ends sessions.
type sessionsRevokeCmd struct {
	natsFlags
	filterFlags
	jurisdictionFlags
	IDs    []string `arg:"" optional:"" name:"session" help:"Sessions to end; or say which by flags."`
	Yes    bool     `env:"-" help:"Do not ask before sessions that flags name are ended."`
	DryRun bool     `help:"Print only how many sessions would be ended."`
	Rate   int      `default:"500" placeholder:"N" help:"Most sessions to end in a second, so that refreshes go on beside it (default: ${default})."`
	JSON   bool     `name:"json" help:"Print the outcome as JSON."`
}

// Help says what an acknowledged end is worth.
func (*sessionsRevokeCmd) Help() string {
	return "A session that is said to have ended has ended for good. Its access token is refused at once by the servers of the region that owns it, and elsewhere as soon as word of it arrives. Interrupted or failed, the command can be given again."
}

// Bounds of one command.
const (
	revokePage  = 250
	maxRate     = 10_000
	maxAttempts = 3
)

// revokeOutcome is what has become of the sessions.
type revokeOutcome struct {
	Ended   int                    `json:"ended"`
	Already int                    `json:"already"`
	Failed  []tokens.RevokeFailure `json:"failed"`
	Silent  []string               `json:"silent_regions"`
}

// Run ends the sessions that are named or that the flags mean.
func (c *sessionsRevokeCmd) Run(p *program) error {
	filter := c.filter()
	switch none := filter == (tokens.SessionFilter{}); {
	case len(c.IDs) == 0 && none:
		return errors.New("name sessions, or say which by --subject, --org, --server or --region")
	case len(c.IDs) > 0 && !none:
		return errors.New("name sessions or say which by flags, not both")
	case c.Rate < 1 || c.Rate > maxRate:
		return fmt.Errorf("rate %d: want 1 to %d", c.Rate, maxRate)
	}
	for _, id := range c.IDs {
		if err := checkName("session", id); err != nil {
			return err
		}
	}
	if err := filter.Validate(); err != nil {
		return err
	}
	return reachFleet(p, c.natsFlags, c.jurisdictionFlags, func(f *fleet) error {
		r := &revoker{program: p, fleet: f, cmd: c, pace: pace{rate: c.Rate, began: time.Now()}}
		r.outcome.Failed, r.outcome.Silent = []tokens.RevokeFailure{}, []string{}
		if len(c.IDs) > 0 && !c.DryRun {
			return r.byID(slices.Compact(slices.Sorted(slices.Values(c.IDs))))
		}
		if len(c.IDs) > 0 {
			return r.countIDs()
		}
		return r.byFilter(filter)
	})
}

// revoker is one command that ends sessions.
type revoker struct {
	*program
	fleet   *fleet
	cmd     *sessionsRevokeCmd
	pace    pace
	outcome revokeOutcome
	silent  []silence
	// told is when progress was last told of.
	told time.Time
}

// byID ends sessions by their ids. Every region is asked, for any may have a record.
func (r *revoker) byID(ids []string) error {
	type said struct {
		reply tokens.RevokeReply
		err   error
	}
	for chunk := range slices.Chunk(ids, revokePage) {
		if r.ctx.Err() != nil {
			break
		}
		ctx, cancel := r.begun()
		answers := askAll(r.fleet, func(region string) (s said) {
			q := tokens.RevokeRequest{Sessions: chunk, By: self()}
			s.err = r.fleet.ask(ctx, region, tokens.MethodRevokeSessions, q, &s.reply)
			return s
		})
		cancel()
		unknown := map[string]int{}
		asked := 0
		for i, a := range answers {
			if a.err != nil {
				r.note(r.fleet.regions[i], a.err)
				continue
			}
			asked++
			r.add(r.fleet.regions[i], &a.reply)
			for _, id := range a.reply.Unknown {
				unknown[id]++
			}
		}
		for _, id := range chunk {
			if unknown[id] == asked && asked > 0 {
				r.outcome.Failed = append(r.outcome.Failed, tokens.RevokeFailure{Session: id, Reason: "no region that answered knows it"})
			}
		}
		r.pace.wait(r.ctx, len(chunk))
	}
	// A session that several regions know of had ended for all but the first.
	r.outcome.Already = min(r.outcome.Already, max(0, len(ids)-r.outcome.Ended-len(r.outcome.Failed)))
	return r.finish()
}

// countIDs says how many of the named sessions there are.
func (r *revoker) countIDs() error {
	live := 0
	for _, id := range r.cmd.IDs {
		type said struct {
			reply tokens.SessionReply
			err   error
		}
		found := false
		for i, a := range askAll(r.fleet, func(region string) (s said) {
			s.err = r.fleet.ask(r.ctx, region, tokens.MethodSession, tokens.SessionRequest{Session: id}, &s.reply)
			return s
		}) {
			if a.err != nil {
				r.note(r.fleet.regions[i], a.err)
			}
			found = found || a.reply.State != "" && a.reply.State != "revoked"
		}
		if found {
			live++
		}
	}
	return r.would(live)
}

// would says how many sessions would be ended.
func (r *revoker) would(n int) error {
	if r.cmd.JSON {
		fmt.Fprintf(r.stdout, "{\"sessions\": %d}\n", n)
	} else {
		fmt.Fprintf(r.stdout, "%s would be ended\n", count(n, "session"))
	}
	return incomplete(r.silent, len(r.fleet.regions))
}

// byFilter ends the sessions that a filter means, region by region.
func (r *revoker) byFilter(filter tokens.SessionFilter) error {
	total, err := r.count(filter)
	if err != nil {
		return err
	}
	if r.cmd.DryRun {
		return r.would(total)
	}
	if len(r.silent) == len(r.fleet.regions) {
		return incomplete(r.silent, len(r.fleet.regions))
	}
	for _, s := range r.silent {
		fmt.Fprintf(r.stderr, "region %s does not answer: %v\n", s.region, s.err)
	}
	if !r.cmd.Yes && total > 0 {
		if err := r.confirm(total); err != nil {
			return err
		}
	}
	r.silent, r.outcome.Silent = nil, []string{}
	r.pace.began, r.told = time.Now(), time.Now()
	for _, region := range r.fleet.regions {
		if err := r.region(region, filter, total); err != nil {
			r.note(region, err)
		}
	}
	return r.finish()
}

// count returns how many sessions would be ended in the regions that answer.
func (r *revoker) count(filter tokens.SessionFilter) (total int, err error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	for _, region := range r.fleet.regions {
		for page := range r.fleet.pages(ctx, region, tokens.SessionsRequest{SessionFilter: filter, Count: true}) {
			if page.err != nil {
				r.note(region, page.err)
			}
			total += page.Matched - page.Ended
		}
	}
	if r.ctx.Err() != nil {
		return 0, errors.New("interrupted; no session was ended")
	}
	return total, nil
}

// confirm asks the person at the terminal.
func (r *revoker) confirm(total int) error {
	fmt.Fprintf(r.stderr, "End %s? They cannot be brought back. [y/N] ", count(total, "session"))
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(r.stdin, 64)).ReadString('\n')
		if err != nil {
			fmt.Fprintln(r.stderr)
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-r.ctx.Done():
		return errors.New("interrupted; no session was ended")
	case line := <-answer:
		if line != "y" && line != "yes" {
			return errors.New("not confirmed; no session was ended (--yes does not ask)")
		}
		return nil
	}
}

// region ends the sessions of one region, page by page. After an error it begins again, so that
// nothing that had ended by then remains untold; what is found to have ended counts then, too.
func (r *revoker) region(region string, filter tokens.SessionFilter, total int) error {
	q := tokens.RevokeRequest{Filter: &filter, Limit: revokePage, By: self()}
	before := r.outcome
	for tried := 0; r.ctx.Err() == nil; {
		var reply tokens.RevokeReply
		ctx, cancel := r.begun()
		err := r.fleet.ask(ctx, region, tokens.MethodRevokeSessions, q, &reply)
		cancel()
		if err != nil {
			if tried++; tried == maxAttempts {
				return err
			}
			q.Cursor, r.outcome = "", before
			pause(r.ctx, time.Second)
			continue
		}
		if tried > 0 {
			reply.Ended, reply.Already = reply.Ended+reply.Already, 0
		}
		r.add(region, &reply)
		r.progress(total)
		if q.Cursor = reply.Cursor; q.Cursor == "" {
			return nil
		}
		r.pace.wait(r.ctx, reply.Ended+reply.Already)
	}
	return nil
}

// begun returns the context of a request that is finished even if the command is interrupted.
func (r *revoker) begun() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.ctx), askTimeout)
}

func (r *revoker) add(region string, reply *tokens.RevokeReply) {
	r.outcome.Ended += reply.Ended
	r.outcome.Already += reply.Already
	for _, f := range reply.Failed {
		r.outcome.Failed = append(r.outcome.Failed, tokens.RevokeFailure{Session: f.Session, Reason: region + ": " + f.Reason})
	}
}

// progress says, at most once a second, how far a long command has come.
func (r *revoker) progress(total int) {
	if now := time.Now(); now.Sub(r.told) >= time.Second && r.outcome.Ended < total {
		r.told = now
		fmt.Fprintf(r.stderr, "%s ended of about %d\n", count(r.outcome.Ended, "session"), total)
	}
}

// note remembers a region that gave no answer, once.
func (r *revoker) note(region string, err error) {
	if !slices.Contains(r.outcome.Silent, region) {
		r.outcome.Silent = append(r.outcome.Silent, region)
	}
	if !slices.ContainsFunc(r.silent, func(s silence) bool { return s.region == region }) {
		r.silent = append(r.silent, silence{region, err})
	}
}

// finish says how far the command has come. It fails unless all has ended.
func (r *revoker) finish() error {
	said := count(r.outcome.Ended, "session") + " ended"
	if r.outcome.Already > 0 {
		said += fmt.Sprintf(", %d had before", r.outcome.Already)
	}
	if r.cmd.JSON {
		if err := printJSON(r.program, r.outcome); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(r.stdout, said)
	}
	for _, f := range r.outcome.Failed {
		fmt.Fprintf(r.stderr, "%s goes on: %s\n", f.Session, f.Reason)
	}
	switch err := incomplete(r.silent, len(r.fleet.regions)); {
	case r.ctx.Err() != nil:
		return fmt.Errorf("interrupted after %s; the same command goes on", said)
	case len(r.outcome.Failed) > 0 && err != nil:
		return fmt.Errorf("%s could not be ended; %w", count(len(r.outcome.Failed), "session"), err)
	case len(r.outcome.Failed) > 0:
		return fmt.Errorf("%s could not be ended", count(len(r.outcome.Failed), "session"))
	default:
		return err
	}
}

// pace holds a command to a rate.
type pace struct {
	rate  int
	began time.Time
	done  int
}

// wait waits until so many more may have been done, or ctx ends.
func (w *pace) wait(ctx context.Context, n int) {
	w.done += n
	due := w.began.Add(time.Duration(w.done) * time.Second / time.Duration(w.rate))
	pause(ctx, time.Until(due))
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
