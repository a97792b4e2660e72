package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What row 1 asks of a fleet.
const (
	// fast is how often every server sends: 100 000 a second of 10 000 servers. They announce
	// the interval of any server, so that a moment without processor time is no silence.
	fast = 100 * time.Millisecond
	// changingShare is the share of the fleet whose load changes, in a second, by enough to be
	// written and told to others.
	changingShare = 0.2
	// rounds is how often ours and the floor are measured, in turn.
	rounds = 3
	// goalRatio is how much more processor time a heartbeat may take than the floor's.
	goalRatio = 1.4
	// floodLimit is how long what a flood has left behind is waited for.
	floodLimit = time.Second
	// keptUp is the share of the rate that has to be reached.
	keptUp = 0.98
)

// changing is how many loads change in a second.
func (r *run) changing() int { return int(changingShare * float64(r.Servers)) }

// flow is what a side did with a paced run of heartbeats.
type flow struct {
	// server and generator are the processor time for each heartbeat.
	server, generator time.Duration
	rate              float64
	lost              int64
	gaps              int64
}

// heartbeats measures the processor time that a heartbeat takes NATS and registry, at a steady
// rate, and what becomes of a flood.
func (r *run) heartbeats(ctx context.Context) error {
	rate := int(float64(r.Servers) / fast.Seconds())
	var ours, floor []flow
	for round := range rounds {
		for _, isFloor := range []bool{true, false} {
			r.say("heartbeats at %d/s, round %d of %d, %s", rate, round+1, rounds, names[isFloor])
			f, err := r.flow(ctx, isFloor, rate, connections)
			if err != nil {
				return err
			}
			if isFloor {
				floor = append(floor, f)
			} else {
				ours = append(ours, f)
			}
		}
	}
	r.addFlow("heartbeat folded into the view, CPU of NATS and registry", rate, ours, floor, true)
	return r.flood(ctx)
}

var names = map[bool]string{true: "the floor", false: "the registry"}

func (r *run) addFlow(work string, rate int, ours, floor []flow, atMost bool) {
	row := Row{Work: work, Unit: "µs", Ours: micros(middle(ours).server), Floor: micros(middle(floor).server)}
	var lost, gaps int64
	reached := true
	var details []string
	for _, f := range ours {
		lost += f.lost
		gaps += f.gaps
		reached = reached && f.rate >= keptUp*float64(rate)
		details = append(details, fmt.Sprintf("%.1f µs at %.0f/s", micros(f.server), f.rate))
	}
	var floors []string
	for _, f := range floor {
		floors = append(floors, fmt.Sprintf("%.1f µs at %.0f/s", micros(f.server), f.rate))
	}
	row.Goal = fmt.Sprintf("%d/s, none lost", rate)
	row.Met = reached && lost == 0 && gaps == 0
	if atMost {
		row.Goal += fmt.Sprintf(", at most %.1f times the floor", goalRatio)
		row.Met = row.Met && row.Ours <= goalRatio*row.Floor
	}
	row.Detail = fmt.Sprintf("%d/s of them change the view and are written; %s; floor %s; generator %.1f µs; lost %d, gaps %d", r.changing(), strings.Join(details, ", "), strings.Join(floors, ", "),
		micros(middle(ours).generator), lost, gaps)
	r.report.add(row)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// middle returns the median flow by processor time, of an odd number.
func middle(list []flow) flow {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b flow) int { return int(a.server - b.server) })
	return list[len(list)/2]
}

// flow measures one side once.
func (r *run) flow(ctx context.Context, floor bool, rate, connections int) (f flow, err error) {
	side, first, err := r.side(ctx, floor)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, side.close()) }()
	load, err := r.load(ctx, first, connections)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, load.close()) }()
	// A first run lets the fleet be seen, and what a registry has to say of that be said.
	warm := r.Phase * 5 / 4
	if floor {
		warm = r.Phase / 6
	}
	for _, phase := range []time.Duration{warm, r.Phase} {
		if f, err = r.phase(side, load, rate, phase, settleLimit); err != nil {
			return f, err
		}
	}
	return f, nil
}

// phase measures a side while its generator runs for a time.
func (r *run) phase(side, load *child, rate int, d, limit time.Duration) (f flow, err error) {
	var begun struct{}
	var before, after SideReport
	var sent LoadReport
	if err := load.ask(fmt.Sprintf("%d %g %d", rate, d.Seconds(), r.changing()), &begun); err != nil {
		return f, err
	}
	if err := side.ask("", &before); err != nil {
		return f, err
	}
	if err := load.hear(&sent); err != nil {
		return f, err
	}
	if err := side.ask("", &after); err != nil {
		return f, err
	}
	if n := after.Seen - before.Seen; n > 0 {
		f.server = (after.CPU - before.CPU) / time.Duration(n)
	}
	if n := sent.Rate * d.Seconds(); n > 0 {
		f.generator = time.Duration(float64(sent.CPU) / n)
	}
	f.rate, f.gaps = sent.Rate, after.Gaps
	end, _, err := await(side, limit, func(s SideReport) bool { return s.Seen >= sent.Sent })
	f.lost = sent.Sent - end.Seen
	return f, err
}

// flood sends as fast as can be, and looks how the registry comes out of it.
func (r *run) flood(ctx context.Context) (err error) {
	r.say("heartbeats as fast as can be")
	side, first, err := r.side(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.close()) }()
	load, err := r.load(ctx, first, connections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, load.close()) }()
	f, err := r.phase(side, load, 0, r.Phase/2, floodLimit)
	if err != nil {
		return err
	}
	// Then the fleet goes on at its own pace.
	if err := load.order(fmt.Sprintf("%d %g %d", r.Servers, settleLimit.Seconds(), 0)); err != nil {
		return err
	}
	began := time.Now()
	_, whole, err := await(side, settleLimit, func(s SideReport) bool { return s.Servers == r.Servers })
	if err != nil {
		return err
	}
	took := time.Since(began)
	last := &r.report.Rows[len(r.report.Rows)-1]
	last.Met = last.Met && whole
	last.Detail += fmt.Sprintf("; unpaced %.0f/s, %d lost, view whole again after %.1f s: %t", f.rate, f.lost, took.Seconds(), whole)
	return nil
}

// manyConnections measures a connection for each server.
func (r *run) manyConnections(ctx context.Context) error {
	if !r.Full {
		return nil
	}
	const interval = 200 * time.Millisecond
	rate := int(float64(r.Servers) / interval.Seconds())
	var got [2]flow
	for i, isFloor := range []bool{true, false} {
		r.say("heartbeats at %d/s over %d connections, %s", rate, r.Servers, names[isFloor])
		var err error
		if got[i], err = r.flow(ctx, isFloor, rate, r.Servers); err != nil {
			return err
		}
	}
	r.addFlow("the same over a connection for each server", rate, got[1:], got[:1], false)
	return nil
}
