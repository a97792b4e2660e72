package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is what a bench has found.
type Report struct {
	// Servers is the size of the fleet, Sessions how many were refreshed; zero: there were none.
	Servers  int   `json:"servers,omitempty"`
	Sessions int   `json:"sessions,omitempty"`
	Rows     []Row `json:"rows"`
}

// Row is one figure: the smaller, the better, but for rates.
type Row struct {
	// Work says what was done, Unit what Ours and Floor count.
	Work  string  `json:"work"`
	Unit  string  `json:"unit"`
	Ours  float64 `json:"ours"`
	Floor float64 `json:"floor"`
	// Ratio is that of ours to the floor.
	Ratio float64 `json:"ratio"`
	// Goal is what is to be reached, Met whether it was.
	Goal string `json:"goal"`
	Met  bool   `json:"met"`
	// Detail says under which circumstances.
	Detail string `json:"detail,omitempty"`
}

func (r *Report) add(row Row) {
	if row.Floor > 0 {
		row.Ratio = row.Ours / row.Floor
	}
	r.Rows = append(r.Rows, row)
}

// JSON writes the report for programs.
func (r Report) JSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

// Table writes the report for people.
func (r Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WORK\tOURS\tFLOOR\tRATIO\tGOAL\tMET")
	for _, row := range r.Rows {
		met := "no"
		if row.Met {
			met = "yes"
		}
		fmt.Fprintf(t, "%s\t%.2f %s\t%.2f %s\t%.2f\t%s\t%s\n", row.Work, row.Ours, row.Unit, row.Floor, row.Unit, row.Ratio, row.Goal, met)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if row.Detail != "" {
			if _, err := fmt.Fprintf(w, "%s: %s\n", row.Work, row.Detail); err != nil {
				return err
			}
		}
	}
	return nil
}
