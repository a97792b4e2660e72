package sim

import "strings"

// Figure names one figure of a run. docs/simulate.md defines each.
type Figure string

// The figures of every run; others are those of a kind of event, as KIND_over, KIND_peak,
// KIND_added_ms and KIND_moves: share of its time in which some server was above 100 %,
// greatest utilisation, what the mean session's time is above that to the closest living
// region, moves a client and hour.
const (
	// FigureImbalance is the 99th percentile, over the steady time's seconds and regions, of
	// the busiest server's utilisation divided by its region's.
	FigureImbalance Figure = "imbalance"
	// FigureOver is the share of the steady time in which some server was above 100 %.
	FigureOver Figure = "steady_over"
	// FigureMoves is how often a session moved in an hour of the steady time.
	FigureMoves Figure = "moves"
	// FigureDrainLeft is how many sessions were left on draining servers at the deadline,
	// FigureDrainUneven how far those that left were from leaving evenly, as the
	// Kolmogorov–Smirnov distance from the uniform distribution.
	FigureDrainLeft   Figure = "drain_left"
	FigureDrainUneven Figure = "drain_uneven"
)

// Figures are figures by name; one that the scenario does not ask for is absent.
type Figures map[Figure]float64

// kind is a kind of event.
type kind string

// The kinds, as they are called in figures.
const (
	kindBurst kind = "burst"
	kindLoss  kind = "loss"
	kindSlow  kind = "slow"
	kindDrain kind = "drain"
	kindDelay kind = "delay"
)

func (k kind) over() Figure  { return Figure(k) + "_over" }
func (k kind) peak() Figure  { return Figure(k) + "_peak" }
func (k kind) added() Figure { return Figure(k) + "_added_ms" }
func (k kind) moves() Figure { return Figure(k) + "_moves" }

// kind returns what kind of event it is.
func (e *Event) kind() kind {
	switch {
	case e.Burst != 0:
		return kindBurst
	case e.Lose != "":
		return kindLoss
	case e.Slow != "":
		return kindSlow
	case e.Drain != "":
		return kindDrain
	default:
		return kindDelay
	}
}

// kinds are all kinds of events, in the order of their columns.
func kinds() []kind { return []kind{kindBurst, kindLoss, kindSlow, kindDrain, kindDelay} }

// all returns the figures in the order in which they are shown.
func all() []Figure {
	list := []Figure{FigureImbalance, FigureOver, FigureMoves}
	for _, k := range kinds() {
		list = append(list, k.over(), k.peak(), k.added(), k.moves())
		if k == kindDrain {
			list = append(list, FigureDrainLeft, FigureDrainUneven)
		}
	}
	return list
}

// joined returns the figures' names in a row.
func joined(list []Figure) string {
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = string(f)
	}
	return strings.Join(names, ", ")
}

// share reports whether a figure is a share of a time, shown in percent.
func (f Figure) share() bool { return strings.HasSuffix(string(f), "_over") }

// added reports whether a figure is time that is lost on the way.
func (f Figure) added() bool { return strings.HasSuffix(string(f), "_added_ms") }
