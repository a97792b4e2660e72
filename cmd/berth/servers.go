package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// serversCmd lists the view of a region.
type serversCmd struct {
	natsFlags
	Region string `placeholder:"NAME" help:"Only servers of this region."`
	JSON   bool   `name:"json" help:"Print a JSON array."`
}

// Help says what the table does not.
func (*serversCmd) Help() string {
	return "A value that does not change is written anew every half minute: LOAD AS OF says as of when it is. STATE is always current. What a REASON means stands in docs/reasons.md. How far copies of other regions' sessions are behind includes the difference of the clocks."
}

// listTimeout bounds a command that reads once.
const listTimeout = 10 * time.Second

// Run prints the servers as the region whose NATS it asks sees them.
func (c *serversCmd) Run(p *program) error {
	conn, err := c.dial(p, "servers")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	defer cancel()
	list, err := c.read(ctx, conn)
	if err != nil {
		return err
	}
	// The servers are worth having without it, as where the user may not read that stream.
	lags, err := conn.CopyLags(ctx)
	if err != nil {
		fmt.Fprintf(p.stderr, "berth: how old copies of sessions are is not known: %v\n", err)
	}
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		return out.Encode(rows(list, lags))
	}
	return c.table(p, conn.Region(), list, copyLags(lags, c.Region))
}

// row is a server as --json prints it.
type row struct {
	events.Server
	// CopiesLagMS is how far the copies of its region's sessions are behind, in milliseconds; absent of the own region, of
	// one that none come from, and of one that has not been heard for a day.
	CopiesLagMS *int64 `json:"copies_lag_ms,omitempty"`
}

func rows(list []events.Server, lags []jetstream.Lag) []row {
	byRegion := map[string]*int64{}
	for _, l := range lags {
		if ms := l.Behind.Milliseconds(); l.Known {
			byRegion[l.Region] = &ms
		}
	}
	out := make([]row, len(list))
	for i, s := range list {
		out[i] = row{s, byRegion[s.Region]}
	}
	return out
}

// copyLags says of each region, or of the one that is asked for, how far the copies of its sessions are behind.
func copyLags(lags []jetstream.Lag, only string) (lines []string) {
	for _, l := range lags {
		switch {
		case only != "" && l.Region != only:
		case !l.Known:
			lines = append(lines, fmt.Sprintf("region %s: no copies of its sessions arrive, or none have for a day", l.Region))
		case l.Behind < 10*time.Second:
			lines = append(lines, fmt.Sprintf("region %s: copies of its sessions are %v behind", l.Region, l.Behind.Round(time.Millisecond)))
		default:
			lines = append(lines, fmt.Sprintf("region %s: no copies of its sessions have arrived for %s", l.Region, whole(l.Behind)))
		}
	}
	return lines
}

// read returns the servers, sorted by region and id.
func (c *serversCmd) read(ctx context.Context, conn *jetstream.Conn) ([]events.Server, error) {
	entries, err := conn.Servers().Load(ctx)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return nil, fmt.Errorf("region %s has no bucket %s yet; start one with: berth registry --region %s", conn.Region(), registry.Bucket, conn.Region())
	case err != nil:
		return nil, err
	}
	list := []events.Server{}
	regions := map[string]bool{}
	for _, e := range entries {
		var s events.Server
		if err := json.Unmarshal(e.Value, &s); err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", e.Key, registry.Bucket, err)
		}
		regions[s.Region] = true
		if c.Region == "" || s.Region == c.Region {
			list = append(list, s)
		}
	}
	if c.Region != "" && !regions[c.Region] {
		return nil, fmt.Errorf("region %q has no servers in the view of %s", c.Region, conn.Region())
	}
	slices.SortFunc(list, func(a, b events.Server) int { return strings.Compare(a.Key(), b.Key()) })
	return list, nil
}

