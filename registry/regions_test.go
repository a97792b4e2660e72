package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
)

// serveMethods answers other regions for a registry until the test ends.
func serveMethods(t *testing.T, c *jetstream.Conn, r *registry.Registry) {
	t.Helper()
	cfg := jetstream.ServiceConfig{Name: "berth_registry", Version: "1.0.0"}
	for name, m := range r.Methods() {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: name, Every: m.Leader,
			Subject: events.Subject{
				Kind: events.KindRPC, Service: "registry", Jurisdiction: events.GlobalJurisdiction, Region: c.Region(), Method: name,
			}.String(),
			Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				data, err := m.Answer(ctx, r.Data)
				switch {
				case errors.Is(err, registry.ErrNotLeading):
					return jetstream.Reply{Silent: true}
				case err != nil:
					return jetstream.ErrorReply("400", err.Error())
				}
				return jetstream.Reply{Data: data}
			},
		})
	}
	run(t, func(ctx context.Context) error { return c.Serve(ctx, cfg) })
}

// regional is a region of a test: its registry, its servers and what became of regions there.
type regional struct {
	name    string
	conn    *jetstream.Conn
	all     *registry.Registry
	stop    func() // ends the registry
	servers []*httptest.Server
	agents  []func()
	events  *record
}

// newRegionals starts a registry in each region of a fleet, with servers that are alive.
func newRegionals(t *testing.T, fleet *jetstreamtest.Fleet, servers int) map[string]*regional {
	t.Helper()
	regions := map[string]*regional{}
	for name, nats := range fleet.Regions {
		r := &regional{name: name, conn: jetstreamtest.Provisioned(t, nats.ClientURL()), events: newRecord()}
		stop, err := r.conn.Subscribe(t.Context(), events.Subject{Kind: events.KindRegion}.Filter(), func(subject string, _ []byte) {
			r.events.mu.Lock()
			defer r.events.mu.Unlock()
			r.events.list = append(r.events.list, strings.TrimPrefix(subject, "berth.v1.region."))
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		r.start(t)
		for i := range servers {
			health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			t.Cleanup(health.Close)
			r.servers = append(r.servers, health)
			r.agents = append(r.agents, run(t, newAgent(r.conn, name+"-"+string(rune('a'+i)), health.URL, 500*time.Millisecond).run(t)))
		}
		regions[name] = r
	}
	return regions
}

// start starts a registry, the region's first or a standby.
func (r *regional) start(t *testing.T) {
	t.Helper()
	r.all = newRegistry(t, r.conn, func(c *registry.Config) {
		c.Caller, c.Detection.Unreachable = r.conn.Caller(), 3*time.Second
	})
	serveMethods(t, r.conn, r.all)
	r.stop = run(t, r.all.Run)
}

// sees reports whether all servers of a region are in a state in the view of r.
func (r *regional) sees(region string, n int, state events.State, reason string) func() bool {
	return func() bool {
		v := r.all.View()
		if v == nil {
			return false
		}
		left := n
		for _, s := range v.Servers {
			if s.Region == region && s.State == state && s.Reason == reason {
				left--
			}
		}
		return left == 0
	}
}

// eventsOf returns what was told of a region, without repetitions.
func (r *regional) eventsOf(region string) []string {
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	var list []string
	for _, e := range r.events.list {
		if state, ok := strings.CutPrefix(e, region+"."); ok {
			list = append(list, state)
		}
	}
	return list
}

func TestARegionIsDownOnlyWhenItsServersAre(t *testing.T) {
	t.Parallel()
	const own, cut, third = "eu-west-1", "us-east-1", "ap-southeast-1"
	fleet := jetstreamtest.NewFleet(t, nil, own, cut, third)
	regions := newRegionals(t, fleet, 3)
	for _, r := range regions {
		for name := range regions {
			jetstreamtest.Eventually(t, 15*time.Second, r.name+" sees "+name, r.sees(name, 3, events.StateUp, "heartbeat"))
		}
	}
	observers := []*regional{regions[own], regions[third]}

	// Cut off and alive: out of reach, and nothing worse however long it lasts.
	fleet.Links[cut].Cut()
	for _, r := range observers {
		jetstreamtest.Eventually(t, 10*time.Second, r.name+" cannot reach it", r.sees(cut, 3, events.StateSuspect, "region_unreachable"))
	}
	jetstreamtest.Eventually(t, 10*time.Second, "it cannot reach the others", func() bool {
		return regions[cut].sees(own, 3, events.StateSuspect, "region_unreachable")() && regions[cut].sees(third, 3, events.StateSuspect, "region_unreachable")()
	})
	for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, r := range observers {
			if !r.sees(cut, 3, events.StateSuspect, "region_unreachable")() {
				t.Fatalf("%s: %v", r.name, states(r.all.View()))
			}
		}
	}

	// Its servers die too.
	for i, health := range regions[cut].servers {
		regions[cut].agents[i]()
		health.Close()
	}
	for _, r := range observers {
		jetstreamtest.Eventually(t, 15*time.Second, r.name+" finds it dead", r.sees(cut, 3, events.StateDown, "region_down"))
		d := placement.Decide(placement.Request{Session: "s", Server: cut + "-a", Arrived: r.name}, &r.all.View().View, placement.Policy{}, time.Now())
		if d.Verdict != placement.VerdictMove || d.Reason != placement.ReasonRegionDown {
			t.Errorf("a session there: %s, %s", d.Verdict, d.Reason)
		}
	}

	// A standby that takes over knows that, and tells nobody again.
	jetstreamtest.Eventually(t, 5*time.Second, "the bucket has it", func() bool {
		return storedServers(t, regions[own].conn)[cut+"."+cut+"-c"].Reason == "region_down"
	})
	stop := regions[own].stop
	regions[own].start(t)
	jetstreamtest.Eventually(t, 5*time.Second, "a standby", regions[own].sees(cut, 3, events.StateDown, "region_down"))
	stop()
	jetstreamtest.Eventually(t, 5*time.Second, "it leads", func() bool {
		_, err := regions[own].all.Methods()[registry.MethodView].Answer(t.Context(), []byte("{}"))
		return err == nil
	})

	// It comes back, with one server that is new.
	health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(health.Close)
	run(t, newAgent(regions[cut].conn, cut+"-z", health.URL, 500*time.Millisecond).run(t))
	fleet.Links[cut].Heal()
	for _, r := range regions {
		jetstreamtest.Eventually(t, 20*time.Second, r.name+" sees what there is", func() bool {
			return r.sees(cut, 1, events.StateUp, "heartbeat")() && r.sees(cut, 3, events.StateDown, "missed_heartbeats")() &&
				r.sees(own, 3, events.StateUp, "heartbeat")() && r.sees(third, 3, events.StateUp, "heartbeat")()
		})
	}
	checkEqualViews(t, regions)
	for _, r := range observers {
		jetstreamtest.Eventually(t, 5*time.Second, r.name+" tells of the return", func() bool { return len(r.eventsOf(cut)) >= 3 })
		if diff := cmp.Diff([]string{"unreachable", "down", "up"}, r.eventsOf(cut)); diff != "" {
			t.Errorf("%s told of %s (-want +got):\n%s", r.name, cut, diff)
		}
	}
	if got := regions[cut].eventsOf(own); slices.Contains(got, "down") {
		t.Errorf("%s told of %s: %v", cut, own, got)
	}
}

// checkEqualViews fails unless the buckets of all regions come to hold the same, but for times
// of arrival.
func checkEqualViews(t *testing.T, regions map[string]*regional) {
	t.Helper()
	names := slices.Sorted(maps.Keys(regions))
	// A protection that decides about nothing is told late.
	opts := cmpopts.IgnoreFields(events.Server{}, "SeenAt", "Protection")
	var diff string
	defer func() {
		if diff != "" {
			t.Log(diff)
		}
	}()
	jetstreamtest.Eventually(t, 10*time.Second, "equal views", func() bool {
		first := storedServers(t, regions[names[0]].conn)
		for _, name := range names[1:] {
			diff = cmp.Diff(first, storedServers(t, regions[name].conn), opts)
			if diff != "" {
				return false
			}
		}
		return true
	})
}

// storedServers returns what berth_servers holds.
func storedServers(t *testing.T, c *jetstream.Conn) map[string]events.Server {
	t.Helper()
	entries, err := c.Servers().Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	servers := map[string]events.Server{}
	for _, e := range entries {
		var s events.Server
		if err := json.Unmarshal(e.Value, &s); err != nil {
			t.Fatal(err)
		}
		servers[e.Key] = s
	}
	return servers
}
