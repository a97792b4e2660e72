package idempotency_test

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

func TestMain(m *testing.M) {
	if os.Getenv(envNATS) != "" {
		killable()
	}
	jetstreamtest.Main(m)
}

// self is the process of a test's guard.
func self() idempotency.Owner {
	return idempotency.Owner{Region: jetstreamtest.SharedRegion, Server: "eu-west-1-a", Boot: "boot-1"}
}

// byHeader scopes a key by a header, as the lock does by a token.
func byHeader(r *http.Request) (idempotency.Scope, error) {
	return idempotency.Scope{Jurisdiction: events.GlobalJurisdiction, Holder: cmp.Or(r.Header.Get("Session"), "s1")}, nil
}

// site is a server of the region: a guard around a handler.
type site struct {
	t     testing.TB
	store *jetstream.Idempotency
	guard *idempotency.Guard
	url   string
	// client keeps its connections, so that many requests at once cost no new ones.
	client *http.Client
	// ran counts the handler's runs.
	ran atomic.Int64
}

// openSite serves handler, which may be nil, over the region's NATS.
func openSite(t testing.TB, conn *jetstream.Conn, handler http.HandlerFunc, change func(*idempotency.Config)) *site {
	t.Helper()
	s := &site{t: t, store: conn.Idempotency()}
	cfg := idempotency.Config{Self: self(), Store: s.store, Copies: s.store, Scope: byHeader, Log: jetstreamtest.Log(t)}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.guard, err = idempotency.New(cfg); err != nil {
		t.Fatal(err)
	}
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Location", "/orders/1")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write(append([]byte("got "), body...))
		}
	}
	srv := httptest.NewServer(s.guard.Once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ran.Add(1)
		handler(w, r)
	})))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	s.client = srv.Client()
	s.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return s
}

func openOne(t testing.TB, handler http.HandlerFunc, change func(*idempotency.Config)) *site {
	t.Helper()
	return openSite(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), handler, change)
}

// answer is a reply as the tests look at it.
type answer struct {
	Status   int
	Code     api.Code
	Body     string
	Replayed bool
	Header   http.Header
}

// ask sends a request; method, path, body and headers as "Name: value".
func (s *site) ask(method, path, body string, headers ...string) answer {
	s.t.Helper()
	a, err := s.try(s.t.Context(), method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *site) try(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	a := answer{Status: res.StatusCode, Body: string(data), Replayed: res.Header.Get(idempotency.HeaderReplayed) == "true", Header: res.Header}
	if res.Header.Get("Content-Type") == "application/problem+json" {
		var p api.Problem
		if err := json.Unmarshal(data, &p); err != nil {
			return a, err
		}
		a.Code = api.Code(p.Code)
	}
	return a, err
}

// post sends a POST with a key.
func (s *site) post(key, body string) answer {
	s.t.Helper()
	return s.ask(http.MethodPost, "/orders", body, "Idempotency-Key: "+key)
}

func (s *site) wantRuns(n int64) {
	s.t.Helper()
	if got := s.ran.Load(); got != n {
		s.t.Errorf("the handler ran %d times, want %d", got, n)
	}
}
