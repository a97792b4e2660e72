package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// paths serves the token paths of an agent that is not run: they need none of what Run does.
func paths(t *testing.T, prefix string, change ...func(*server.Config)) (*jetstream.Conn, *httptest.Server, *server.Agent) {
	t.Helper()
	conn := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	c := config(t, conn)
	for _, f := range change {
		f(&c)
	}
	a, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a.TokenPaths(prefix))
	t.Cleanup(s.Close)
	return conn, s, a
}

func TestEveryTokenPathIsPassedOn(t *testing.T) {
	for _, prefix := range []string{"/", "", "/berth", "/berth/", "a/b"} {
		t.Run(prefix, func(t *testing.T) {
			conn, s, _ := paths(t, prefix)
			base := s.URL + strings.TrimRight("/"+strings.Trim(prefix, "/"), "/")
			for _, route := range api.Routes() {
				service := answerRPC(t, conn, "global", route.RPC, always(httpAnswer(http.StatusTeapot, "hello", "Content-Type", "text/plain", "etag", `"v1"`)))
				r := ask(t, route.Method, base+route.Path, strings.NewReader("body of "+route.RPC))
				if r.StatusCode != http.StatusTeapot || string(r.body) != "hello" || r.Header.Get("Etag") != `"v1"` || r.Header.Get("Content-Type") != "text/plain" {
					t.Errorf("%s: %d %v %s", route.Path, r.StatusCode, r.Header, r.body)
				}
				if r.Header.Get(api.HeaderStatus) != "" {
					t.Errorf("%s: the status is also a header", route.Path)
				}
				if got := (<-service.requests).Data; string(got) != "body of "+route.RPC {
					t.Errorf("%s: the service got %q", route.Path, got)
				}
			}
			for _, wrong := range []struct{ method, path string }{{"GET", "/v1/refresh"}, {"POST", "/v1/nothing"}, {"DELETE", "/v1/servers"}} {
				r := ask(t, wrong.method, base+wrong.path, nil)
				if r.StatusCode != 400 || r.problem.Code != string(api.CodeInvalidRequest) {
					t.Errorf("%s %s: %d %s", wrong.method, wrong.path, r.StatusCode, r.body)
				}
			}
		})
	}
}

func TestHeadersOfARequestPassedOn(t *testing.T) {
	conn, s, _ := paths(t, "/")
	service := answerRPC(t, conn, "global", api.MethodServers, always(httpAnswer(http.StatusNotModified, "")))
	before := time.Now()
	r := ask(t, http.MethodGet, s.URL+"/v1/servers", nil,
		"Authorization", "Bearer x", "Accept", "application/json", "If-None-Match", `"v1"`, "User-Agent", "shop/1", "Content-Type", "text/plain",
		// What a client may not say for itself:
		"Cookie", "secret=1", api.HeaderFloor, "9.us-east-1", api.HeaderArrived, "mars", api.HeaderHops, "-100", api.HeaderClientAddress, "1.2.3.4",
		"X-Berth-Client-Location", "1,2", "Nats-Msg-Id", "x")
	if r.StatusCode != http.StatusNotModified || len(r.body) != 0 {
		t.Errorf("%d %q", r.StatusCode, r.body)
	}
	got := (<-service.requests).Header
	deadline, err := time.Parse(time.RFC3339Nano, got.Get(api.HeaderDeadline))
	if err != nil || deadline.Before(before.Add(9*time.Second)) || deadline.After(time.Now().Add(10*time.Second)) {
		t.Errorf("deadline %q, want 10 s from now", got.Get(api.HeaderDeadline))
	}
	got.Del(api.HeaderDeadline)
	want := nats.Header{
		"Authorization": {"Bearer x"}, "Accept": {"application/json"}, "If-None-Match": {`"v1"`}, "User-Agent": {"shop/1"}, "Content-Type": {"text/plain"},
		api.HeaderArrived: {region}, api.HeaderClientAddress: {"127.0.0.1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestClientAddressBehindABalancer(t *testing.T) {
	conn, s, _ := paths(t, "/", func(c *server.Config) {
		c.ClientAddress = func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }
	})
	service := answerRPC(t, conn, "global", api.MethodServers, always(httpAnswer(200, "")))
	ask(t, http.MethodGet, s.URL+"/v1/servers", nil, "X-Forwarded-For", "192.0.2.7")
	if got := (<-service.requests).Header.Get(api.HeaderClientAddress); got != "192.0.2.7" {
		t.Errorf("client address %q", got)
	}
}

func TestDeadlineOfTheClientCounts(t *testing.T) {
	conn, s, _ := paths(t, "/")
	service := answerRPC(t, conn, "global", api.MethodServers, always(httpAnswer(200, "")))
	soon := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339Nano)
	late := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	for _, test := range []struct{ name, sent, want string }{
		{"sooner", soon, soon}, {"too late", late, ""}, {"nonsense", "tomorrow", ""},
	} {
		ask(t, http.MethodGet, s.URL+"/v1/servers", nil, api.HeaderDeadline, test.sent)
		got := (<-service.requests).Header.Get(api.HeaderDeadline)
		if test.want != "" && got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if at, err := time.Parse(time.RFC3339Nano, got); err != nil || at.After(time.Now().Add(10*time.Second)) {
			t.Errorf("%s: %s, want at most 10 s from now", test.name, got)
		}
	}
	past := time.Now().Add(-time.Second).UTC().Format(time.RFC3339Nano)
	if r := ask(t, http.MethodGet, s.URL+"/v1/servers", nil, api.HeaderDeadline, past); r.StatusCode != 503 {
		t.Errorf("past its deadline: %d %s", r.StatusCode, r.body)
	}
	if n := len(service.requests); n != 0 {
		t.Errorf("%d requests were passed on past their deadline", n)
	}
}

