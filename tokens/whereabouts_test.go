package tokens_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// atlas is a Locator of few places.
type atlas map[string]events.Location

func (a atlas) Locate(address netip.Addr) (events.Location, bool) {
	at, ok := a[address.String()]
	return at, ok
}

// somewhere is an atlas of Singapore, and of Virginia, where httptest has every request come from.
func somewhere() atlas {
	return atlas{"198.51.100.7": places()[singapore], "2001:db8::7": places()[singapore], "192.0.2.1": places()[virginia]}
}

// located returns a server of a region, where that is.
func located(region string) events.Server {
	s := server(region+"-a", region, "https://a."+region+".example.com")
	s.Location = places()[region]
	return s
}

// closestFrom asks a service for the closest server.
func closestFrom(t *testing.T, s *tokens.Service, peer string, header ...string) api.ClosestReply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/closestToMe", nil)
	r.RemoteAddr = peer
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	var reply api.ClosestReply
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return reply
}

// TestClosestByAddress: what the client says goes first, if that is believed, then its address, then where its request
// arrived. Nobody but a trusted proxy says for whom it asks.
func TestClosestByAddress(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), located(dublin), located(singapore), located(virginia))
	s := f.service(func(c *tokens.Config) {
		c.GeoIP = somewhere()
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	})
	const there, nowhere, peer, proxy = "198.51.100.7:1234", "203.0.113.9:1234", "X-Forwarded-For", "10.0.0.1:80"
	for name, c := range map[string]struct {
		peer          string
		header        []string
		region, basis string
	}{
		"its address":                        {there, nil, singapore, "geoip"},
		"its address, IPv6":                  {"[2001:db8::7]:1234", nil, singapore, "geoip"},
		"its address, IPv6 of an interface":  {"[2001:db8::7%eth0]:1234", nil, singapore, "geoip"},
		"its address, IPv4 within IPv6":      {"[::ffff:198.51.100.7]:1234", nil, singapore, "geoip"},
		"an address that nobody knows":       {nowhere, nil, dublin, "region"},
		"no address":                         {"@", nil, dublin, "region"},
		"its word":                           {there, []string{"X-Berth-Client-Location", "39,-77"}, virginia, "location"},
		"a liar's word for whom it asks":     {nowhere, []string{peer, "198.51.100.7"}, dublin, "region"},
		"a proxy":                            {proxy, []string{peer, "198.51.100.7"}, singapore, "geoip"},
		"a proxy in IPv6":                    {"[fd00::1]:80", []string{peer, "2001:db8::7"}, singapore, "geoip"},
		"a proxy that names ports":           {proxy, []string{peer, "198.51.100.7:4711"}, singapore, "geoip"},
		"a proxy that names ports, IPv6":     {proxy, []string{peer, "[2001:db8::7]:4711, 10.0.0.2:80"}, singapore, "geoip"},
		"a proxy behind a proxy":             {proxy, []string{peer, "198.51.100.7, 10.0.0.2"}, singapore, "geoip"},
		"a proxy behind a proxy, two lines":  {proxy, []string{peer, "198.51.100.7", peer, "10.0.0.2"}, singapore, "geoip"},
		"a liar behind a proxy":              {proxy, []string{peer, "198.51.100.7, 203.0.113.9"}, dublin, "region"},
		"a liar behind a proxy, two lines":   {proxy, []string{peer, "198.51.100.7", peer, "203.0.113.9"}, dublin, "region"},
		"a proxy that does not know":         {proxy, []string{peer, "198.51.100.7, unknown"}, dublin, "region"},
		"a proxy of its own accord":          {proxy, nil, dublin, "region"},
		"a client says it came over the bus": {nowhere, []string{api.HeaderClientAddress, "198.51.100.7"}, dublin, "region"},
	} {
		t.Run(name, func(t *testing.T) {
			got := closestFrom(t, s, c.peer, c.header...)
			if got.Region != c.region || got.Basis != c.basis || len(got.Candidates) != 3 || got.Candidates[0].ProbeURL == "" {
				t.Errorf("%+v; want %s by %s and three to probe", got, c.region, c.basis)
			}
		})
	}
	// A regional server that passes a request on is believed.
	header, data := s.Serve(t.Context(), api.MethodClosest, map[string][]string{api.HeaderClientAddress: {"198.51.100.7"}}, nil)
	var got api.ClosestReply
	if err := json.Unmarshal(data, &got); err != nil || got.Region != singapore || got.Basis != "geoip" {
		t.Errorf("passed on: %v %s", header, data)
	}
}

// TestPlacedByAddress: a login and each refresh go by the client's address where nothing better is known, and their
// decisions say so, by which they can be made again. Where an organization has a home the address is nothing to go by.
func TestPlacedByAddress(t *testing.T) {
	orgs := &fixedOrgs{orgs: map[string]residency.Org{"homely": bounded("homely", "global", dublin)}}
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)))
	f.set(append(worldly(t), located(singapore))...)
	s := f.service(func(c *tokens.Config) { c.GeoIP, c.Orgs = somewhere(), orgs })
	running(t, s)
	in := login(t, s)
	if in.Server.Region != virginia {
		t.Errorf("login from Virginia: %+v", in.Server)
	}
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: in.RefreshToken})
	if status, body := startAt(t, s, "198.51.100.7"); status != "200" || !strings.Contains(body, singapore) {
		t.Errorf("started by an application for somebody in Singapore: %s %s", status, body)
	}
	if status, body := startAt(t, s, "Singapore"); status != "400" || !strings.Contains(body, "body.clientAddress") {
		t.Errorf("started for no address: %s %s", status, body)
	}
	if homely, p, _ := starting(t, s, "homely"); homely.Server.Region != dublin {
		t.Errorf("an organization at home in Dublin: %+v %+v", homely, p)
	}
	replayed(t, f.conn, 4)
	for _, d := range stored[*events.Decision](t, f.conn, jetstream.StreamEvents, events.KindDecision) {
		want := &events.Location{Lat: 39.04, Lon: -77.49}
		switch {
		case d.Facts.Home != "":
			want = nil
		case strings.HasPrefix(d.To, singapore):
			want = &events.Location{Lat: 1.35, Lon: 103.82}
		}
		if diff := cmp.Diff(want, d.Facts.Location); diff != "" {
			t.Errorf("the place in decision %s %s: -want +got\n%s", d.Verdict, d.Reason, diff)
		}
	}
}

// startAt starts a session for a user with an address.
func startAt(t *testing.T, s *tokens.Service, address string) (status, body string) {
	t.Helper()
	in, err := json.Marshal(api.StartRequest{Subject: "ada", ClientAddress: address})
	if err != nil {
		t.Fatal(err)
	}
	header, data := s.Serve(t.Context(), api.MethodStart, nil, in)
	return header[api.HeaderStatus][0], string(data)
}

// running runs a service until the test ends.
func running(t *testing.T, s *tokens.Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	jetstreamtest.Eventually(t, 10*time.Second, "the service to be ready", func() bool { return s.Ready() == nil })
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
