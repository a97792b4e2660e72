package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// streams is an API of streams: each says that it has begun, and why it ends.
func streams(t *testing.T, a *server.Agent, options ...server.LockOption) string {
	t.Helper()
	s := httptest.NewServer(a.Lock(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun\n")
		_ = http.NewResponseController(w).Flush()
		child, cancel := context.WithTimeout(r.Context(), time.Minute) // as what a handler calls makes of it
		defer cancel()
		<-child.Done()
		var released *server.Released
		if !errors.As(context.Cause(child), &released) {
			_, _ = io.WriteString(w, "ended otherwise\n")
			return
		}
		_, _ = io.WriteString(w, string(released.Refusal.Code)+"\n")
	}), options...))
	t.Cleanup(s.Close)
	return s.URL
}

// stream is an open one.
type stream struct{ lines chan string }

func open(t *testing.T, url, token string) *stream {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	s := &stream{lines: make(chan string, 4)}
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	s.says(t, "begun")
	return s
}

func (s *stream) says(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s.lines:
		if got != want {
			t.Fatalf("the stream says %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("the stream does not say %q", want)
	}
}

// TestStreamsEndWithTheirSessions: those of a session that has left or ended end, after a while, and no others.
func TestStreamsEndWithTheirSessions(t *testing.T) {
	t.Parallel() // it mostly waits
	conn, key := newRegion(t)
	c := config(t, conn)
	c.OpenGrace = 200 * time.Millisecond
	a, _ := start(t, c)
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, key.access(t)) == "" })
	url := streams(t, a)
	left, ended, stays := open(t, url, key.access(t, of("left"))), open(t, url, key.access(t, of("ended"))), open(t, url, key.access(t, of("stays")))
	shadowed := open(t, streams(t, a, server.Enforce(false)), key.access(t, of("left")))

	began := time.Now()
	tell(t, conn, release("left", 5))
	tell(t, conn, revocation(region, "ended"))
	left.says(t, string(api.CodeLockedElsewhere))
	ended.says(t, string(api.CodeSessionRevoked))
	if took := time.Since(began); took < c.OpenGrace {
		t.Errorf("ended after %s, which a request in progress is to be allowed: %s", took, c.OpenGrace)
	}
	for name, s := range map[string]*stream{"of another session": stays, "where nothing is enforced": shadowed} {
		select {
		case line := <-s.lines:
			t.Errorf("a stream %s says %q", name, line)
		default:
		}
	}
	if n := a.Open(); n != 1 {
		t.Errorf("%d requests are waited for, want that of the session that stays", n)
	}
}

// TestAdmittedIsAContext: it ends with the request, whoever waits for it, and what it holds for that goes with it.
func TestAdmittedIsAContext(t *testing.T) {
	conn, key := newRegion(t)
	a, _ := start(t, config(t, conn))
	shop := serve(t, a)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool { return shop.code(t, key.access(t)) == "" })
	type mine struct{}
	var kept context.Context
	handler := a.Lock(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		kept = ctx
		if ctx.Err() != nil || ctx.Value(mine{}) != "yes" || ctx.Value("no") != nil {
			t.Errorf("error %v, value %v", ctx.Err(), ctx.Value(mine{}))
		}
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				child, cancel := context.WithCancel(ctx)
				cancel()
				<-child.Done()
				select {
				case <-ctx.Done():
					t.Error("it has ended with a child")
				default:
				}
			})
		}
		wait.Wait()
		if claims, ok := server.ClaimsFrom(ctx); !ok || claims.Subject != "ada" || ctx.Value(mine{}) != "yes" {
			t.Errorf("while somebody waits: claims %+v, value %v", claims, ctx.Value(mine{}))
		}
		if a.Open() != 1 {
			t.Errorf("%d requests are waited for, want 1", a.Open())
		}
	}))
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), mine{}, "yes"))
	r := request(key.access(t)).WithContext(parent)
	handler.ServeHTTP(httptest.NewRecorder(), r)
	if n := a.Open(); n != 0 {
		t.Errorf("%d requests are waited for after the end", n)
	}
	cancel()
	<-kept.Done()
	if !errors.Is(kept.Err(), context.Canceled) || a.Open() != 0 {
		t.Errorf("after the end: %v, %d waited for", kept.Err(), a.Open())
	}
}

// TestShadow: what would be refused is served, counted and logged; single routes are enforced all the same.
func TestShadow(t *testing.T) {
	conn, key := newRegion(t)
	c := config(t, conn)
	c.Shadow = true
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	a, stop := start(t, c)
	mux := http.NewServeMux()
	says := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, ok := server.ClaimsFrom(r.Context())
		if ok {
			_, _ = io.WriteString(w, claims.SessionID)
		}
	})
	mux.Handle("GET /open", a.Lock(says))
	mux.Handle("GET /orders", a.Lock(says, server.Enforce(true)))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	jetstreamtest.Eventually(t, 5*time.Second, "the key has come", func() bool {
		return ask(t, "GET", s.URL+"/orders", nil, bearer(key.access(t))...).StatusCode == http.StatusOK
	})
	away := key.access(t, of("away"), func(c *api.AccessClaims) { c.ServerID = region + "-b" })
	for _, test := range []struct {
		name    string
		headers []string
		status  int
		session string
	}{
		{"a good token", bearer(key.access(t, of("here"))), 200, "here"},
		{"of another server", bearer(away), 421, "away"},
		{"no token", nil, 401, ""},
		{"nonsense", bearer("a.b.c"), 401, ""},
	} {
		if r := ask(t, "GET", s.URL+"/open", nil, test.headers...); r.StatusCode != 200 || string(r.body) != test.session {
			t.Errorf("%s: %d %q, want it served as %q", test.name, r.StatusCode, r.body, test.session)
		}
		if r := ask(t, "GET", s.URL+"/orders", nil, test.headers...); r.StatusCode != test.status {
			t.Errorf("%s where it is enforced: %d, want %d", test.name, r.StatusCode, test.status)
		}
	}
	for range 100 {
		ask(t, "GET", s.URL+"/open", nil)
	}
	s.Close()
	stop()
	lines := strings.Count(log.String(), "request is served that would be refused")
	if lines < 10 || lines > 20 || !strings.Contains(log.String(), "code=locked_elsewhere") || !strings.Contains(log.String(), `route="GET /open"`) {
		t.Errorf("%d lines of 103:\n%s", lines, log.String())
	}
	if strings.Contains(log.String(), away) {
		t.Error("the log has a token")
	}
}
