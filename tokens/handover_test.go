package tokens_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

const singapore = "ap-southeast-1"

// regions are several regions of a fleet, each with a server of its own and a token service
// that is asked over NATS.
type regions struct {
	nats     *jetstreamtest.Fleet
	fleets   map[string]*fleet
	services map[string]*tokens.Service
	// kill ends a region's service and waits until it has.
	kill map[string]func()
	// configure and made, where set, see to a service's configuration, and to the service before it
	// runs; registry speaks in place of beat.
	configure func(name string, c *tokens.Config)
	made      func(s *tokens.Service)
	registry  func(ctx context.Context, conn *jetstream.Conn, name string) error
	sets      residency.Jurisdictions
}

func newRegions(t *testing.T, names ...string) *regions {
	t.Helper()
	r := provisionedRegions(t, names...)
	for _, name := range names {
		r.start(t, name)
	}
	r.reach(t)
	return r
}

// reach waits until each region's token service answers each other one.
func (r *regions) reach(t *testing.T) {
	t.Helper()
	for from := range r.services {
		for to := range r.services {
			jetstreamtest.Eventually(t, 10*time.Second, to+" to be in reach of "+from, func() bool {
				_, err := r.fleets[from].conn.Call(t.Context(), rpc("global", to, "jwks"), nil, nil)
				return err == nil
			})
		}
	}
}

// provisionedRegions are regions whose token services do not run yet. Organizations are changed in the
// first one.
func provisionedRegions(t *testing.T, names ...string) *regions {
	t.Helper()
	return regionsIn(t, nil, names...)
}

// places are where regions are.
func places() map[string]events.Location {
	return map[string]events.Location{
		singapore: {Lat: 1.35, Lon: 103.82}, dublin: {Lat: 53.35, Lon: -6.26}, frankfurt: {Lat: 50.11, Lon: 8.68}, virginia: {Lat: 39.04, Lon: -77.49},
	}
}

// regionsIn are such regions, in jurisdictions.
func regionsIn(t *testing.T, sets residency.Jurisdictions, names ...string) *regions {
	t.Helper()
	foreign := map[string][]string{}
	for _, name := range names {
		foreign[name] = sets.Foreign(name)
	}
	r := &regions{
		sets: sets,
		nats: jetstreamtest.NewFleet(t, foreign, names...), fleets: map[string]*fleet{}, services: map[string]*tokens.Service{}, kill: map[string]func(){},
		registry: beat,
	}
	var servers []events.Server
	for _, name := range names {
		s, _ := healthy(t, name+"-a", name)
		if at, ok := places()[name]; ok {
			s.Location = at
		}
		servers = append(servers, s)
	}
	for _, name := range names {
		conn := jetstreamtest.Dial(t, r.nats.Regions[name].ClientURL(), func(c *jetstream.Config) { c.Region = name })
		edges := []jetstream.Edge{}
		for _, other := range names {
			if other != name {
				edges = append(edges, jetstream.Edge{Region: other, Jurisdictions: sets.Shared(name, other)})
			}
		}
		if err := conn.Provision(t.Context(), jetstream.Topology{Edges: edges, Primary: names[0]}); err != nil {
			t.Fatal(err)
		}
		f := &fleet{t: t, conn: conn}
		keys, err := tokens.NewKeyring(name, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		f.keys = keys
		f.set(servers...)
		r.fleets[name] = f
	}
	return r
}

// start runs a region's token service.
func (r *regions) start(t *testing.T, name string, change ...func(*tokens.Config)) {
	t.Helper()
	f := r.fleets[name]
	copies := f.conn.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)})
	s := f.service(func(c *tokens.Config) {
		c.Jurisdictions = r.sets
		c.Region, c.Copies, c.Arrivals, c.Complete, c.CaughtUp = name, copies, copies, copies.Ready, copies.CaughtUp
		c.Edges = func() []string { return slices.Sorted(maps.Keys(r.fleets)) }
		for _, fn := range change {
			fn(c)
		}
		if r.configure != nil {
			r.configure(name, c)
		}
	})
	if r.made != nil {
		r.made(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 4)
	cfg := jetstream.ServiceConfig{Name: "berth_tokens", Version: "1.0.0"}
	for _, jurisdiction := range r.sets.Of(name) {
		for _, method := range tokens.Methods() {
			cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
				Name:    method + "-" + jurisdiction,
				Subject: rpc(jurisdiction, name, method),
				Handler: func(ctx context.Context, q jetstream.Request) jetstream.Reply {
					header, data := s.Serve(ctx, method, q.Header, q.Data)
					return jetstream.Reply{Header: header, Data: data}
				},
			})
		}
	}
	served := make(chan struct{})
	cfg.Started = func() { close(served) }
	go func() { ended <- f.conn.Serve(ctx, cfg) }()
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- copies.Run(ctx) }()
	go func() { ended <- r.registry(ctx, f.conn, name) }()
	<-served
	r.services[name] = s
	once := false
	r.kill[name] = func() {
		if once {
			return
		}
		once = true
		cancel()
		for range 4 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { r.kill[name]() })
}

