package registry_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// lastUpdate returns the last view update that is due.
func lastUpdate(t *testing.T, table *registry.Table, seconds float64) *events.ViewUpdate {
	t.Helper()
	told := table.Tell(at(seconds))
	if len(told.Updates) == 0 {
		t.Fatalf("nothing is told at %v", seconds)
	}
	return told.Updates[len(told.Updates)-1]
}

// TestDemandIsTold: the sum over the region's token services, for as long as they go on saying so.
func TestDemandIsTold(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	say := func(service, region string, seconds float64, origins map[string]float64) []registry.Effect {
		return table.Reduce(registry.DemandSeen{Demand: &events.Demand{Service: service, Region: region, Origins: origins}}, at(seconds))
	}
	if u := lastUpdate(t, table, 0); u.Demand != nil {
		t.Errorf("without any word: %v", u.Demand)
	}
	say("one", "eu-west-1", 0, map[string]float64{"eu-west-1": 10, "us-east-1": 2})
	say("two", "eu-west-1", 5, map[string]float64{"eu-west-1": 20.04})
	say("two", "eu-west-1", 6, map[string]float64{"eu-west-1": 30.04}) // in place of the former
	if effects := say("three", "us-east-1", 6, map[string]float64{"us-east-1": 7}); len(effects) != 1 {
		t.Errorf("another region's: %v", effects)
	}
	if diff := cmp.Diff(map[string]float64{"eu-west-1": 40, "us-east-1": 2}, lastUpdate(t, table, 7).Demand); diff != "" {
		t.Errorf("of both (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"eu-west-1": 30}, lastUpdate(t, table, 31).Demand); diff != "" {
		t.Errorf("one is gone (-want +got):\n%s", diff)
	}
	if u := lastUpdate(t, table, 60); u.Demand != nil {
		t.Errorf("both are gone: %v", u.Demand)
	}
}

// TestManyServicesAreBounded: a name that is new each time takes no more memory than there is for it.
func TestManyServicesAreBounded(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	refused := 0
	for i := range 1000 {
		d := &events.Demand{Service: string(rune('a'+i%26)) + string(rune('a'+i/26)), Region: "eu-west-1", Origins: map[string]float64{"eu-west-1": 1}}
		refused += len(table.Reduce(registry.DemandSeen{Demand: d}, at(0)))
	}
	if got := table.Demand(at(1))["eu-west-1"]; got != float64(1000-refused) || refused == 0 {
		t.Errorf("%v counted, %d refused", got, refused)
	}
}

// TestLeastRoundTripCounts: of the last six; a region that is out of reach has none.
func TestLeastRoundTripCounts(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	hear := func(seconds float64) {
		table.Reduce(registry.UpdateSeen{Update: &events.ViewUpdate{
			Region: "us-east-1", Seq: uint64(seconds) + 1, At: at(seconds), Part: 1, Of: 1,
		}}, at(seconds))
	}
	hear(0)
	for i, ms := range []int{9, 71, 75, 90, 72, 80, 85} { // the first is of long ago
		hear(float64(i + 1))
		table.Reduce(registry.RTTMeasured{Region: "us-east-1", RTT: time.Duration(ms) * time.Millisecond}, at(float64(i+1)))
	}
	table.Reduce(registry.RTTMeasured{Region: "unknown", RTT: time.Millisecond}, at(7))
	if diff := cmp.Diff(map[string]float64{"us-east-1": 71}, lastUpdate(t, table, 8).RTTMs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for seconds := 9.0; seconds < 30; seconds++ {
		table.Reduce(registry.Ticked{}, at(seconds))
	}
	if u := lastUpdate(t, table, 31); u.RTTMs != nil {
		t.Errorf("out of reach: %v", u.RTTMs)
	}
}

// TestRegionsMeasureTheTimeBetweenThem over NATS, and tell it.
func TestRegionsMeasureTheTimeBetweenThem(t *testing.T) {
	t.Parallel()
	const own, other = "eu-west-1", "us-east-1"
	regions := newRegionals(t, jetstreamtest.NewFleet(t, nil, own, other), 1)
	heads := make(chan events.ViewHead, 64)
	stop, err := regions[other].conn.Subscribe(t.Context(), events.Subject{Kind: events.KindView, Region: own}.String(), func(subject string, data []byte) {
		if head, err := events.DecodeViewHead(subject, data); err == nil {
			select {
			case heads <- head:
			default:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	jetstreamtest.Eventually(t, 15*time.Second, "the time to "+other, func() bool {
		select {
		case head := <-heads:
			ms, ok := head.RTTMs[other]
			return ok && ms > 0 && ms < 2000
		default:
			return false
		}
	})
}
