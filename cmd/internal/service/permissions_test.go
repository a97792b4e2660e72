package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/policy"
	"github.com/berthhq/berth/residency"
	sdk "github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

const (
	guarded = "eu-west-1"
	issuer  = "https://api.example.com"
)

// guardedRegion runs a region's NATS with the accounts and users that docs/nats.md tells
// operators to make. The function returns where a user connects.
func guardedRegion(t *testing.T) (as func(user string) string) {
	t.Helper()
	page, err := os.ReadFile("../../../docs/nats.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```")
	if len(blocks) < 2 {
		t.Fatal("docs/nats.md has no configuration")
	}
	for _, name := range []string{"SYS", "REGISTRY", "TOKENS", "OPERATOR", "SERVER"} {
		t.Setenv(name+"_PASSWORD", "secret")
	}
	r := jetstreamtest.Start(t, embedded.RegionConfig{Region: guarded, Adjust: func(o *server.Options) {
		if err := o.ProcessConfigString(blocks[1]); err != nil {
			t.Error(err)
		}
	}})
	return func(user string) string { return strings.Replace(r.ClientURL(), "://", "://"+user+":secret@", 1) }
}

// TestPermissions runs a token service, a regional server and an operator with the rights that
// docs/nats.md gives them, and then does as the server what only others may.
func TestPermissions(t *testing.T) {
	as := guardedRegion(t)
	all := jetstreamtest.Provisioned(t, as("tokens"))
	putServer(t, all, guarded)
	runGuarded(t, as("tokens"))

	ours := jetstreamtest.Dial(t, as(guarded+"-a"), func(c *jetstream.Config) { c.Role, c.Server = jetstream.RoleServer, guarded+"-a" })
	ask := runServer(t, ours)
	victim, other := startSession(t, ours, "ada"), startSession(t, ours, "bob")
	for _, s := range []api.TokensReply{victim, other} {
		jetstreamtest.Eventually(t, 5*time.Second, "the server serves the session", func() bool { return ask(s.AccessToken) == http.StatusNoContent })
	}
	for _, method := range []string{api.MethodRefresh, api.MethodToken} { // one instance alone
		_, err := ours.Call(t.Context(), api.InstanceSubject(service.TokensMethod("global", guarded, method), "gone"), nil, nil)
		if err == nil || !strings.Contains(err.Error(), "nobody serves") {
			t.Errorf("an instance that is gone: %v", err)
		}
	}
	keepsKeys(t, ours)
	t.Run("the server may not", func(t *testing.T) { attack(t, ours, victim.SessionID) })
	if got := ask(victim.AccessToken); got != http.StatusNoContent {
		t.Errorf("after all that the session is answered %d", got)
	}

	operator := jetstreamtest.Dial(t, as("operator"), func(c *jetstream.Config) { c.Inbox = "operator" })
	deaf(t, operator, "berth.v1.rpc.>", "_INBOX_global.>", "$KV.berth_sessions.>")
	var list tokens.SessionsReply
	callTokens(t, operator, tokens.MethodSessions, tokens.SessionsRequest{}, &list)
	if len(list.Sessions) != 2 {
		t.Errorf("an operator sees %+v", list)
	}
	if _, err := operator.Servers().Load(t.Context()); err != nil {
		t.Errorf("an operator reads the servers: %v", err)
	}
	if _, err := operator.DocumentsCaller().Call(t.Context(), residency.Subject(guarded, residency.MethodSet), []byte(`{"org":"acme","takeover":"strict"}`)); err != nil {
		t.Errorf("an operator changes an organization: %v", err)
	}
	if _, err := operator.DocumentsCaller().Call(t.Context(), policy.Subject(guarded, policy.MethodSet), []byte(`{"document":"version: 1"}`)); err != nil {
		t.Errorf("an operator changes the policy: %v", err)
	}
	for stream, kind := range map[string]events.Kind{jetstream.StreamEvents: events.KindDecision, jetstream.StreamViews: events.KindSight} {
		n := 0
		subject := events.Subject{Kind: kind, Region: guarded}.Filter()
		jetstreamtest.Eventually(t, 5*time.Second, "what is replayed of "+stream, func() bool {
			err := operator.Stored(t.Context(), stream, subject, time.Now().Add(-time.Minute), func(jetstream.Message, uint64) bool { n++; return true })
			if err != nil {
				t.Fatalf("an operator reads %s: %v", stream, err)
			}
			return n > 0
		})
	}
	var done tokens.RevokeReply
	callTokens(t, operator, tokens.MethodRevokeSessions, tokens.RevokeRequest{Sessions: []string{victim.SessionID}}, &done)
	if done.Ended != 1 {
		t.Errorf("an operator ends a session: %+v", done)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the server refuses it", func() bool { return ask(victim.AccessToken) == http.StatusUnauthorized })

	// An ended session does not come back, whatever the server has NATS write in its name.
	inject(t, ours, victim.SessionID)
	if status := refresh(t, all, victim); status == http.StatusOK {
		t.Error("an ended session was brought back")
	}
	if status := refresh(t, all, other); status != http.StatusOK {
		t.Errorf("the other session is refreshed with %d", status)
	}
}

// keepsKeys does what a guard of idempotency keys needs, and then what would have it forget the keys of others.
func keepsKeys(t *testing.T, ours *jetstream.Conn) {
	t.Helper()
	store := ours.Idempotency()
	key := idempotency.KeyOf(idempotency.Scope{Jurisdiction: "global", Holder: "s"}, "k")
	e := idempotency.Entry{Version: idempotency.EntryVersion, State: idempotency.StateBegun, Op: "op", ExpiresAt: time.Now().Add(time.Hour)}
	_, err := store.Put(t.Context(), key, e, 0)
	if err == nil {
		_, err = store.Copies(t.Context(), key)
	}
	if err != nil {
		t.Fatalf("the server keeps idempotency keys: %v", err)
	}
	rollup := nats.NewMsg("$KV." + jetstream.BucketIdempotency + ".global.other")
	rollup.Header.Set("Nats-Rollup", "all")
	if m, err := ours.NATS().RequestMsg(rollup, 5*time.Second); err != nil || !strings.Contains(string(m.Data), "rollup") {
		t.Errorf("a roll-up of all keys: %v, %v", m, err)
	}
	if got, _, err := store.Get(t.Context(), key); err != nil || got.Op != e.Op {
		t.Errorf("the key afterwards: %+v, %v", got, err)
	}
}

// attack does as the server's user what only operators, token services and NATS may.
func attack(t *testing.T, ours *jetstream.Conn, session string) {
	body, err := json.Marshal(map[string]any{"sessions": []string{session}})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range append(tokens.OperatorMethods(), "*", ">", "revoke_sessions.x",
		"adopt", "promise", "activate", "show", tokens.MethodKeysRotate, tokens.MethodKeysRetire, tokens.MethodKeysKnown) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		answer, err := ours.Call(ctx, service.TokensMethod("global", guarded, method), nil, body)
		cancel()
		if err == nil {
			t.Errorf("%s was answered: %s", method, answer.Data)
		}
	}
	revoked, err := events.Encode(&events.Revoked{Version: events.Version, Region: guarded, At: time.Now(), Sessions: []string{session}})
	if err != nil {
		t.Fatal(err)
	}
	nc := ours.NATS()
	for subject, data := range map[string][]byte{
		"berth.v1.revoked." + guarded:                     revoked,
		"$KV.berth_sessions.global." + session:            []byte("{}"),
		"$JS.API.STREAM.PURGE.KV_berth_sessions":          nil,
		"$JS.API.STREAM.PURGE.KV_berth_idempotency":       nil,
		"$JS.API.STREAM.MSG.DELETE.KV_berth_idempotency":  nil,
		"$JS.API.STREAM.DELETE.KV_berth_sessions":         nil,
		"berth.v1.rpc.registry.global." + guarded + ".x":  nil,
		"berth.v1.rpc.orgs.global." + guarded + ".set":    nil,
		"berth.orgs." + guarded + ".other":                nil,
		"berth.v1.rpc.policy.global." + guarded + ".set":  nil,
		"berth.policy." + guarded + ".other":              nil,
		"$KV.berth_policy.placement":                      []byte("{}"),
		"$KV.berth_orgs.acme":                             []byte(`{"version":1,"org":"acme"}`),
		"berth.v1.lock." + guarded + ".other.released":    nil,
		"berth.v1.session." + guarded + ".revoked":        nil,
		"berth.v1.heartbeat." + guarded + ".other-server": nil,
	} {
		if err := nc.Publish(subject, data); err != nil {
			t.Error(err)
		}
		if err := nc.Flush(); err != nil {
			t.Error(err)
		}
		violation(t, ours, subject)
	}
	for _, request := range []string{
		"$JS.API.STREAM.MSG.GET.KV_berth_sessions", "$JS.API.STREAM.INFO.KV_berth_sessions",
		"$JS.API.CONSUMER.CREATE.KV_berth_sessions.x.$KV.berth_sessions.>", "$JS.API.CONSUMER.CREATE.BERTH_EVENTS.x.berth.v1.session.>",
		"$JS.API.CONSUMER.CREATE.BERTH_EVENTS.x.berth.v1.decision.>", "$JS.API.CONSUMER.CREATE.BERTH_VIEWS.x.berth.v1.sight.>",
	} {
		if m, err := nc.Request(request, []byte(`{"last_by_subj":"$KV.berth_sessions.global.`+session+`"}`), 200*time.Millisecond); err == nil {
			t.Errorf("%s: %s", request, m.Data)
		}
	}
	deaf(t, ours, "berth.v1.session.>", "$KV.berth_sessions.>", "berth.v1.rpc.tokens.>", "_INBOX_global.>", "_INBOX_global.other.>")
	inject(t, ours, session)
}

