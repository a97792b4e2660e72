package tokens_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestClientHangsUpDuringProbe ends the client's request while its healthy server is probed:
// that proves nothing about the server, and a critical task stays where it is.
func TestClientHangsUpDuringProbe(t *testing.T) {
	probed := make(chan struct{}, 1)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probed <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(slow.Close)
	a := server("eu-west-1-a", dublin, slow.URL)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	first := login(t, s)
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken, CriticalTaskInProgress: true})
	b, _ := healthy(t, "eu-west-1-b", dublin)
	f.set(a, b)

	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-probed; hangUp() }()
	body, err := json.Marshal(api.RefreshRequest{
		RefreshToken: second.RefreshToken, FailedServerID: "eu-west-1-a", CriticalTaskInProgress: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/refresh", bytes.NewReader(body)))
	if err := f.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec := f.record(first.SessionID); rec.Server != "eu-west-1-a" || rec.Gen != 2 {
		t.Errorf("status %d; the session went to %s, %s, generation %d", w.Code, rec.Server, rec.Answer.Reason, rec.Gen)
	}
}

// TestLateRepeatOfAMove repeats, after the window, a refresh whose answer was a move and got
// lost: the client is told of its new server, and the old one is released once more.
func TestLateRepeatOfAMove(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		a, b := server("eu-west-1-a", dublin, "http://127.0.0.1:1"), server("eu-west-1-b", dublin, "http://127.0.0.1:2")
		f := newFleet(t, connect(), a)
		s := f.service()
		first := login(t, s)
		a.State = events.StateDown
		f.set(a, b)
		lost := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		if !lost.ServerChanged {
			t.Fatalf("no move: %+v", lost)
		}
		time.Sleep(31 * time.Second)
		again := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
		if again.Server.ID != "eu-west-1-b" || !again.ServerChanged || again.Notice == nil {
			t.Errorf("a client last told of a is answered server %s, changed %v, notice %v",
				again.Server.ID, again.ServerChanged, again.Notice)
		}
		next := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: again.RefreshToken})
		if next.ServerChanged {
			t.Error("the next refresh tells of the move once more")
		}
	})
}

// TestLargeNumbersInClaims refuses numbers that would be others after the first refresh.
func TestLargeNumbersInClaims(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	if _, err := tokens.NewUsers([]tokens.User{{Username: "ada", PasswordHash: passwordHash(), Claims: map[string]any{"account": uint64(1<<53 + 1)}}}); err == nil {
		t.Error("a users file may have a number that its tokens cannot keep")
	}
	s := f.service()
	for body, want := range map[string]string{
		`{"subject":"ada","claims":{"accounts":[9007199254740993]}}`:        "400",
		`{"subject":"ada","claims":{"accounts":[-9007199254740991]}}`:       "200",
		`{"subject":"ada","claims":{"account":"9007199254740993","x":1.5}}`: "200",
	} {
		header, data := s.Serve(t.Context(), api.MethodStart, nil, []byte(body))
		if got := http.Header(header).Get(api.HeaderStatus); got != want {
			t.Errorf("%s: status %s, want %s: %s", body, got, want, data)
		}
	}
}

// TestStartBounds starts sessions whose tokens would be too long to be redeemed.
func TestStartBounds(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	for _, req := range []api.StartRequest{
		{Subject: "grace", Scope: strings.Repeat("x", 20_000)},
		{Subject: "grace", ClientID: strings.Repeat("x", 20_000)},
	} {
		data, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		header, body := s.Serve(t.Context(), api.MethodStart, nil, data)
		if got := http.Header(header).Get(api.HeaderStatus); got != "400" {
			var reply api.TokensReply
			if err := json.Unmarshal(body, &reply); err != nil {
				t.Fatal(err)
			}
			status, body, _ := post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: reply.RefreshToken})
			t.Errorf("start: status %s; its refresh: %d %s", got, status, body)
		}
	}
}