// unverified is a JWT with the given payload and no signature of any worth.
func unverified(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2lnbmF0dXJl"
}

func TestJurisdictionAndFloorOfARequest(t *testing.T) {
	conn, good := newRegion(t)
	a, _ := start(t, config(t, conn))
	s := httptest.NewServer(a.TokenPaths("/berth"))
	t.Cleanup(s.Close)
	tell(t, conn, release("moved", 7))
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the release was heard", func() bool {
		return shop.code(t, good.access(t, of("moved"))) == api.CodeLockedElsewhere
	})
	if got := shop.code(t, good.access(t, of("here"), at(3, "us-east-1"))); got != "" {
		t.Fatal(got)
	}

	token := func(session, jurisdiction string) string {
		return unverified(fmt.Sprintf(`{"sid":%q,"jurisdiction":%q}`, session, jurisdiction))
	}
	body := func(token string) string { return fmt.Sprintf(`{"refreshToken":%q}`, token) }
	form := func(name, token string) string {
		return url.Values{name: {token}, "grant_type": {"refresh_token"}}.Encode()
	}
	tests := []struct {
		name, path, body            string
		method, jurisdiction, floor string
	}{
		{"a session that has left", "/v1/refresh", body(token("moved", "global")), api.MethodRefresh, "global", "7." + region},
		{"a session seen here", "/v1/refresh", body(token("here", "global")), api.MethodRefresh, "global", "3.us-east-1"},
		{"a session never seen", "/v1/refresh", body(token("unknown", "global")), api.MethodRefresh, "global", ""},
		{"another jurisdiction", "/v1/refresh", body(token("moved", "eu")), api.MethodRefresh, "eu", "7." + region},
		{"logout", "/v1/logout", body(token("moved", "eu")), api.MethodLogout, "eu", "7." + region},
		{"OAuth", "/oauth/token", form("refresh_token", token("moved", "eu")), api.MethodToken, "eu", "7." + region},
		{"OAuth, revocation", "/oauth/revoke", form("token", token("moved", "eu")), api.MethodRevoke, "eu", "7." + region},
		{"login names no session", "/v1/login", body(token("moved", "eu")), api.MethodLogin, "global", ""},
		{"a jurisdiction that would be another subject", "/v1/refresh", body(token("here", "eu.us-east-1.refresh")), api.MethodRefresh, "global", "3.us-east-1"},
		{"a wildcard", "/v1/refresh", body(token("here", "*")), api.MethodRefresh, "global", "3.us-east-1"},
		{"no JSON", "/v1/refresh", "nonsense", api.MethodRefresh, "global", ""},
		{"no JWT", "/v1/refresh", body("nonsense"), api.MethodRefresh, "global", ""},
		{"a JWT of nonsense", "/v1/refresh", body("a.b!.c"), api.MethodRefresh, "global", ""},
		{"claims of other types", "/v1/refresh", body(unverified(`{"sid":1,"jurisdiction":["eu"]}`)), api.MethodRefresh, "global", ""},
		{"no form", "/oauth/token", "%zz=1&refresh_token=%zz", api.MethodToken, "global", ""},
		{"nothing", "/v1/refresh", "", api.MethodRefresh, "global", ""},
	}
	services := map[string]*tokenService{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key := test.jurisdiction + "." + test.method
			if services[key] == nil {
				services[key] = answerRPC(t, conn, test.jurisdiction, test.method, always(httpAnswer(200, "{}")))
				t.Cleanup(func() { delete(services, key) })
			}
			r := ask(t, http.MethodPost, s.URL+"/berth"+test.path, strings.NewReader(test.body))
			if r.StatusCode != 200 {
				t.Fatalf("%d %s: passed on to another jurisdiction", r.StatusCode, r.body)
			}
			got := <-services[key].requests
			if floor := got.Header.Get(api.HeaderFloor); floor != test.floor {
				t.Errorf("floor %q, want %q", floor, test.floor)
			}
			if string(got.Data) != test.body {
				t.Errorf("body %q", got.Data)
			}
		})
	}
}

