package service_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

const (
	dublin    = "eu-west-1"
	singapore = "ap-southeast-1"
)

// places are where the regions are: who logs in stays near.
var places = map[string]events.Location{dublin: {Lat: 53.35, Lon: -6.26}, singapore: {Lat: 1.35, Lon: 103.82}}

// keyFleet is two regions with token services, whose keys are rotated.
type keyFleet struct {
	t     *testing.T
	nats  *jetstreamtest.Fleet
	conns map[string]*jetstream.Conn
	files map[string]string
	http  *http.Client
}

func newKeyFleet(t *testing.T) *keyFleet {
	t.Helper()
	f := &keyFleet{
		t: t, nats: jetstreamtest.NewFleet(t, nil, dublin, singapore),
		conns: map[string]*jetstream.Conn{}, files: map[string]string{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}, Timeout: 20 * time.Second},
	}
	t.Cleanup(f.http.CloseIdleConnections)
	for region := range f.nats.Regions {
		conn := jetstreamtest.Dial(t, f.nats.Regions[region].ClientURL())
		// In memory: a slow disk is not what these tests are about.
		if err := conn.Provision(t.Context(), jetstream.Topology{Memory: true}); err != nil {
			t.Fatal(err)
		}
		for other := range f.nats.Regions {
			s := events.Server{
				Server: other + "-a", Region: other, URL: "http://127.0.0.1:1", Boot: "01ARZ3NDEKTSV4RRFFQ69G5FAV", State: events.StateUp,
				Reason: "heartbeat", Since: time.Now(), SeenAt: time.Now(), IntervalMS: 1000, Capacity: 1000, Seq: 1,
				Location: places[other],
			}
			value, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Servers().Put(t.Context(), s.Key(), value, 0); err != nil {
				t.Fatal(err)
			}
		}
		f.conns[region], f.files[region] = conn, filepath.Join(t.TempDir(), region+".key")
		if err := tokens.GenerateKey(f.files[region]); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// serve starts a token service of a region, of the key file given or the region's, and returns
// its URL once it is ready.
func (f *keyFleet) serve(region string, file ...string) (url string, stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- service.RunTokens(ctx, service.TokensConfig{
			NATS: jetstream.Config{URL: f.nats.Regions[region].ClientURL(), Region: region}, Topology: jetstream.Topology{Memory: true},
			Listen: "127.0.0.1:0", Issuer: "https://api.example.com", KeyFile: append(file, f.files[region])[0],
			Ready: func(url, _ string) { ready <- url }, Log: jetstreamtest.Log(f.t),
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(stop)
	select {
	case url = <-ready:
	case err := <-ended:
		ended <- nil
		f.t.Fatal(err)
	case <-time.After(20 * time.Second):
		f.t.Fatalf("no token service of %s within 20s", region)
	}
	return url, stop
}

// ask calls a method about keys in a region.
func (f *keyFleet) ask(region, method string, request any) (reply tokens.KeysReply, err error) {
	f.t.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		f.t.Fatal(err)
	}
	answer, err := f.conns[region].Call(f.t.Context(), service.TokensMethod(events.GlobalJurisdiction, region, method), nil, data)
	if err == nil {
		err = json.Unmarshal(answer.Data, &reply)
	}
	return reply, err
}

func (f *keyFleet) must(region, method string, request any) tokens.KeysReply {
	f.t.Helper()
	reply, err := f.ask(region, method, request)
	if err != nil {
		f.t.Fatalf("%s: %v", method, err)
	}
	return reply
}

func (f *keyFleet) list(region string) tokens.KeysReply {
	f.t.Helper()
	return f.must(region, tokens.MethodKeysList, nil)
}

// stateOf returns a key's state in a list, empty if it is not in it.
func stateOf(reply tokens.KeysReply, kid string) tokens.KeyState {
	for _, k := range reply.Keys {
		if k.KID == kid {
			return k.State
		}
	}
	return ""
}

// awaitSigning waits until a region's token services say that a key signs.
func (f *keyFleet) awaitSigning(region, kid string) {
	f.t.Helper()
	jetstreamtest.Eventually(f.t, 15*time.Second, kid+" signs", func() bool { return f.list(region).Signing == kid })
}

// start begins a session through the bus, as an application does.
func (f *keyFleet) start(region string) (reply api.TokensReply) {
	f.t.Helper()
	answer, err := f.conns[region].Call(f.t.Context(), service.TokensMethod(events.GlobalJurisdiction, region, api.MethodStart), nil, []byte(`{"subject":"ada"}`))
	if err == nil {
		err = json.Unmarshal(answer.Data, &reply)
	}
	if err != nil || reply.RefreshToken == "" {
		f.t.Fatalf("start in %s: %v: %s", region, err, answer.Data)
	}
	return reply
}

// refresh redeems a token at a service.
func (f *keyFleet) refresh(url, token string) (int, api.TokensReply, string) {
	body, err := json.Marshal(api.RefreshRequest{RefreshToken: token})
	if err != nil {
		f.t.Error(err)
	}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, url+"/v1/refresh", bytes.NewReader(body))
	if err != nil {
		f.t.Error(err)
		return 0, api.TokensReply{}, ""
	}
	// A refresh may be repeated, and is where a kept connection turns out to be closed.
	req.Header.Set("Idempotency-Key", token[len(token)-16:])
	resp, err := f.http.Do(req)
	if err != nil {
		return 0, api.TokensReply{}, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	var text bytes.Buffer
	var reply api.TokensReply
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return 0, reply, err.Error()
	}
	_ = json.Unmarshal(text.Bytes(), &reply)
	return resp.StatusCode, reply, text.String()
}

// kidOf returns the key id that a token names.
func kidOf(token string) string {
	head, _, _ := strings.Cut(token, ".")
	data, _ := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		KID string `json:"kid"`
	}
	_ = json.Unmarshal(data, &h)
	return h.KID
}

// copyKey replaces a key file by a copy of another.
func copyKey(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".part", data, 0o600)
	}
	if err == nil {
		err = os.Rename(to+".part", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
