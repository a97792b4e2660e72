package telemetry

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// Query asks for one field of the servers' load.
type Query struct {
	// Field is a field of events.Load by its JSON name.
	Field string
	// PromQL gives an instant vector with one series for each server, labelled with its id.
	PromQL string
}

// ParseQuery reads FIELD=PROMQL.
func ParseQuery(s string) (Query, error) {
	field, promql, ok := strings.Cut(s, "=")
	q := Query{Field: strings.TrimSpace(field), PromQL: strings.TrimSpace(promql)}
	if !ok {
		return Query{}, fmt.Errorf("query %q: want FIELD=PROMQL", s)
	}
	return q, q.validate()
}

func (q Query) validate() error {
	switch {
	case !slices.Contains(events.LoadFields(), q.Field):
		return fmt.Errorf("query for %q: want one of %s", q.Field, strings.Join(events.LoadFields(), ", "))
	case q.PromQL == "":
		return errors.New("query for " + q.Field + " is empty")
	}
	return nil
}

// Sample is a series of an answer: the server that its label names, empty if it has none, and
// its present value.
type Sample struct {
	Server string
	Value  float64
}

// Answer is what a query for a field gave.
type Answer struct {
	Field   string
	Samples []Sample
}

// Doubt is a series that was of no use, and why.
type Doubt struct {
	Field, Server, Reason string
}

// Reasons of doubts, as they stand in logs and metrics.
const (
	DoubtUnlabelled = "no_server_label"
	DoubtID         = "no_server_id"
	DoubtUnknown    = "unknown_server"
	DoubtValue      = "no_load"
	DoubtTwice      = "two_series"
)

// Advice says what an operator can do.
func (d Doubt) Advice() string {
	switch d.Reason {
	case DoubtUnlabelled:
		return "keep the label with the server's id in the result, as by (server) does, or name another with --server-label"
	case DoubtID:
		return "label the series with the id under which the server sends heartbeats"
	case DoubtUnknown:
		return "no server of this region sends heartbeats under that id: narrow the query, or start the server"
	case DoubtTwice:
		return "aggregate to one series for each server, as sum by (server) (...) does"
	default:
		return "let the query give a number of at least 0, or none"
	}
}

// maxCount bounds values: what is larger is no load.
const maxCount = 1e9

// Reports makes of the answers one report for each server, as of at, with the fields that the
// answers speak of, sorted by server. A series that cannot be told from another of the same
// server, for it stands there twice, counts as none: which is right is not to be guessed.
func Reports(region, source string, answers []Answer, known func(id string) bool, at time.Time) ([]*events.LoadReport, []Doubt) {
	var doubts []Doubt
	reports := map[string]*events.LoadReport{}
	for _, a := range answers {
		times := map[string]int{}
		for _, s := range a.Samples {
			times[s.Server]++
		}
		for _, s := range a.Samples {
			if reason := judge(s, times[s.Server], known); reason != "" {
				doubts = append(doubts, Doubt{Field: a.Field, Server: brief(s.Server), Reason: reason})
				continue
			}
			r := reports[s.Server]
			if r == nil {
				r = &events.LoadReport{Version: events.Version, Server: s.Server, Region: region, At: at.UTC(), Source: source}
				reports[s.Server] = r
			}
			if r.Load.SetField(a.Field, math.Abs(s.Value)) { // -0 is 0
				r.Fields = append(r.Fields, a.Field)
			}
		}
	}
	list := make([]*events.LoadReport, 0, len(reports))
	for _, r := range reports {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *events.LoadReport) int { return cmp.Compare(a.Server, b.Server) })
	return list, doubts
}

// judge returns why a series is of no use, empty if it is of use.
func judge(s Sample, times int, known func(id string) bool) string {
	switch {
	case s.Server == "":
		return DoubtUnlabelled
	case !events.ValidToken(s.Server):
		return DoubtID
	case !known(s.Server):
		return DoubtUnknown
	case times > 1:
		return DoubtTwice
	case !(s.Value >= 0 && s.Value <= maxCount):
		return DoubtValue
	}
	return ""
}

// brief cuts a label that is too long to be an id.
func brief(label string) string {
	if len(label) > events.MaxToken {
		return strings.ToValidUTF8(label[:events.MaxToken], "") + "…"
	}
	return label
}