// scripted is a Caller that answers by a function and counts.
type scripted struct {
	calls  atomic.Int64
	answer func(ctx context.Context, call int64) (map[string][]string, []byte, error)
}

func (s *scripted) Call(ctx context.Context, _ string, _ map[string][]string, _ []byte) (map[string][]string, []byte, error) {
	return s.answer(ctx, s.calls.Add(1))
}

func TestTokenPathsWithoutAnAnswer(t *testing.T) {
	silent := func(ctx context.Context, _ int64) (map[string][]string, []byte, error) {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	nobody := func(context.Context, int64) (map[string][]string, []byte, error) {
		return nil, nil, nats.ErrNoResponders
	}
	odd := func(header map[string][]string) func(context.Context, int64) (map[string][]string, []byte, error) {
		return func(context.Context, int64) (map[string][]string, []byte, error) {
			return header, []byte("secret"), nil
		}
	}
	recovered := func(_ context.Context, call int64) (map[string][]string, []byte, error) {
		if call == 1 {
			return nil, nil, nats.ErrNoResponders
		}
		return map[string][]string{api.HeaderStatus: {"200"}}, []byte("{}"), nil
	}
	soon := func() string { return time.Now().Add(200 * time.Millisecond).UTC().Format(time.RFC3339Nano) }
	tests := []struct {
		name, method, path string
		answer             func(context.Context, int64) (map[string][]string, []byte, error)
		status             int
		calls              int64
	}{
		{"nobody there", "POST", "/v1/refresh", nobody, 503, 1},
		{"nobody there, asked again for it changes nothing", "GET", "/v1/servers", nobody, 503, 2},
		{"there the second time", "GET", "/v1/closestToMe", recovered, 200, 2},
		{"there the second time, but it may have been done", "POST", "/v1/refresh", recovered, 503, 1},
		{"no answer in time", "POST", "/v1/refresh", silent, 503, 1},
		{"no answer in time for a second try", "GET", "/v1/servers", silent, 503, 1},
		{"an answer without a status", "POST", "/v1/login", odd(map[string][]string{"Nats-Service-Error": {"oops"}}), 503, 1},
		{"an answer with an odd status", "POST", "/v1/login", odd(map[string][]string{api.HeaderStatus: {"99"}}), 503, 1},
		{"an answer with a status of words", "POST", "/v1/login", odd(map[string][]string{api.HeaderStatus: {"fine"}}), 503, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			caller := &scripted{answer: test.answer}
			_, s, _ := paths(t, "/", func(c *server.Config) { c.Caller = caller })
			r := ask(t, test.method, s.URL+test.path, nil, api.HeaderDeadline, soon())
			if r.StatusCode != test.status || caller.calls.Load() != test.calls {
				t.Fatalf("%d %s after %d calls, want %d after %d", r.StatusCode, r.body, caller.calls.Load(), test.status, test.calls)
			}
			if test.status == 503 && (r.problem.Code != string(api.CodeUnavailable) || r.Header.Get("Retry-After") != "1" || r.Header.Get("Cache-Control") != "no-store") {
				t.Errorf("%v %s", r.Header, r.body)
			}
			if strings.Contains(string(r.body), "nats") || strings.Contains(string(r.body), "secret") {
				t.Errorf("the inside shows: %s", r.body)
			}
		})
	}
}

// TestNobodyServes is the same on real NATS: an answer comes at once, not after a timeout.
func TestNobodyServes(t *testing.T) {
	_, s, _ := paths(t, "/")
	began := time.Now()
	r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader("{}"))
	if r.StatusCode != 503 || r.problem.Code != string(api.CodeUnavailable) {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestOAuthErrors(t *testing.T) {
	_, s, _ := paths(t, "/")
	tests := []struct {
		name, path, body string
		status           int
		want             string
	}{
		{"nobody there", "/oauth/token", "grant_type=refresh_token", 503, "temporarily_unavailable"},
		{"nobody there, revocation", "/oauth/revoke", "token=x", 503, "temporarily_unavailable"},
		{"too large", "/oauth/token", strings.Repeat("x", api.MaxBody+1), 413, "invalid_request"},
	}
	for _, test := range tests {
		r := ask(t, http.MethodPost, s.URL+test.path, strings.NewReader(test.body))
		var got struct{ Error string }
		if err := json.Unmarshal(r.body, &got); err != nil || r.StatusCode != test.status || got.Error != test.want {
			t.Errorf("%s: %d %s, want %d %s", test.name, r.StatusCode, r.body, test.status, test.want)
		}
		if r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", test.name, r.Header)
		}
	}
}

