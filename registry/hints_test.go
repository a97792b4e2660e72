package registry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// hint returns the scene events that say so at a time.
func hint(when float64, e registry.Event) func(float64) []registry.Event {
	return func(s float64) []registry.Event {
		if s == when {
			return []registry.Event{e}
		}
		return nil
	}
}

func TestHints(t *testing.T) {
	lost := registry.Disconnected{Server: "eu-west-1-a", Boot: boot(1)}
	tests := []struct {
		name  string
		scene scene
		want  []string
	}{
		{
			name:  "killed: its port refuses",
			scene: scene{beats: seconds(0, 3), event: hint(3.5, lost), probe: refused, refuses: true, until: 4},
			want:  []string{"0.00 up< heartbeat", "3.50 probe", "3.50 down<up disconnected"},
		},
		{
			name:  "its port fails otherwise",
			scene: scene{beats: seconds(0, 3), event: hint(3.5, lost), probe: refused, until: 4.5},
			want:  []string{"0.00 up< heartbeat", "3.50 probe", "3.60 probe", "3.70 probe", "3.80 down<up disconnected"},
		},
		{
			name:  "it connects anew",
			scene: scene{beats: []float64{0, 1, 2, 3, 3.7, 4.7}, event: hint(3.5, lost), probe: refused, until: 5},
			want:  []string{"0.00 up< heartbeat", "3.50 probe", "3.60 probe"},
		},
		{
			name:  "the bus was lost, and it serves",
			scene: scene{beats: seconds(0, 3), event: hint(3.5, lost), probe: answering, until: 5.5},
			want:  []string{"0.00 up< heartbeat", "3.50 probe", "5.20 suspect<up missed_heartbeats", "5.50 probe"},
		},
		{
			name:  "an earlier boot's",
			scene: scene{beats: seconds(0, 4), event: hint(3.5, registry.Disconnected{Server: "eu-west-1-a", Boot: boot(0)}), probe: refused, until: 5},
			want:  []string{"0.00 up< heartbeat", "3.50 skipped older_boot"},
		},
		{
			name: "a probe that was under way has said nothing of it",
			scene: scene{
				beats: seconds(0, 2), event: hint(4.2, lost), until: 5.5, refuses: true,
				probe: func(s float64) (bool, float64) { return s < 4.1, 0.3 },
			},
			want: []string{
				"0.00 up< heartbeat", "4.00 probe", "4.20 suspect<up missed_heartbeats", "4.30 probe", "4.60 down<suspect disconnected",
			},
		},
		{
			name: "this registry's own connection was away too",
			scene: scene{beats: seconds(0, 3), until: 5.5, probe: refused, refuses: true, event: func(s float64) []registry.Event {
				switch s {
				case 3.1:
					return []registry.Event{registry.Gap{}}
				case 3.5:
					return []registry.Event{lost}
				}
				return nil
			}},
			want: []string{"0.00 up< heartbeat", "3.10 eu-west-1 protected", "3.50 probe", "5.10 down<up disconnected"},
		},
		{
			name:  "reported, and it lives",
			scene: scene{beats: seconds(0, 6), event: hint(3.5, registry.Reported{Server: "eu-west-1-a"}), probe: refused, refuses: true, until: 7},
			want:  []string{"0.00 up< heartbeat", "3.50 probe"},
		},
		{
			name:  "reported and unknown",
			scene: scene{beats: seconds(0, 6), event: hint(3.5, registry.Reported{Server: "eu-west-1-z"}), probe: refused, until: 7},
			want:  []string{"0.00 up< heartbeat"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.scene.table = registry.NewTable("eu-west-1", registry.Detection{})
			if diff := cmp.Diff(test.want, test.scene.play()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestManyReportsAreOneProbe(t *testing.T) {
	w := newWorld(t, 2, 50*time.Millisecond, 1)
	probes := 0
	w.seen = func(e registry.Effect) {
		if _, ok := e.(registry.ProbeDue); ok {
			probes++
		}
	}
	for range 20 {
		for range 50 {
			w.reduce(registry.Reported{Server: w.servers[0].id})
		}
		w.step()
	}
	if probes != 2 {
		t.Errorf("%d probes in a second, want one per 500 ms", probes)
	}
	checkState(t, w.table, w.servers[0].id, events.StateUp)
}

func TestAMembersConnectionIsNotTheCells(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	for i := range 4 {
		table.Reduce(live(beat("eu-west-1-a", boot(1), uint64(i+1), member("m1"))), at(float64(i)))
		table.Reduce(live(beat("eu-west-1-a", boot(2), uint64(i+1), member("m2"))), at(float64(i)))
	}
	checkWords(t, "lost", table.Reduce(registry.Disconnected{Server: "eu-west-1-a", Boot: boot(1)}, at(3.1)), "probe https://eu-west-1-a.example.com/healthz")
	checkWords(t, "refused", table.Reduce(registry.ProbeDone{Server: "eu-west-1-a", Boot: boot(1), Refused: true}, at(3.2)))
	checkState(t, table, "eu-west-1-a", events.StateUp)
}

func TestManyLostConnectionsAreProtected(t *testing.T) {
	// Their hosts refuse connections; of so many at once that is more likely wrong than true.
	w := newWorld(t, 100, 50*time.Millisecond, 2)
	_, deaths := regionChanges(w)
	for _, s := range w.servers[:50] {
		w.kill(s)
	}
	for _, s := range w.servers[:50] {
		w.reduce(registry.Disconnected{Server: s.id, Boot: boot(1)})
	}
	w.run(time.Second)
	if *deaths > 34 {
		t.Errorf("%d deaths at once, want at most a third of the region until it is protected", *deaths)
	}
}

// lostConnections is a Disconnects that a test tells what NATS saw.
type lostConnections struct{ watch func(server, boot string) }

func (l *lostConnections) Watch(_ context.Context, fn func(server, boot string)) (func(), error) {
	l.watch = fn
	return func() {}, nil
}

func TestHintsReachTheRegistry(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	lost := new(lostConnections)
	r := newRegistry(t, c, func(cfg *registry.Config) { cfg.Disconnects = lost })
	run(t, r.Run)
	probed := make(chan struct{}, 100)
	health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { probed <- struct{}{} }))
	t.Cleanup(health.Close)
	killed := newAgent(c, "eu-west-1-a", refusing(t), 500*time.Millisecond)
	stop := run(t, killed.run(t))
	run(t, newAgent(c, "eu-west-1-b", health.URL, 500*time.Millisecond).run(t))
	server := func(id string) (s events.Server) {
		if v := r.View(); v != nil {
			s, _ = v.Server(id)
		}
		return s
	}
	jetstreamtest.Eventually(t, 10*time.Second, "both are up", func() bool {
		return server("eu-west-1-a").State == events.StateUp && server("eu-west-1-b").State == events.StateUp
	})

	report := &events.Report{
		Version: events.Version, Region: "eu-west-1", At: time.Now(), Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Server: "eu-west-1-b",
		Epoch: events.Epoch{Number: 1, Region: "eu-west-1"},
	}
	data, err := events.Encode(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), report.Subject().String(), data); err != nil {
		t.Fatal(err)
	}
	select {
	case <-probed:
	case <-time.After(10 * time.Second):
		t.Error("a reported server is not probed")
	}

	stop()
	lost.watch("eu-west-1-a", killed.h.Boot)
	jetstreamtest.Eventually(t, 10*time.Second, "the killed one is down", func() bool { return server("eu-west-1-a").State == events.StateDown })
	if got := server("eu-west-1-a").Reason; got != "disconnected" {
		t.Errorf("it is down for %s, want disconnected: long before it would be by silence", got)
	}
}
