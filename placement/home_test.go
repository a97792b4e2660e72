package placement_test

import (
	"testing"

	"github.com/berthhq/berth/placement"
)

// TestHomeAfter: which region a session is taken back to, after each kind of move.
func TestHomeAfter(t *testing.T) {
	type path struct {
		to   string
		why  placement.Reason
		home string
	}
	for name, steps := range map[string][]path{
		"load, and back":              {{"us", placement.ReasonRegionFull, "eu"}, {"eu", placement.ReasonHomeRestored, ""}},
		"a drain, and back by itself": {{"us", placement.ReasonServerDraining, "eu"}, {"eu", placement.ReasonRegionFull, ""}},
		"one failure after another":   {{"us", placement.ReasonRegionDown, "eu"}, {"ap", placement.ReasonServerDown, "eu"}, {"eu", placement.ReasonHomeRestored, ""}},
		"balance changes nothing":     {{"us", placement.ReasonRegionDown, "eu"}, {"us", placement.ReasonRebalance, "eu"}, {"us", placement.ReasonServerDown, "eu"}},
		"the client goes elsewhere":   {{"us", placement.ReasonRegionFull, "eu"}, {"ap", placement.ReasonCloserRegion, ""}, {"us", placement.ReasonRegionFull, "ap"}},
		"its organization does":       {{"us", placement.ReasonRegionFull, "eu"}, {"ap", placement.ReasonResidency, ""}, {"us", placement.ReasonHomeRestored, ""}},
		"nothing is the region's":     {{"us", placement.ReasonUnreachable, ""}, {"ap", placement.ReasonCriticalExpired, ""}},
		"nor changes what was":        {{"us", placement.ReasonRegionFull, "eu"}, {"ap", placement.ReasonUnreachable, "eu"}, {"us", placement.ReasonCriticalExpired, "eu"}},
		"first on a server":           {{"eu", placement.ReasonLogin, ""}},
	} {
		from, home := "eu", ""
		for i, s := range steps {
			if home = placement.HomeAfter(home, from, s.to, s.why); home != s.home {
				t.Errorf("%s: after step %d home is %q, want %q", name, i+1, home, s.home)
			}
			from = s.to
		}
	}
	if got := placement.HomeAfter("", "", "us", placement.ReasonRegionDown); got != "" {
		t.Errorf("from nobody knows where: %q", got)
	}
}
