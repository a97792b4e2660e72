package replay

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Report is what came of a replay. docs/replay.md defines each number.
type Report struct {
	// From and To are when the first and the last decision were made. Zero: there was none.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Decisions are those that were read, each of which is one of: those that come out as they were
	// (Agree) or otherwise (Differences), whose view was not recorded, that no rule has made, that this
	// build cannot read.
	Decisions   int          `json:"decisions"`
	Agree       int          `json:"agree"`
	Differences []Difference `json:"differences"`
	NotRecorded int          `json:"not_recorded"`
	NoRule      int          `json:"no_rule"`
	Unreadable  int          `json:"unreadable"`
	// StandFor is how many decisions they stand for, of which the others were not recorded.
	StandFor int `json:"stand_for"`
	// Services is how many token services have decided, Sights by how many views.
	Services int `json:"services"`
	Sights   int `json:"sights"`
	// Candidate is what another policy would change. nil: none was asked about.
	Candidate *Candidate `json:"candidate,omitempty"`
}

// Outcome is what is decided.
type Outcome struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	To      string `json:"to,omitempty"`
}

func outcomeOf(d placement.Decision) Outcome {
	return Outcome{Verdict: string(d.Verdict), Reason: string(d.Reason), To: d.Server}
}

// moves reports whether a session goes from one server to another.
func (o Outcome) moves(e *events.Decision) bool {
	return e.From != "" && o.Verdict == string(placement.VerdictMove)
}

func (o Outcome) why() string { return o.Verdict + " " + o.Reason }

func (o Outcome) String() string { return o.why() + " " + cmp.Or(o.To, "-") }

// Difference is a decision that comes out otherwise.
type Difference struct {
	At         time.Time `json:"at"`
	Session    string    `json:"session"`
	Generation uint64    `json:"generation"`
	// Instance and Sight name the view.
	Instance string `json:"instance"`
	Sight    uint64 `json:"sight"`
	From     string `json:"from,omitempty"`
	// Was is what the rules have decided, Is what they decide now.
	Was Outcome `json:"was"`
	Is  Outcome `json:"is"`
}

func differenceOf(e *events.Decision, was, is Outcome) Difference {
	return Difference{
		At: e.At, Session: e.Session, Generation: e.Generation, Instance: e.Instance, Sight: e.Sight, From: e.From, Was: was, Is: is,
	}
}

func (d Difference) compare(o Difference) int {
	return cmp.Or(d.At.Compare(o.At), cmp.Compare(d.Session, o.Session), cmp.Compare(d.Generation, o.Generation))
}

// String returns the difference in a line.
func (d Difference) String() string {
	return fmt.Sprintf("%s %s/%d at %s: %s -> %s", d.At.UTC().Format(time.RFC3339Nano), d.Session, d.Generation, cmp.Or(d.From, "-"), d.Was, d.Is)
}

// Candidate is what another policy would change of the decisions that were made again. Each is decided
// on what was true then: what the candidate's own moves would have led to is for berth simulate.
type Candidate struct {
	// Policy is the candidate in a line.
	Policy string `json:"policy"`
	// Changed is how many decisions have another verdict, reason or server, Elsewhere how many of them
	// another server.
	Changed   int `json:"changed"`
	Elsewhere int `json:"elsewhere"`
	// Reasons are the changes by what was said before and after, the most frequent first.
	Reasons []Reasons `json:"reasons"`
	// Moves are those from server to server, Between those among them that lead to another region.
	Moves   Count `json:"moves"`
	Between Count `json:"between_regions"`
	// Regions are where the sessions are after the last decision on each.
	Regions []Load  `json:"regions"`
	Latency Latency `json:"latency"`
	// Differences are the changes.
	Differences []Difference `json:"differences"`
}

// Reasons is a kind of change.
type Reasons struct {
	Before    string `json:"before"`
	After     string `json:"after"`
	Decisions int    `json:"decisions"`
}

// Count is a number with the recorded policy, and with the candidate.
type Count struct {
	Before int `json:"before"`
	After  int `json:"after"`
}

func (c *Count) count(before, after bool) {
	if before {
		c.Before++
	}
	if after {
		c.After++
	}
}

// Pair is Count for fractions.
type Pair struct {
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

// Load is what a region has to bear: sessions that were decided on, and utilisation, before as last
// seen, after as if each of those sessions were one of its capacity.
type Load struct {
	Region      string `json:"region"`
	Sessions    Count  `json:"sessions"`
	Utilisation Pair   `json:"utilisation"`
}

// Latency is the estimated round-trip time between client and server, over the decisions of which it is
// known.
type Latency struct {
	Decisions int  `json:"decisions"`
	MeanMs    Pair `json:"mean_ms"`
	P95Ms     Pair `json:"p95_ms"`
}

// Table writes the report for people; with each, also every change by the candidate.
func (r *Report) Table(w io.Writer, each bool) error {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "decisions\tagree\tdiffer\tnot_recorded\tno_rule\tunreadable\tstand_for\tsights\t")
	fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", r.Decisions, r.Agree, len(r.Differences), r.NotRecorded, r.NoRule, r.Unreadable, r.StandFor, r.Sights)
	_ = table.Flush() // to a builder
	for _, d := range r.Differences {
		fmt.Fprintf(&text, "FAIL %s\n", d)
	}
	if c := r.Candidate; c != nil {
		c.table(&text)
		if each {
			for _, d := range c.Differences {
				fmt.Fprintln(&text, d)
			}
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (c *Candidate) table(text *strings.Builder) {
	fmt.Fprintf(text, "\n%s: %d decisions would change, %d of them the server\n", c.Policy, c.Changed, c.Elsewhere)
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	if len(c.Reasons) > 0 {
		fmt.Fprintln(table, "\nbefore\tafter\tdecisions")
	}
	for _, n := range c.Reasons {
		fmt.Fprintf(table, "%s\t%s\t%d\n", n.Before, n.After, n.Decisions)
	}
	_ = table.Flush()
	table = tabwriter.NewWriter(text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\n\tbefore\tafter\t")
	fmt.Fprintf(table, "moves\t%d\t%d\t\n", c.Moves.Before, c.Moves.After)
	fmt.Fprintf(table, "between_regions\t%d\t%d\t\n", c.Between.Before, c.Between.After)
	if l := c.Latency; l.Decisions > 0 {
		fmt.Fprintf(table, "mean_ms\t%.1f\t%.1f\t\n", l.MeanMs.Before, l.MeanMs.After)
		fmt.Fprintf(table, "p95_ms\t%.1f\t%.1f\t\n", l.P95Ms.Before, l.P95Ms.After)
	}
	for _, l := range c.Regions {
		fmt.Fprintf(table, "sessions %s\t%d\t%d\t\n", l.Region, l.Sessions.Before, l.Sessions.After)
		fmt.Fprintf(table, "utilisation %s\t%.3f\t%.3f\t\n", l.Region, l.Utilisation.Before, l.Utilisation.After)
	}
	_ = table.Flush()
}

// JSON writes the report as JSON.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
