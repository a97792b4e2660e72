package placement_test

import (
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// TestPriceTimes: prices are found each ten seconds, and at once when a region is lost or is back.
func TestPriceTimes(t *testing.T) {
	whole := placement.NewView(fleet(4))
	smaller := fleet(4)
	for i := range smaller {
		if smaller[i].Region == "eu-west-1" {
			smaller[i].State = events.StateDown
		}
	}
	less, none := placement.NewView(smaller), placement.NewView(nil)
	var p placement.PriceTimes
	for _, step := range []struct {
		name  string
		view  *placement.View
		after time.Duration
		want  bool
	}{
		{"the first time", &whole, 0, true},
		{"nothing has changed", &whole, 9 * time.Second, false},
		{"a region is lost", &less, 9100 * time.Millisecond, true},
		{"ten seconds after the first time", &less, 10 * time.Second, false},
		{"it is back", &whole, 12 * time.Second, true},
		{"all is lost", &none, 13 * time.Second, true},
		{"it stays lost", &none, 14 * time.Second, false},
		{"ten seconds after that", &none, 23 * time.Second, true},
	} {
		if got := p.Due(step.view, noon.Add(step.after)); got != step.want {
			t.Errorf("%s: %t", step.name, got)
		}
	}
}
