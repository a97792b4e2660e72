package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// sessionsCmd looks at sessions and ends them.
type sessionsCmd struct {
	List   sessionsListCmd   `cmd:"" default:"withargs" help:"List the sessions of all regions."`
	Show   sessionsShowCmd   `cmd:"" help:"Show what each region knows of a session."`
	Revoke sessionsRevokeCmd `cmd:"" help:"End sessions, in every region at once."`
}

// filterFlags say which sessions are meant. They stand on the command line alone: a region that
// is set for services must not be one whose sessions are ended.
type filterFlags struct {
	Subject string `env:"-" placeholder:"USER" help:"Only sessions of this user."`
	Org     string `env:"-" placeholder:"NAME" help:"Only sessions of this organization."`
	Server  string `env:"-" placeholder:"ID" help:"Only sessions that are locked to this server."`
	Region  string `env:"-" placeholder:"NAME" help:"Only sessions that this region owns or that are locked to a server in it."`
}

func (f filterFlags) filter() tokens.SessionFilter {
	return tokens.SessionFilter{Subject: f.Subject, Org: f.Org, Server: f.Server, Region: f.Region}
}

// jurisdictionFlags say where the sessions are looked for.
type jurisdictionFlags struct {
	Jurisdiction string `env:"-" default:"global" placeholder:"NAME" help:"Look at the sessions of this jurisdiction, as --jurisdictions of the token services has it, from one of its regions (default: ${default})."`
}

// askTimeout bounds one question to a region.
const askTimeout = 10 * time.Second

// fleet is a connection by which the token services of all regions are asked.
type fleet struct {
	conn *jetstream.Conn
	// regions are those that the region at hand knows of, itself among them, and that are in the jurisdiction.
	regions      []string
	jurisdiction string
}

// reachFleet connects to a region's NATS for one command.
func reachFleet(p *program, f natsFlags, j jurisdictionFlags, fn func(*fleet) error) error {
	if err := checkName("jurisdiction", j.Jurisdiction); err != nil {
		return err
	}
	conn, err := f.dial(p, "sessions")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	list, err := (&serversCmd{}).read(ctx, conn)
	cancel()
	if err != nil {
		return err
	}
	regions := append(regionsOf(list), conn.Region())
	slices.Sort(regions)
	if j.Jurisdiction != events.GlobalJurisdiction {
		known, err := orgs{conn}.ask(p.ctx, residency.MethodList, residency.ListRequest{Limit: 1})
		if err != nil {
			return err
		}
		if regions = known.Jurisdictions[j.Jurisdiction]; !slices.Contains(regions, conn.Region()) {
			return fmt.Errorf("region %s is not in jurisdiction %s, whose sessions can be seen from its own regions alone", conn.Region(), j.Jurisdiction)
		}
	}
	return fn(&fleet{conn: conn, regions: slices.Compact(regions), jurisdiction: j.Jurisdiction})
}