// table prints what the bucket holds. A value that does not change is written again only every half minute or so, hence
// the column that says as of when it is.
func (c *serversCmd) table(p *program, region string, list []events.Server, lags []string) error {
	now := time.Now()
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "SERVER\tREGION\tSTATE\tREASON\tFOR\tSESSIONS\tCAPACITY\tUTILISATION\tLOAD FROM\tLOAD AS OF\tURL\n")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%.0f %%\t%s\t%s ago\t%s\n", s.Server, s.Region, state(&s, now), s.Reason,
			age(now, s.Since), s.Load.Sessions, capacity(&s, now), 100*s.Load.Utilisation, cmp.Or(s.LoadSource, "itself"), age(now, s.SeenAt), s.URL)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range slices.Concat(outages(list), protections(list), lags) {
		fmt.Fprintln(p.stdout, line)
	}
	_, err := fmt.Fprintf(p.stdout, "%s in the view of %s\n", count(len(list), "server"), region)
	return err
}

// state returns a server's state, of one that is to drain with its deadline.
func state(s *events.Server, now time.Time) string {
	switch {
	case s.DrainUntil.IsZero():
		return string(s.State)
	case s.State != events.StateDraining:
		return string(s.State) + ", to drain until " + clock(s.DrainUntil, now)
	case now.After(s.DrainUntil):
		return "draining, deadline passed at " + clock(s.DrainUntil, now)
	}
	return "draining until " + clock(s.DrainUntil, now)
}

// clock returns a time near now as people write it here: the date only of another day.
func clock(at, now time.Time) string {
	at, now = at.Local(), now.Local()
	layout := "15:04:05"
	if at.Format(time.DateOnly) != now.Format(time.DateOnly) {
		layout = "2006-01-02 " + layout
	}
	return at.Format(layout)
}

// capacity returns a server's capacity, in slow start with the part that counts.
func capacity(s *events.Server, now time.Time) string {
	if now := int(registry.Effective(s, now)); now < s.Capacity {
		return fmt.Sprintf("%d of %d", now, s.Capacity)
	}
	return strconv.Itoa(s.Capacity)
}

// protections says of each protected region how many of its servers bear which mark, in the
// order of the list.
func protections(list []events.Server) (lines []string) {
	for len(list) > 0 {
		region, end := list[0].Region, 0
		marked := map[string]int{}
		for end < len(list) && list[end].Region == region {
			marked[list[end].Protection]++
			end++
		}
		for _, what := range []string{events.Protected, events.FailOpen} {
			if n := marked[what]; n > 0 {
				lines = append(lines, fmt.Sprintf("region %s: %d of %d servers are marked %s", region, n, end, what))
			}
		}
		list = list[end:]
	}
	return lines
}

// outages says of each region that is out of reach or down how many of its servers count otherwise for that, in the order
// of the list.
func outages(list []events.Server) (lines []string) {
	for len(list) > 0 {
		region, end := list[0].Region, 0
		reasons := map[string]int{}
		for end < len(list) && list[end].Region == region {
			reasons[list[end].Reason]++
			end++
		}
		if n := reasons[registry.ReasonRegionUnreachable]; n > 0 {
			lines = append(lines, fmt.Sprintf("region %s is out of reach: %d of %d servers are suspect for that", region, n, end))
		}
		if n := reasons[registry.ReasonRegionDown]; n > 0 {
			lines = append(lines, fmt.Sprintf("region %s is down: %d of %d servers are down for that", region, n, end))
		}
		list = list[end:]
	}
	return lines
}

// age returns the time since t in whole seconds.
func age(now, t time.Time) string { return whole(now.Sub(t)) }

// whole returns a duration in whole seconds, at least 0.
func whole(d time.Duration) string { return max(0, d).Round(time.Second).String() }

// count returns a number of things, of which there may be one.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// closeConn ends a command's connection.
func closeConn(p *program, conn *jetstream.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the command has what it came for
}
