package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// checkReadable checks that whoever is sent the updates can read them.
func checkReadable(t *testing.T, updates []*events.ViewUpdate) {
	t.Helper()
	for _, u := range updates {
		data, err := events.Encode(u)
		if err == nil {
			_, err = events.Decode(u.Subject().String(), data)
		}
		if err != nil {
			t.Errorf("update %d, full %v: %v", u.Seq, u.Full, err)
		}
	}
}

// TestNoLoadMakesUpdatesUnreadable: a load beyond reason is refused as such, and the sums of
// what the processes of one cell say at most are still a load.
func TestNoLoadMakesUpdatesUnreadable(t *testing.T) {
	const most = 1_000_000_000
	tests := map[string]struct {
		load    events.Load
		refused bool
	}{
		"nearly infinite utilisation": {events.Load{Utilisation: 1e308}, true},
		"nearly infinite CPU":         {events.Load{Sessions: 1, CPU: 1e308, InFlight: 1}, true},
		"as many sessions as fit":     {events.Load{Sessions: math.MaxInt64}, true},
		"one session too many":        {events.Load{Sessions: most + 1}, true},
		"a little below nothing":      {events.Load{CPU: -0.001}, true},
		"each at its bound": {
			events.Load{Sessions: most, Utilisation: most, CPU: most, InFlight: most, MaxInFlight: most, P99: most}, false,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			table := registry.NewTable("eu-west-1", registry.Detection{})
			for i := range 200 {
				h := beat("eu-west-1-a", boot(1), 1, member(fmt.Sprint("m", i)), loading(test.load), func(h *events.Heartbeat) {
					h.Capacity = 10_000_000
				})
				data, err := json.Marshal(h)
				if err != nil {
					t.Fatal(err)
				}
				e, err := events.Decode(h.Subject().String(), data)
				if refused := errors.Is(err, events.ErrMalformed) && events.FaultOf(err) == events.FaultLoad; refused != test.refused {
					t.Fatalf("refused %v (%v), want %v", refused, err, test.refused)
				}
				if err == nil {
					table.Reduce(live(e.(*events.Heartbeat)), at(0))
				}
			}
			checkReadable(t, table.Tell(at(0)).Updates)
		})
	}
}

// TestProcessesBeyondTheBoundMakeNoServer: where a region has as many processes as it may, one
// of another server is refused, and no server without processes is told of.
func TestProcessesBeyondTheBoundMakeNoServer(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{MaxServers: 2})
	for i := range 4 {
		table.Reduce(live(beat("eu-west-1-a", boot(1), 1, member(fmt.Sprint("m", i)))), at(0))
	}
	got := table.Reduce(live(beat("eu-west-1-b", boot(1), 1)), at(0))
	if !slices.Contains(words(got), "skipped "+registry.SkipTooMany) {
		t.Errorf("the process of another server: %q, want it refused", words(got))
	}
	for i := range 200 { // all fall silent, b too
		now := start.Add(time.Duration(i) * 50 * time.Millisecond)
		for _, e := range table.Reduce(registry.Ticked{}, now) {
			if due, ok := e.(registry.ProbeDue); ok {
				table.Reduce(registry.ProbeDone{Server: due.Server, Boot: due.Boot}, now)
			}
		}
		checkReadable(t, table.Tell(now).Updates)
	}
	var left []string
	for _, s := range table.Servers() {
		left = append(left, s.Server+" "+string(s.State))
	}
	if diff := cmp.Diff([]string{"eu-west-1-a down"}, left); diff != "" {
		t.Errorf("servers in the end (-want +got):\n%s", diff)
	}
}