// TestLogoutIsHeardWhenAnswered kills the service right after its 204: regional servers must
// know of the end all the same.
func TestLogoutIsHeardWhenAnswered(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service() // nothing runs its outbox: it dies with the reply
	began := time.Now().Add(-time.Second)
	first := login(t, s)
	if status, body, _ := post(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken}); status != 204 {
		t.Fatalf("logout: %d %s", status, body)
	}
	if !f.revoked(t, began, first.SessionID) {
		t.Error("logout was acknowledged and no server can know of it")
	}
}

// revoked reports whether the region's stream holds a revocation of the session.
func (f *fleet) revoked(t *testing.T, since time.Time, session string) bool {
	t.Helper()
	messages, err := f.conn.Recent(t.Context(), since, "berth.v1.revoked.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if strings.Contains(string(m.Data), session) {
			return true
		}
	}
	return false
}

// electing is a bus whose streams answer nobody until a time.
type electing struct {
	tokens.Bus
	until time.Time
}

func (e electing) Publish(ctx context.Context, subject string, data []byte) error {
	if wait := time.Until(e.until); wait > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return e.Bus.Publish(ctx, subject, data)
}

// TestRevocationOutlivesAnElection logs out while the stream of events has no leader, as it
// has for 4 to 7 s after the leader's death.
func TestRevocationOutlivesAnElection(t *testing.T) {
	t.Parallel() // it mostly waits
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	began := time.Now().Add(-time.Second)
	const election = 3 * time.Second
	s := f.service(func(c *tokens.Config) { c.Bus = electing{f.conn, time.Now().Add(election)} })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	jetstreamtest.Eventually(t, 10*time.Second, "the service to be ready", func() bool { return s.Ready() == nil })
	first := login(t, s)
	status, body, _ := post(t, s, "/v1/logout", api.LogoutRequest{RefreshToken: first.RefreshToken})
	if status != 204 {
		t.Logf("logout: %d %s", status, body) // a refusal is right: the client tries again
	} else {
		jetstreamtest.Eventually(t, election+3*time.Second, "the revocation to be stored", func() bool { return f.revoked(t, began, first.SessionID) })
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestUnauthorizedNamesAScheme checks RFC 9110 section 15.5.2.
func TestUnauthorizedNamesAScheme(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	if status, _, header := post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: "x"}); status != 401 || header.Get("WWW-Authenticate") == "" {
		t.Errorf("status %d without WWW-Authenticate: %v", status, header)
	}
}

// TestOAuthTooLarge checks that /oauth answers in the words of RFC 6749 only.
func TestOAuthTooLarge(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	status, body, header := post(t, f.service(), "/oauth/token", "refresh_token="+strings.Repeat("x", api.MaxBody))
	if header.Get("Content-Type") != "application/json" || !bytes.Contains(body, []byte(`"error":"invalid_request"`)) {
		t.Errorf("status %d, %s: %s", status, header.Get("Content-Type"), body)
	}
}

// TestForgedKeyIDIsNotLogged floods the log with the words of somebody without a token.
func TestForgedKeyIDIsNotLogged(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	var log bytes.Buffer
	s := f.service(func(c *tokens.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{})
	token.Header["typ"], token.Header["kid"] = api.TypeRefresh, "eu-west-1."+strings.Repeat("forged", 1500)
	forged, err := token.SignedString(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	post(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: forged})
	if log.Len() > 1000 {
		t.Errorf("one forged request wrote %d bytes to the log: %.200s", log.Len(), log.String())
	}
}

// TestGuessersDoNotLockOut guesses from an address that is over its share: the user is not
// slowed down elsewhere.
func TestGuessersDoNotLockOut(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	hash, err := tokens.HashPassword("ada-dev")
	if err != nil {
		t.Fatal(err)
	}
	users, err := tokens.NewUsers([]tokens.User{{Username: "ada", PasswordHash: hash}})
	if err != nil {
		t.Fatal(err)
	}
	s := f.service(func(c *tokens.Config) { c.Users = users })
	attempt := func(ctx context.Context, address, user, password string) string {
		header, _ := s.Serve(ctx, api.MethodLogin, map[string][]string{api.HeaderClientAddress: {address}},
			[]byte(`{"username":"`+user+`","password":"`+password+`"}`))
		return http.Header(header).Get(api.HeaderStatus)
	}
	try := func(address, user, password string) string { return attempt(t.Context(), address, user, password) }
	jetstreamtest.Eventually(t, 30*time.Second, "the guesser to be over its share", func() bool {
		// Many at once who do not wait for an answer: to compare a password takes long on a busy machine.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { attempt(ctx, "192.0.2.1", rand.Text(), "x") })
		}
		wg.Wait()
		return try("192.0.2.1", rand.Text(), "x") == "429"
	})
	for range 20 {
		try("192.0.2.1", "ada", "x")
	}
	if got := try("198.51.100.7", "ada", "ada-dev"); got != "200" {
		t.Errorf("the user herself: status %s", got)
	}
}

