package tokens_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

func TestMain(m *testing.M) {
	jetstreamtest.AtOnce(4)
	jetstreamtest.Main(m)
}

const (
	issuer = "https://api.example.com"
	dublin = "eu-west-1"
)

// fleet is one region's token services over one NATS, and the servers that they know.
type fleet struct {
	t    testing.TB
	conn *jetstream.Conn
	keys *tokens.Keyring
	view atomic.Pointer[registry.View]
	now  atomic.Int64
}

// newFleet makes a region with servers a and b, whose health URLs are alive until closed.
func newFleet(t testing.TB, conn *jetstream.Conn, servers ...events.Server) *fleet {
	t.Helper()
	f := &fleet{t: t, conn: conn, keys: keyring(t, newKey(t))}
	f.set(servers...)
	return f
}

// set makes these the servers of the view.
func (f *fleet) set(servers ...events.Server) {
	slices.SortFunc(servers, func(a, b events.Server) int { return strings.Compare(a.Key(), b.Key()) })
	seqs := map[string]uint64{}
	for _, s := range servers {
		seqs[s.Region] = 1
	}
	f.now.Store(time.Now().UnixNano())
	f.view.Store(registry.NewView(servers, seqs, &f.now, time.Unix(0, f.now.Load())))
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyring(t testing.TB, keys ...ed25519.PrivateKey) *tokens.Keyring {
	t.Helper()
	k, err := tokens.NewKeyring(dublin, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// server returns a server of a region, up.
func server(id, region, url string) events.Server {
	return events.Server{
		Server: id, Region: region, URL: url, Boot: "01ARZ3NDEKTSV4RRFFQ69G5FAV", State: events.StateUp,
		Reason: "heartbeat", Since: time.Now(), SeenAt: time.Now(), IntervalMS: 1000, Capacity: 100, Seq: 1,
		Location: events.Location{Lat: 53.35, Lon: -6.26},
	}
}

// passwordHash is that of ada-dev, at the least cost: most tests log in, few are about that.
func passwordHash() string {
	salt := []byte("of-no-importance")
	key := argon2.IDKey([]byte("ada-dev"), salt, 1, 8, 1, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=8,t=1,p=1$%s$%s", argon2.Version, b64(salt), b64(key))
}

// service returns a token service of the region.
func (f *fleet) service(change ...func(*tokens.Config)) *tokens.Service {
	f.t.Helper()
	users, err := tokens.NewUsers([]tokens.User{{
		Username: "ada", PasswordHash: passwordHash(), Scope: "orders", Claims: map[string]any{"role": "captain"},
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	c := tokens.Config{
		Region: dublin, Issuer: issuer, Keys: f.keys, Users: users, View: f.view.Load, TrustLocation: true,
		Store: f.conn.Records(), Ledger: f.conn.Records(), Bus: f.conn, Caller: f.conn.Caller(), Keyshare: f.conn.Keys(), Recent: f.conn.Regional(),
		Prober: registry.NewProber(registry.ProberConfig{}), Log: jetstreamtest.Log(f.t),
	}
	for _, fn := range change {
		fn(&c)
	}
	s, err := tokens.New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// post sends a request to a service's handler, as HTTP would.
func post(t testing.TB, s *tokens.Service, path string, in any) (int, []byte, http.Header) {
	t.Helper()
	data, ok := in.(string)
	if !ok {
		encoded, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		data = string(encoded)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(data))
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.Bytes(), w.Header()
}

// login starts a session.
func login(t testing.TB, s *tokens.Service) api.TokensReply {
	t.Helper()
	return granted(t, s, "/v1/login", api.LoginRequest{Username: "ada", Password: "ada-dev"})
}

// granted sends a request that has to give tokens.
func granted(t testing.TB, s *tokens.Service, path string, in any) api.TokensReply {
	t.Helper()
	status, body, _ := post(t, s, path, in)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", path, status, body)
	}
	var reply api.TokensReply
	if err := json.Unmarshal(body, &reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// refused sends a request that has to be refused with the code.
func refused(t *testing.T, s *tokens.Service, path string, in any, code api.Code) api.Problem {
	t.Helper()
	status, body, header := post(t, s, path, in)
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("%s: status %d, body %q: %v", path, status, body, err)
	}
	if p.Code != string(code) || status != code.Status() || p.Status != status {
		t.Errorf("%s: status %d, %s; want %s", path, status, body, code)
	}
	if got := header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: content type %q", path, got)
	}
	if bytes.Contains(body, []byte("goroutine")) {
		t.Errorf("%s: a stack trace: %s", path, body)
	}
	return p
}

// record reads a session's record.
func (f *fleet) record(session string) sessions.Record {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	rec, _, err := f.conn.Records().Get(ctx, sessions.Key{Jurisdiction: "global", Session: session})
	if err != nil {
		f.t.Fatal(err)
	}
	return rec
}
