package sim

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"maps"
	"slices"
)

// The size of a plot: each policy has a panel.
const (
	panelWidth  = 900
	panelHeight = 200
	panelMargin = 40
	// clipped is the greatest utilisation that a panel shows.
	clipped = 2.0
)

// SVG writes a plot: for each policy, by its first seed, the utilisation of every region's
// busiest server over time, with a line at 100 %.
func (r *Report) SVG(w io.Writer) error {
	var b bytes.Buffer
	rows := r.Rows[1:]
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		panelWidth+2*panelMargin, len(rows)*(panelHeight+panelMargin)+panelMargin)
	fmt.Fprintf(&b, "<title>%s: utilisation of the busiest server of each region</title>\n", html.EscapeString(r.Scenario))
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, row := range rows {
		row.panel(&b, panelMargin+i*(panelHeight+panelMargin))
	}
	b.WriteString("</svg>\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return nil
}

// panel draws a policy's panel whose upper edge is at top.
func (r *Row) panel(b *bytes.Buffer, top int) {
	y := func(u float64) float64 { return float64(top) + panelHeight*(1-min(u, clipped)/clipped) }
	fmt.Fprintf(b, `<text x="%d" y="%d">%s</text>`+"\n", panelMargin, top-6, html.EscapeString(r.Policy))
	for _, u := range []float64{0, 0.5, 1, 1.5, 2} {
		colour := "#ddd"
		if u == 1 {
			colour = "#c00"
		}
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/><text x="4" y="%.1f">%.0f %%</text>`+"\n",
			panelMargin, panelMargin+panelWidth, y(u), y(u), colour, y(u)+4, 100*u)
	}
	busiest := r.Runs[0].Busiest
	for i, region := range slices.Sorted(maps.Keys(busiest)) {
		points := busiest[region]
		fmt.Fprintf(b, `<polyline fill="none" stroke="hsl(%d 70%% 40%%)" points="`, i*360/len(busiest))
		for j, u := range points {
			fmt.Fprintf(b, "%.1f,%.1f ", panelMargin+panelWidth*float64(j)/float64(len(points)), y(u))
		}
		fmt.Fprintf(b, `"><title>%s</title></polyline>`+"\n", html.EscapeString(region))
	}
}