// rpc returns the subject of a method of token services.
func rpc(jurisdiction, region, method string) string {
	return events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: jurisdiction, Region: region, Method: method}.String()
}

// beat sends a region's view updates, as its registry would.
func beat(ctx context.Context, conn *jetstream.Conn, name string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		u := &events.ViewUpdate{Version: events.Version, Region: name, Seq: seq, At: time.Now().UTC(), Part: 1, Of: 1}
		data, err := events.Encode(u)
		if err == nil {
			err = conn.NATS().Publish(u.Subject().String(), data)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// state returns the state and the epoch of a session in a region.
func (r *regions) state(region, session string) (sessions.State, events.Epoch) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	rec, _, err := r.fleets[region].conn.Records().Get(ctx, sessions.Key{Jurisdiction: "global", Session: session})
	if err != nil {
		return "", events.Epoch{}
	}
	return rec.State, rec.Epoch
}

// await waits until a session is in a state in a region.
func (r *regions) await(t *testing.T, region, session string, want sessions.State) {
	t.Helper()
	jetstreamtest.Eventually(t, 15*time.Second, "the session is "+string(want)+" in "+region, func() bool {
		state, _ := r.state(region, session)
		return state == want
	})
}

// TestHandover moves a session to another region, which owns it from then on, and back.
func TestHandover(t *testing.T) {
	t.Parallel() // it mostly waits
	r := newRegions(t, dublin, singapore)
	first := login(t, r.services[dublin])
	if first.Server.Region != dublin {
		t.Fatalf("the login is on %+v", first.Server)
	}
	away := api.RefreshRequest{RefreshToken: first.RefreshToken, ClosestServerID: singapore + "-a"}
	second := granted(t, r.services[dublin], "/v1/refresh", away)
	if second.Server.Region != singapore || second.Reason != "closer_region" || second.Notice == nil {
		t.Fatalf("not moved: %s %s to %+v", second.Decision, second.Reason, second.Server)
	}
	to := events.Epoch{Number: 2, Region: singapore}
	if state, epoch := r.state(dublin, first.SessionID); state != sessions.StateMoved || epoch != to {
		t.Errorf("the old owner's record is %s at %v", state, epoch)
	}
	r.await(t, singapore, first.SessionID, sessions.StateActive)

	// The reply may have been lost: the new owner repeats the answer, whoever is asked.
	for _, s := range r.services {
		again := granted(t, s, "/v1/refresh", away)
		if again.Server != second.Server || again.Decision != second.Decision || again.Reason != second.Reason || again.SessionID != second.SessionID {
			t.Errorf("repeated as %+v", again)
		}
	}
	// Its successor is good in both regions, too.
	third := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
	fourth := granted(t, r.services[singapore], "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken})
	if fourth.Server != second.Server || fourth.ServerChanged {
		t.Errorf("after two more refreshes: %+v", fourth)
	}
	if status, body, _ := post(t, r.services[dublin], "/v1/logout", api.LogoutRequest{RefreshToken: fourth.RefreshToken}); status != 204 {
		t.Errorf("logout through the other region: %d %s", status, body)
	}
	if state, _ := r.state(singapore, first.SessionID); state != sessions.StateRevoked {
		t.Errorf("after the logout the owner's record is %s", state)
	}
}

// TestHandoverToNobody: where the next region does not answer the session stays, and moves once
// it does.
func TestHandoverToNobody(t *testing.T) {
	t.Parallel() // it mostly waits
	r := newRegions(t, dublin, singapore)
	first := login(t, r.services[dublin])
	r.kill[singapore]()
	away := api.RefreshRequest{RefreshToken: first.RefreshToken, ClosestServerID: singapore + "-a"}
	second := granted(t, r.services[dublin], "/v1/refresh", away)
	if second.Server.Region != dublin || second.Reason != "target_refused" || second.ServerChanged {
		t.Fatalf("moved to nobody: %s %s to %+v", second.Decision, second.Reason, second.Server)
	}
	if state, epoch := r.state(dublin, first.SessionID); state != sessions.StateActive || epoch != (events.Epoch{Number: 3, Region: dublin}) {
		t.Errorf("the record is %s at %v", state, epoch)
	}
	r.start(t, singapore)
	away.RefreshToken = second.RefreshToken
	jetstreamtest.Eventually(t, 5*time.Second, "the session moves", func() bool { // once the region hears that it is served there
		third := granted(t, r.services[dublin], "/v1/refresh", away)
		away.RefreshToken = third.RefreshToken
		return third.Server.Region == singapore
	})
	replayed(t, r.fleets[dublin].conn, 3)
}

// TestTakeover cuts a region off that lives on. The other goes on with its session, by its copy and
// the token alone; the first one serves it too, until it learns of that: then it yields.
func TestTakeover(t *testing.T) {
	t.Parallel()
	r := newRegions(t, dublin, singapore)
	first := login(t, r.services[dublin])
	second := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	copies := r.fleets[singapore].conn.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)})
	key := sessions.Key{Jurisdiction: "global", Session: first.SessionID}
	jetstreamtest.Eventually(t, 10*time.Second, "a copy of the session", func() bool {
		list, err := copies.Copies(t.Context(), key)
		return err == nil && len(list) == 1 && list[0].Record.Gen == 2
	})
	conflicts, released := r.hear(t, dublin, "berth.v1.session.*.conflict"), r.hear(t, dublin, "berth.v1.lock.*.*.released")

	r.nats.Links[dublin].Cut()
	began := time.Now()
	repeat := api.RefreshRequest{RefreshToken: second.RefreshToken}
	var third api.TokensReply
	jetstreamtest.Eventually(t, 20*time.Second, "a takeover", func() bool {
		status, body, _ := post(t, r.services[singapore], "/v1/refresh", repeat)
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("status %d: %s", status, body)
		}
		return status == http.StatusOK && json.Unmarshal(body, &third) == nil
	})
	t.Logf("taken over %v after the cut", time.Since(began).Round(100*time.Millisecond))
	if third.Server.Region != singapore || third.Reason != "region_down" || third.Notice == nil {
		t.Errorf("%s %s to %+v", third.Decision, third.Reason, third.Server)
	}
	if got := r.fleets[singapore].record(first.SessionID).Home; got != dublin {
		t.Errorf("the session that was taken over calls %q home", got)
	}
	replayed(t, r.fleets[singapore].conn, 1)
	// The region that is cut off serves its own clients; whoever reaches both is served twice.
	granted(t, r.services[dublin], "/v1/refresh", repeat)

	r.nats.Links[dublin].Heal()
	r.await(t, dublin, first.SessionID, sessions.StateMoved)
	if _, epoch := r.state(dublin, first.SessionID); epoch != (events.Epoch{Number: 2, Region: singapore}) {
		t.Errorf("the old owner yields to %v", epoch)
	}
	conflicts.await(t, "the conflict is told")
	released.await(t, "the old server is told")
	fourth := granted(t, r.services[dublin], "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken})
	if fourth.Server != third.Server {
		t.Errorf("after the heal on %+v", fourth.Server)
	}
}