func TestBodies(t *testing.T) {
	conn, s, a := paths(t, "/")
	service := answerRPC(t, conn, "global", api.MethodLogin, always(httpAnswer(200, "{}")))
	if r := ask(t, http.MethodPost, s.URL+"/v1/login", strings.NewReader(strings.Repeat("x", api.MaxBody))); r.StatusCode != 200 {
		t.Errorf("the largest body: %d %s", r.StatusCode, r.body)
	}
	<-service.requests
	r := ask(t, http.MethodPost, s.URL+"/v1/login", strings.NewReader(strings.Repeat("x", api.MaxBody+1)))
	if r.StatusCode != 413 || r.problem.Code != string(api.CodeTooLarge) {
		t.Errorf("a body too large: %d %s", r.StatusCode, r.body)
	}
	broken := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/login", io.MultiReader(strings.NewReader("{"), iotest.ErrReader(errors.New("gone"))))
	w := httptest.NewRecorder()
	a.TokenPaths("/").ServeHTTP(w, broken)
	if w.Code != 400 {
		t.Errorf("a body that ends early: %d %s", w.Code, w.Body)
	}
	if n := len(service.requests); n != 0 {
		t.Errorf("%d of them were passed on", n)
	}
}

func TestStartSession(t *testing.T) {
	conn, _, a := paths(t, "/")
	req := api.StartRequest{Subject: "ada", Org: "acme", Scope: "orders", Claims: map[string]any{"tier": "gold"}}
	want := api.TokensReply{AccessToken: "a", RefreshToken: "r", SessionID: "s", Fallbacks: []api.Fallback{}}
	reply, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	service := answerRPC(t, conn, "global", api.MethodStart, always(httpAnswer(200, string(reply))))
	got, err := a.StartSession(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	asked := <-service.requests
	var body api.StartRequest
	if err := json.Unmarshal(asked.Data, &body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(req, body); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if asked.Header.Get(api.HeaderArrived) != region || asked.Header.Get(api.HeaderDeadline) == "" {
		t.Errorf("headers %v", asked.Header)
	}
}

func TestStartSessionFails(t *testing.T) {
	problem := `{"title":"x","status":400,"code":"invalid_request","detail":"body.subject: want 1 to 256 bytes","errors":[{"location":"body.subject","message":"want 1 to 256 bytes"}]}`
	ok := map[string][]string{api.HeaderStatus: {"200"}}
	tests := []struct {
		name   string
		req    api.StartRequest
		header map[string][]string
		body   string
		err    error
		want   api.Error
	}{
		{"nobody there", api.StartRequest{}, nil, "", nats.ErrNoResponders, api.Error{Code: api.CodeUnavailable, RetryAfter: 1}},
		{"refused", api.StartRequest{}, map[string][]string{api.HeaderStatus: {"400"}}, problem, nil, api.Error{
			Code: api.CodeInvalidRequest, Fields: []api.FieldError{{Location: "body.subject", Message: "want 1 to 256 bytes"}},
		}},
		{"told to wait", api.StartRequest{}, map[string][]string{api.HeaderStatus: {"503"}, "Retry-After": {"7"}}, `{"code":"no_healthy_server"}`, nil, api.Error{Code: api.CodeNoHealthyServer, RetryAfter: 7}},
		{"a refusal of nonsense", api.StartRequest{}, map[string][]string{api.HeaderStatus: {"500"}}, "oops", nil, api.Error{Code: api.CodeUnavailable, RetryAfter: 1}},
		{"a reply of nonsense", api.StartRequest{}, ok, "oops", nil, api.Error{Code: api.CodeUnavailable, RetryAfter: 1}},
		{"claims that are no JSON", api.StartRequest{Claims: map[string]any{"f": func() {}}}, ok, "{}", nil, api.Error{Code: api.CodeInvalidRequest}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, a := paths(t, "/", func(c *server.Config) {
				c.Caller = &scripted{answer: func(context.Context, int64) (map[string][]string, []byte, error) {
					return test.header, []byte(test.body), test.err
				}}
			})
			_, err := a.StartSession(t.Context(), test.req)
			var got *api.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			if got.Code != test.want.Code || got.RetryAfter != test.want.RetryAfter || !cmp.Equal(got.Fields, test.want.Fields) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
