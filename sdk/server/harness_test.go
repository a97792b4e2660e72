package server_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

func TestMain(m *testing.M) { jetstreamtest.Main(m) }

const (
	region = jetstreamtest.SharedRegion
	self   = region + "-a"
	issuer = "https://api.example.com"
)

// signer is a region's token service, as far as tokens are concerned.
type signer struct {
	kid string
	key ed25519.PrivateKey
}

func newSigner(t testing.TB, kid string) *signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{kid: kid, key: key}
}

func (s *signer) public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// document returns the public key as it stands in the bucket.
func (s *signer) document(t testing.TB) []byte {
	t.Helper()
	data, err := api.NewKeySet(map[string]ed25519.PublicKey{s.kid: s.public()}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sign signs any claims under any type.
func (s *signer) sign(t testing.TB, typ string, claims jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"], token.Header["kid"] = typ, s.kid
	signed, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (s *signer) access(t testing.TB, change ...func(*api.AccessClaims)) string {
	t.Helper()
	return s.sign(t, api.TypeAccess, goodClaims(change...))
}

// goodClaims are those of a session that is locked to self at epoch (1, region).
func goodClaims(change ...func(*api.AccessClaims)) *api.AccessClaims {
	now := time.Now()
	c := &api.AccessClaims{
		SessionClaims: api.SessionClaims{
			Issuer: issuer, Subject: "ada", Audience: api.Audience{issuer}, ID: "t-1", ClientID: "shop",
			IssuedAt: now.Unix(), ExpiresAt: now.Add(2 * time.Minute).Unix(), SessionID: "session-1", Scope: "orders",
		},
		Lock:      api.Lock{ServerID: self, ServerURL: "https://a.example.com", Region: region, Epoch: 1, EpochRegion: region},
		Fallbacks: []string{"https://b.example.com"}, Own: map[string]any{"tier": "gold"},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func of(session string) func(*api.AccessClaims) {
	return func(c *api.AccessClaims) { c.SessionID = session }
}

func at(number uint64, region string) func(*api.AccessClaims) {
	return func(c *api.AccessClaims) { c.Epoch, c.EpochRegion = number, region }
}

// config returns a good configuration on a connection.
func config(t testing.TB, conn *jetstream.Conn) server.Config {
	nats := conn.Regional()
	return server.Config{
		Server: self, Region: region, URL: "https://a.example.com", Capacity: 100, Issuer: issuer,
		Bus: nats, Recent: nats, Caller: nats, Watcher: nats,
		Log: jetstreamtest.Log(t),
	}
}

// start runs an agent until the test ends, or stop, and waits until it accepts requests.
func start(t testing.TB, c server.Config) (a *server.Agent, stop func()) {
	t.Helper()
	a, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	jetstreamtest.Eventually(t, 5*time.Second, "the agent accepts requests", func() bool { return a.Ready() == nil })
	return a, stop
}

// shop is an API behind the lock.
type shop struct {
	*httptest.Server
	// served counts the requests that came through.
	served atomic.Int64
}

func serve(t testing.TB, a *server.Agent) *shop {
	s := &shop{}
	s.Server = httptest.NewServer(a.Lock(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.served.Add(1)
		claims, ok := server.ClaimsFrom(r.Context())
		if !ok {
			http.Error(w, "no claims", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"sub": claims.Subject, "sid": claims.SessionID, "tier": claims.Own["tier"]})
	})))
	t.Cleanup(s.Close)
	return s
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body    []byte
	problem api.Problem
}

// ask sends a request. Headers are name, value, name, value.
func ask(t testing.TB, method, url string, body io.Reader, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := reply{Response: resp}
	if r.body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(r.body, &r.problem); err != nil {
			t.Fatalf("problem %s: %v", r.body, err)
		}
	}
	return r
}

func (s *shop) get(t testing.TB, token string) reply {
	t.Helper()
	return ask(t, http.MethodGet, s.URL+"/api/cart", nil, "Authorization", "Bearer "+token)
}

// code returns the code of the answer to a token, "" if it was served.
func (s *shop) code(t testing.TB, token string) api.Code {
	t.Helper()
	r := s.get(t, token)
	if r.StatusCode == http.StatusOK {
		return ""
	}
	return api.Code(r.problem.Code)
}

// region is a NATS region with a signer whose key is in the bucket.
func newRegion(t testing.TB) (*jetstream.Conn, *signer) {
	t.Helper()
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	s := newSigner(t, region+".key-1")
	putKey(t, conn, s)
	return conn, s
}

func keys(t testing.TB, conn *jetstream.Conn) natsjs.KeyValue {
	t.Helper()
	kv, err := conn.JetStream().KeyValue(t.Context(), jetstream.BucketKeys)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func putKey(t testing.TB, conn *jetstream.Conn, s *signer) {
	t.Helper()
	if _, err := keys(t, conn).Put(t.Context(), s.kid, s.document(t)); err != nil {
		t.Fatal(err)
	}
}

// tell publishes an event and waits until the stream has it.
func tell(t testing.TB, conn *jetstream.Conn, e events.Event) {
	t.Helper()
	data, err := events.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.JetStream().Publish(t.Context(), e.Subject().String(), data); err != nil {
		t.Fatal(err)
	}
}

func release(session string, number uint64) *events.LockReleased {
	return &events.LockReleased{
		Version: events.Version, Region: region, Server: self, At: time.Now().UTC(), Session: session,
		Epoch: events.Epoch{Number: number, Region: region},
		To:    events.Home{Server: region + "-b", Region: region, URL: "https://b.example.com"},
	}
}

func revocation(by string, sessions ...string) *events.Revoked {
	return &events.Revoked{Version: events.Version, Region: by, At: time.Now().UTC(), Sessions: sessions}
}

// tokenService answers one method of the region's token service, and keeps the requests.
type tokenService struct{ requests chan *nats.Msg }

func answerRPC(t testing.TB, conn *jetstream.Conn, jurisdiction, method string, answer func(*nats.Msg) *nats.Msg) *tokenService {
	t.Helper()
	s := &tokenService{requests: make(chan *nats.Msg, 1000)}
	subject := events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: jurisdiction, Region: region, Method: method}
	sub, err := conn.NATS().Subscribe(subject.String(), func(m *nats.Msg) {
		s.requests <- m
		if out := answer(m); out != nil {
			_ = m.RespondMsg(out)
		}
	})
	if err == nil {
		err = conn.Flush(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Error(err)
		}
	})
	return s
}

// httpAnswer is a token service's reply with a status.
func httpAnswer(status int, body string, headers ...string) *nats.Msg {
	m := &nats.Msg{Header: nats.Header{api.HeaderStatus: {fmt.Sprint(status)}}, Data: []byte(body)}
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Add(headers[i], headers[i+1])
	}
	return m
}