// TestTwoTakeovers has two regions take a session over from a third, neither knowing of the other:
// though no client comes by, one of them owns it in the end.
func TestTwoTakeovers(t *testing.T) {
	t.Parallel()
	const virginia = "us-east-1"
	r := newRegions(t, dublin, singapore, virginia)
	first := login(t, r.services[dublin])
	key := sessions.Key{Jurisdiction: "global", Session: first.SessionID}
	base, _, err := r.fleets[dublin].conn.Records().Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	conflicts := r.hear(t, singapore, "berth.v1.session."+singapore+".conflict")
	r.nats.Links[dublin].Cut()
	for _, region := range []string{singapore, virginia} { // the higher epoch comes second
		a := base.Answer
		a.Server, a.Region = region+"-a", region
		j := sessions.Judgement{Verdict: sessions.Rotate, Token: base.Current()}
		if _, err := r.fleets[region].conn.Records().Put(t.Context(), sessions.TakeOver(base, nil, nil, j, region, a, region, time.Now()), 0); err != nil {
			t.Fatal(err)
		}
	}
	r.await(t, singapore, first.SessionID, sessions.StateMoved)
	conflicts.await(t, "the conflict is told")
	r.nats.Links[dublin].Heal()
	r.await(t, dublin, first.SessionID, sessions.StateMoved)
	for _, region := range []string{dublin, singapore} {
		if _, epoch := r.state(region, first.SessionID); epoch.Region != virginia {
			t.Errorf("%s has yielded to %v", region, epoch)
		}
	}
	if state, _ := r.state(virginia, first.SessionID); state != sessions.StateActive {
		t.Errorf("the region of the highest epoch holds %s", state)
	}
}

// counter counts what comes on a subject.
type counter struct{ n atomic.Int64 }

func (r *regions) hear(t *testing.T, region, subject string) *counter {
	t.Helper()
	var h counter
	stop, err := r.fleets[region].conn.Subscribe(t.Context(), subject, func(string, []byte) { h.n.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &h
}

func (h *counter) await(t *testing.T, what string) {
	t.Helper()
	jetstreamtest.Eventually(t, 10*time.Second, what, func() bool { return h.n.Load() > 0 })
}
