package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
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

// fastClock runs as many times faster than others.
type fastClock struct {
	began time.Time
	speed int
}

func (c fastClock) now() time.Time { return c.began.Add(time.Since(c.began) * time.Duration(c.speed)) }

// real returns how long something takes that is so long by the clock.
func (c fastClock) real(d time.Duration) time.Duration { return d / time.Duration(c.speed) }

// registry says each second of the clock which regions it hears.
func (c fastClock) registry(ctx context.Context, conn *jetstream.Conn, name string) error {
	var mu sync.Mutex
	heard := map[string]time.Time{}
	stop, err := conn.Subscribe(ctx, "berth.v1.view.*", func(subject string, data []byte) {
		if u, err := events.DecodeViewHead(subject, data); err == nil && u.Region != name {
			mu.Lock()
			defer mu.Unlock()
			heard[u.Region] = c.now()
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(c.real(time.Second))
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		u := &events.ViewUpdate{Version: events.Version, Region: name, Seq: seq, At: c.now().UTC(), Part: 1, Of: 1, Sees: map[string]int64{}}
		mu.Lock()
		for region, at := range heard {
			u.Sees[region] = u.At.Sub(at).Milliseconds()
		}
		mu.Unlock()
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

// strictRegions are regions that know organizations, and whose leases run by a fast clock.
func strictRegions(t *testing.T, clock fastClock, names ...string) (*regions, map[string]*residency.Directory) {
	t.Helper()
	r := provisionedRegions(t, names...)
	directories := map[string]*residency.Directory{}
	r.configure = func(name string, c *tokens.Config) {
		d := residency.NewDirectory(r.fleets[name].conn.Documents(jetstream.BucketOrgs), jetstreamtest.Log(t))
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		directories[name], c.Orgs, c.AccessTTL = d, d, time.Minute
	}
	r.made = func(s *tokens.Service) { s.SetLeaseClock(clock.now) }
	r.registry = clock.registry
	for _, name := range names {
		r.start(t, name)
	}
	return r, directories
}

// setTakeover changes an organization and waits until all regions know it.
func (r *regions) setTakeover(t *testing.T, primary, org string, how residency.Takeover, in map[string]*residency.Directory) {
	t.Helper()
	conn := r.fleets[primary].conn
	registrar, err := residency.NewRegistrar(residency.RegistrarConfig{
		Region: primary, Primary: primary, Directory: in[primary], Store: conn.Documents(jetstream.BucketOrgs), Caller: conn.DocumentsCaller(),
	})
	if err == nil {
		_, err = registrar.Set(t.Context(), residency.SetRequest{Org: org, Takeover: how, By: "test"})
	}
	if err != nil {
		t.Fatal(err)
	}
	for region, d := range in {
		jetstreamtest.Eventually(t, 10*time.Second, region+" knows it", func() bool {
			o, err := d.Org(org)
			return err == nil && o.Takeover == how
		})
	}
}

// startOf starts a session of an organization; ok says that it was.
func startOf(t *testing.T, s *tokens.Service, org string) (reply api.TokensReply, ok bool) {
	t.Helper()
	data, err := json.Marshal(api.StartRequest{Subject: "ada", Org: org})
	if err != nil {
		t.Fatal(err)
	}
	header, body := s.Serve(t.Context(), api.MethodStart, nil, data)
	if err := json.Unmarshal(body, &reply); err != nil {
		t.Fatal(err)
	}
	return reply, http.Header(header).Get(api.HeaderStatus) == "200"
}

// try refreshes, and returns the problem's detail if it is refused for the time being.
func try(t *testing.T, s *tokens.Service, token *string) (api.TokensReply, string) {
	t.Helper()
	status, body, header := post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: *token})
	var reply api.TokensReply
	var p api.Problem
	switch status {
	case http.StatusOK:
		if err := json.Unmarshal(body, &reply); err != nil {
			t.Fatal(err)
		}
		*token = reply.RefreshToken
	case http.StatusServiceUnavailable:
		if err := json.Unmarshal(body, &p); err != nil || p.Code != string(api.CodeUnavailable) || header.Get("Retry-After") == "" {
			t.Errorf("refused with %s, Retry-After %q (%v)", body, header.Get("Retry-After"), err)
		}
		return reply, p.Detail
	default:
		t.Fatalf("status %d: %s", status, body)
	}
	return reply, ""
}

// TestStrictTakeover cuts a region off that lives on. Of a strict organization's session it stops being
// the owner, and only when nothing that it gave out can be accepted any more the other region goes on;
// the session of another organization is served by both.
func TestStrictTakeover(t *testing.T) {
	t.Parallel()
	clock := fastClock{time.Now(), 12}
	r, directories := strictRegions(t, clock, dublin, singapore)
	there, here := r.services[dublin], r.services[singapore]
	lax, ok := startOf(t, there, "acme")
	if !ok {
		t.Fatal("no session was started")
	}
	r.setTakeover(t, dublin, "acme", residency.TakeoverStrict, directories)
	var strict api.TokensReply
	jetstreamtest.Eventually(t, time.Minute, "the region has its lease", func() bool { strict, ok = startOf(t, there, "acme"); return ok })
	other, ok := startOf(t, there, "")
	if !ok {
		t.Fatal("no session of no organization was started")
	}
	// One that was started before is strict from now on, too.
	if _, why := try(t, there, &lax.RefreshToken); why != "" {
		t.Fatalf("refused before the cut: %s", why)
	}
	copies := r.fleets[singapore].conn.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)})
	for _, s := range []string{lax.SessionID, strict.SessionID, other.SessionID} {
		jetstreamtest.Eventually(t, 10*time.Second, "a copy", func() bool {
			list, err := copies.Copies(t.Context(), sessions.Key{Jurisdiction: "global", Session: s})
			return err == nil && len(list) == 1
		})
	}

	r.nats.Links[dublin].Cut()
	uncopied, ok := startOf(t, there, "acme")
	if !ok {
		t.Fatal("no session was started by the lease that is left")
	}
	var last, first time.Time // when the old owner answered last, and the other region first
	token := strict.RefreshToken
	jetstreamtest.Eventually(t, time.Minute, "the owner stops", func() bool {
		before := clock.now()
		_, why := try(t, there, &token)
		if why == "" {
			last = before
		}
		return strings.Contains(why, string(sessions.LeaseLost))
	})
	if _, ok := startOf(t, there, "acme"); ok {
		t.Error("a session was started that no other region knows of")
	}
	var taken api.TokensReply
	jetstreamtest.Eventually(t, 3*time.Minute, "the other region goes on", func() bool {
		if _, why := try(t, there, &token); why == "" {
			t.Fatal("the old owner answers again")
		}
		var why string
		if taken, why = try(t, here, &token); why == "" {
			first = clock.now()
		}
		return why == ""
	})
	if taken.Server.Region != singapore || taken.Reason != "region_down" {
		t.Errorf("%s %s to %+v", taken.Decision, taken.Reason, taken.Server)
	}
	if accepted := last.Add(time.Minute + api.Skew); !first.After(accepted) {
		t.Errorf("taken over %v before the last token of the old owner has ended", accepted.Sub(first))
	}
	t.Logf("taken over %v after the last answer of the owner", first.Sub(last).Round(time.Second))
	if _, why := try(t, here, &token); why != "" {
		t.Errorf("the new owner does not go on: %s", why)
	}
	if _, why := try(t, there, &token); why == "" {
		t.Error("the old owner answers a token of the new one")
	}
	if _, why := try(t, here, &uncopied.RefreshToken); why == "" {
		t.Error("a session was taken over of which nothing is known but a young token")
	}
	// The other organization's session goes on on both sides.
	for region, s := range r.services {
		token := other.RefreshToken
		if _, why := try(t, s, &token); why != "" {
			t.Errorf("%s refuses a session that is not strict: %s", region, why)
		}
	}

	r.nats.Links[dublin].Heal()
	r.await(t, dublin, strict.SessionID, sessions.StateMoved)
	jetstreamtest.Eventually(t, time.Minute, "both regions answer", func() bool {
		_, why := try(t, there, &token)
		_, again := try(t, here, &token)
		_, old := try(t, there, &lax.RefreshToken)
		return why == "" && again == "" && old == ""
	})
}

// unknownOrgs is a directory that has not been read.
type unknownOrgs struct{}

func (unknownOrgs) Org(string) (residency.Org, error) { return residency.Org{}, residency.ErrNotLoaded }

// TestUnknownOrganizationsAreStrict: what is not known yet must not be served twice.
func TestUnknownOrganizationsAreStrict(t *testing.T) {
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	f := newFleet(t, conn)
	s, _ := healthy(t, dublin+"-a", dublin)
	f.set(s)
	edges := []string{singapore}
	cut := f.service(func(c *tokens.Config) { c.Orgs, c.Edges = unknownOrgs{}, func() []string { return edges } })
	if _, ok := startOf(t, cut, "acme"); ok {
		t.Error("an organization that is not known was served without a lease")
	}
	if _, ok := startOf(t, cut, ""); !ok {
		t.Error("a session of no organization was refused")
	}
	alone := f.service(func(c *tokens.Config) { c.Orgs = unknownOrgs{} })
	if _, ok := startOf(t, alone, "acme"); ok {
		t.Error("a session was started of which nobody knows where it may be")
	}
	if !errors.Is(residency.NewDirectory(nil, nil).Ready(), residency.ErrNotLoaded) {
		t.Error("a directory that has not been read is ready")
	}
}