// violation wants NATS to have refused the subject last.
func violation(t *testing.T, conn *jetstream.Conn, subject string) {
	t.Helper()
	if err := conn.NATS().LastError(); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(`"`+subject+`"`)) {
		t.Errorf("%s: the last refusal is %v", subject, err)
	}
}

// deaf tries to listen where others speak.
func deaf(t *testing.T, conn *jetstream.Conn, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		_, err := conn.NATS().SubscribeSync(subject)
		if err == nil {
			err = conn.Flush(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		violation(t, conn, subject)
	}
}

// inject asks what the server may ask, with the session's key as the place for the answer: NATS
// and services answer with their own rights.
func inject(t *testing.T, ours *jetstream.Conn, session string) {
	t.Helper()
	key := "$KV.berth_sessions.global." + session
	for _, request := range []string{service.TokensMethod("global", guarded, api.MethodServers), "$JS.API.INFO"} {
		for _, reply := range []string{key, service.TokensMethod("global", guarded, tokens.MethodRevokeSessions), "berth.v1.revoked." + guarded} {
			if request == "$JS.API.INFO" && reply == key && t.Name() != "TestPermissions" {
				continue // only done to a session that has ended: it would be out of service
			}
			if err := ours.NATS().PublishMsg(&nats.Msg{Subject: request, Reply: reply}); err != nil {
				t.Error(err)
			}
		}
	}
	if err := ours.NATS().Flush(); err != nil {
		t.Error(err)
	}
}

// runGuarded runs a token service until the test ends.
func runGuarded(t *testing.T, at string) {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "keys.pem")
	if err := tokens.GenerateKey(keys); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- service.RunTokens(ctx, service.TokensConfig{
			NATS: jetstream.Config{URL: at, Region: guarded}, Listen: "127.0.0.1:0", Issuer: issuer, KeyFile: keys,
			Ready: func(string, string) { close(ready) }, Log: jetstreamtest.Log(t),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
}

// runServer runs a regional server's agent until the test ends; the function tells how it
// answers a token.
func runServer(t *testing.T, conn *jetstream.Conn) (ask func(token string) int) {
	t.Helper()
	c := conn.Regional()
	a, err := sdk.New(sdk.Config{
		Server: guarded + "-a", Region: guarded, URL: "http://127.0.0.1:1", Capacity: 100, Issuer: issuer,
		Bus: c, Recent: c, Caller: c, Watcher: c, Log: jetstreamtest.Log(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	jetstreamtest.Eventually(t, 10*time.Second, "the server accepts requests", func() bool { return a.Ready() == nil })
	h := a.Lock(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	return func(token string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
}

// startSession starts one as the server's user.
func startSession(t *testing.T, conn *jetstream.Conn, subject string) (reply api.TokensReply) {
	t.Helper()
	callTokens(t, conn, api.MethodStart, api.StartRequest{Subject: subject, Claims: map[string]any{"role": "admin"}}, &reply)
	return reply
}

func refresh(t *testing.T, conn *jetstream.Conn, s api.TokensReply) (status int) {
	t.Helper()
	body := fmt.Sprintf(`{"refreshToken":%q}`, s.RefreshToken)
	answer, err := conn.Call(t.Context(), service.TokensMethod("global", guarded, api.MethodRefresh), nil, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Sscan(http.Header(answer.Header).Get(api.HeaderStatus), &status)
	return status
}

func callTokens(t *testing.T, conn *jetstream.Conn, method string, in, out any) {
	t.Helper()
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := conn.Call(t.Context(), service.TokensMethod("global", guarded, method), nil, data)
	if err == nil && http.Header(answer.Header).Get(api.HeaderStatus) != "200" {
		err = fmt.Errorf("answered %s", answer.Data)
	}
	if err == nil {
		err = json.Unmarshal(answer.Data, out)
	}
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}