// ask calls a method of a region's token services. A refusal is an error of one line.
func (f *fleet) ask(ctx context.Context, region, method string, request, reply any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := f.conn.Call(ctx, service.TokensMethod(f.jurisdiction, region, method), nil, data)
	var refused *jetstream.ServiceError
	switch {
	case errors.Is(err, jetstream.ErrNoResponders):
		return errors.New("no token service can be reached")
	case errors.Is(err, jetstream.ErrTimeout):
		return fmt.Errorf("no answer within %s", askTimeout)
	case errors.As(err, &refused):
		return errors.New(refused.Description)
	case err != nil:
		return err
	}
	if status := http.Header(answer.Header).Get(api.HeaderStatus); status != "200" {
		var problem api.Problem
		if json.Unmarshal(answer.Data, &problem) != nil || problem.Title == "" {
			return fmt.Errorf("an answer of status %q that says nothing", status)
		}
		return errors.New(strings.TrimSuffix(problem.Title+": "+problem.Detail, ": "))
	}
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// silence is a region that gave no answer.
type silence struct {
	region string
	err    error
}

// incomplete returns the error of a command that not every region has answered, nil if all have.
func incomplete(silent []silence, asked int) error {
	if len(silent) == 0 {
		return nil
	}
	var lines []string
	for _, s := range silent {
		lines = append(lines, s.region+" ("+s.err.Error()+")")
	}
	return fmt.Errorf("%d of %s did not answer: %s", len(silent), count(asked, "region"), strings.Join(lines, ", "))
}

// sessionsListCmd lists sessions.
type sessionsListCmd struct {
	natsFlags
	filterFlags
	jurisdictionFlags
	State string `env:"-" placeholder:"STATE" help:"Only sessions of this state: active or revoked, where a region knows more of them too."`
	Limit int    `default:"100" placeholder:"N" help:"Most sessions to list; 0: all (default: ${default})."`
	Count bool   `help:"Print only how many there are."`
	JSON  bool   `name:"json" help:"Print a JSON array."`
}

// Help says what the table does not.
func (*sessionsListCmd) Help() string {
	return "REGION owns the session, SERVER is its lock. Each region lists what has not changed for longest first; a session that changes meanwhile may come twice."
}

// listPage is how many sessions are asked for at once.
const listPage = 1000

// page is a part of a region's sessions, or why there is none.
type page struct {
	tokens.SessionsReply
	err error
}

// Run asks every region and prints what those say that answer.
func (c *sessionsListCmd) Run(p *program) error {
	filter := c.filter()
	filter.State = sessions.State(c.State)
	if err := filter.Validate(); err != nil {
		return err
	}
	if c.Limit < 0 {
		return fmt.Errorf("limit %d: want at least 0", c.Limit)
	}
	return reachFleet(p, c.natsFlags, c.jurisdictionFlags, func(f *fleet) error {
		ctx, cancel := context.WithCancel(p.ctx)
		defer cancel()
		regions := make([]<-chan page, len(f.regions))
		for i, region := range f.regions {
			q := tokens.SessionsRequest{SessionFilter: filter, Limit: listPage, Count: c.Count}
			if c.Limit > 0 {
				q.Limit = min(listPage, c.Limit)
			}
			regions[i] = f.pages(ctx, region, q)
		}
		out := listing{cmd: c, out: p.stdout}
		return out.print(ctx, f, regions)
	})
}

// pages asks a region for its sessions, a page ahead of who reads them. It ends with ctx.
func (f *fleet) pages(ctx context.Context, region string, q tokens.SessionsRequest) <-chan page {
	out := make(chan page)
	go func() {
		defer close(out)
		for {
			var got page
			got.err = f.ask(ctx, region, tokens.MethodSessions, q, &got.SessionsReply)
			select {
			case out <- got:
			case <-ctx.Done():
				return
			}
			if q.Cursor = got.Cursor; got.err != nil || q.Cursor == "" {
				return
			}
		}
	}()
	return out
}

// listing prints sessions as they come: it keeps none.
type listing struct {
	cmd *sessionsListCmd
	out io.Writer
	// printed and matched count sessions, unreadable records that are none.
	printed, matched, unreadable int
	// more says that the limit has left some out.
	more   bool
	silent []silence
}

func (l *listing) print(ctx context.Context, f *fleet, regions []<-chan page) error {
	if l.cmd.JSON && !l.cmd.Count {
		fmt.Fprint(l.out, "[")
	}
	for i, pages := range regions {
		for page := range pages {
			if page.err != nil {
				l.silent = append(l.silent, silence{f.regions[i], page.err})
				break
			}
			l.page(&page.SessionsReply)
			if l.full() {
				l.more = page.Cursor != "" || l.more
				break
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.end(); err != nil {
		return err
	}
	return incomplete(l.silent, len(f.regions))
}

// full reports whether no more sessions are to be printed.
func (l *listing) full() bool { return l.cmd.Limit > 0 && l.printed >= l.cmd.Limit && !l.cmd.Count }

func (l *listing) page(r *tokens.SessionsReply) {
	l.matched += r.Matched
	l.unreadable += r.Unreadable
	for i := range r.Sessions {
		if l.full() {
			l.more = true
			return
		}
		l.row(&r.Sessions[i])
		l.printed++
	}
}

// columns are as wide as what usually stands in them, so that a row can be printed at once.
const columns = "%-26s  %-8s  %-14s  %-16s  %-16s  %-18s  %-9s  %s\n"

func (l *listing) row(e *tokens.SessionEntry) {
	if l.cmd.JSON {
		data, err := json.Marshal(e)
		if err != nil {
			return // it has come as JSON
		}
		separator := "\n  "
		if l.printed > 0 {
			separator = ",\n  "
		}
		fmt.Fprintf(l.out, "%s%s", separator, data)
		return
	}
	if l.printed == 0 {
		fmt.Fprintf(l.out, columns, "SESSION", "STATE", "REGION", "SUBJECT", "ORG", "SERVER", "REFRESHED", "EXPIRES")
	}
	now := time.Now()
	fmt.Fprintf(l.out, columns, e.Session, e.State, e.Region, printable(e.Subject), dash(e.Org), dash(e.Server),
		age(now, e.RefreshedAt)+" ago", clock(e.ExpiresAt, now))
}

// end says how many there were, and what is missing.
func (l *listing) end() error {
	var err error
	switch {
	case l.cmd.Count && l.cmd.JSON:
		_, err = fmt.Fprintf(l.out, "{\"sessions\": %d}\n", l.matched)
	case l.cmd.Count:
		_, err = fmt.Fprintln(l.out, count(l.matched, "session"))
	case l.cmd.JSON && l.printed == 0:
		_, err = fmt.Fprintln(l.out, "]")
	case l.cmd.JSON:
		_, err = fmt.Fprintln(l.out, "\n]")
	case l.more:
		_, err = fmt.Fprintf(l.out, "%s, and there are more: see --limit, --count\n", count(l.printed, "session"))
	default:
		_, err = fmt.Fprintln(l.out, count(l.printed, "session"))
	}
	if err == nil && l.unreadable > 0 && !l.cmd.JSON {
		_, err = fmt.Fprintf(l.out, "%s could not be read\n", count(l.unreadable, "record"))
	}
	return err
}

// dash stands for nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable keeps what users may choose from moving a terminal's cursor.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == ' ' }) || s == "" {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// sessionsShowCmd shows one session.
type sessionsShowCmd struct {
	natsFlags
	jurisdictionFlags
	ID   string `arg:"" name:"session" help:"Session."`
	JSON bool   `name:"json" help:"Print what each region says as a JSON array."`
}

// Run asks every region, for more than one may have a record.
func (c *sessionsShowCmd) Run(p *program) error {
	if err := checkName("session", c.ID); err != nil {
		return err
	}
	return reachFleet(p, c.natsFlags, c.jurisdictionFlags, func(f *fleet) error {
		type said struct {
			reply tokens.SessionReply
			err   error
		}
		answers := askAll(f, func(region string) (s said) {
			s.err = f.ask(p.ctx, region, tokens.MethodSession, tokens.SessionRequest{Session: c.ID}, &s.reply)
			return s
		})
		found := []tokens.SessionReply{}
		var silent []silence
		for i, a := range answers {
			switch {
			case a.err != nil:
				silent = append(silent, silence{f.regions[i], a.err})
			case a.reply.State != "":
				found = append(found, a.reply)
			}
		}
		if err := c.print(p, found); err != nil {
			return err
		}
		if err := incomplete(silent, len(f.regions)); err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no session %s in %s", c.ID, strings.Join(f.regions, ", "))
		}
		return nil
	})
}

// askAll asks all regions at once.
func askAll[T any](f *fleet, ask func(region string) T) []T {
	answers := make([]T, len(f.regions))
	done := make(chan struct{})
	for i, region := range f.regions {
		go func() {
			answers[i] = ask(region)
			done <- struct{}{}
		}()
	}
	for range f.regions {
		<-done
	}
	return answers
}

func (c *sessionsShowCmd) print(p *program, found []tokens.SessionReply) error {
	if c.JSON {
		return printJSON(p, found)
	}
	now := time.Now()
	for i := range found {
		r := &found[i]
		lines := [][2]string{
			{"session", r.Session},
			{"state", string(r.State)},
			{"owner", r.Region},
			{"jurisdiction", r.Jurisdiction},
			{"subject", printable(r.Subject)},
			{"org", dash(r.Org)},
			{"client", printable(r.ClientID)},
			{"scope", printable(r.Scope)},
			{"server", fmt.Sprintf("%s in %s, %s", dash(r.Server), dash(r.ServerRegion), dash(r.ServerURL))},
			{"why", strings.TrimSpace(r.Decision + " " + r.Reason)},
			{"place", fmt.Sprintf("epoch %d of %s, generation %d", r.Epoch.Number, r.Epoch.Region, r.Generation)},
			{"started", moment(r.StartedAt, now)},
			{"refreshed", moment(r.RefreshedAt, now)},
			{"moved", moment(r.MovedAt, now)},
			{"home", dash(r.Home)},
			{"measured", measured(r.Measured, now)},
			{"critical since", moment(r.CriticalSince, now)},
			{"expires", clock(r.ExpiresAt, now)},
		}
		if i > 0 {
			fmt.Fprintln(p.stdout)
		}
		for _, line := range lines {
			if _, err := fmt.Fprintf(p.stdout, "%-15s %s\n", line[0], line[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// measured returns the times that a client told, and how long ago.
func measured(m *sessions.Measured, now time.Time) string {
	if m == nil {
		return "-"
	}
	list := make([]string, len(m.Regions))
	for i, t := range m.Regions {
		list[i] = fmt.Sprintf("%s %.4g ms", t.Region, t.MS)
	}
	return strings.Join(list, ", ") + ", " + age(now, m.Told) + " ago"
}

// moment returns a time of the past as people read it.
func moment(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return clock(at, now) + ", " + age(now, at) + " ago"
}