// TestNewKeyIsPublished changes the keyring: the new key stands in the bucket at once, not
// only at the next exchange.
func TestNewKeyIsPublished(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	s := f.service()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	jetstreamtest.Eventually(t, 5*time.Second, "the service to be ready", func() bool { return s.Ready() == nil })
	next := keyring(t, newKey(t))
	s.SetKeys(next)
	jetstreamtest.Eventually(t, 5*time.Second, "the new key to be published", func() bool {
		_, err := f.conn.Bucket(jetstream.BucketKeys).Get(t.Context(), next.Signing())
		return err == nil
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// flaky is a bus that cannot subscribe at first.
type flaky struct {
	tokens.Bus
	failures *atomic.Int32
}

func (b flaky) Subscribe(ctx context.Context, subject string, fn func(string, []byte)) (func(), error) {
	if b.failures.Add(-1) >= 0 {
		return nil, errors.New("nats is away")
	}
	return b.Bus.Subscribe(ctx, subject, fn)
}

// TestRunOutlivesNATS starts a service just when its NATS is away: it tries again.
func TestRunOutlivesNATS(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	var failures atomic.Int32
	failures.Store(1)
	s := f.service(func(c *tokens.Config) { c.Bus = flaky{f.conn, &failures} })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	jetstreamtest.Eventually(t, 5*time.Second, "the service to be ready, or to end", func() bool {
		return s.Ready() == nil || len(ended) > 0
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run ended: %v", err)
	}
}

// TestImpatientForger asks with a forged key id and hangs up: the region named is asked all
// the same, and an honest client's new key is found.
func TestImpatientForger(t *testing.T) {
	a, _ := healthy(t, "eu-west-1-a", dublin)
	singapore, _ := healthy(t, "ap-southeast-1-a", "ap-southeast-1")
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a, singapore)
	key := newKey(t)
	theirs, err := tokens.NewKeyring("ap-southeast-1", key)
	if err != nil {
		t.Fatal(err)
	}
	document, err := api.NewKeySet(theirs.Public()).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	s := f.service(func(c *tokens.Config) { c.Caller = slowKeys{document, asked} })
	refresh := func(ctx context.Context, kid string) *httptest.ResponseRecorder {
		claims := jwt.MapClaims{
			"iss": issuer, "aud": issuer, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "sub": "ada",
			"sid": "s1", "jurisdiction": "global", "lock_epoch": 1, "lock_region": dublin, "gen": 1, "session_started": time.Now().Unix(),
		}
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
		token.Header["typ"], token.Header["kid"] = api.TypeRefresh, kid
		signed, err := token.SignedString(key)
		if err != nil {
			t.Error(err)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/refresh", strings.NewReader(`{"refreshToken":"`+signed+`"}`)))
		return w
	}
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-asked; hangUp() }()
	refresh(ctx, "ap-southeast-1.forged")
	if w := refresh(t.Context(), theirs.Signing()); w.Code != 200 {
		t.Errorf("an honest client's key: status %d: %s", w.Code, w.Body)
	}
}

// slowKeys answers for other regions with a key set, a little late.
type slowKeys struct {
	document []byte
	asked    chan struct{}
}

func (c slowKeys) Call(ctx context.Context, _ string, _ map[string][]string, _ []byte) (map[string][]string, []byte, error) {
	select {
	case c.asked <- struct{}{}:
	default:
	}
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return map[string][]string{api.HeaderStatus: {"200"}}, c.document, nil
	}
}
