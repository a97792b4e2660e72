package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	s := openOne(t, nil, nil)
	first, again := s.post(`"k1"`, "body"), s.post("k1", "body")
	if first.Status != http.StatusCreated || first.Body != "got body" || first.Replayed || first.Header.Get("Set-Cookie") == "" {
		t.Errorf("first: %+v", first)
	}
	if again.Status != http.StatusCreated || again.Body != "got body" || !again.Replayed {
		t.Errorf("again: %+v", again)
	}
	if l, c := again.Header.Get("Location"), again.Header.Get("Set-Cookie"); l != "/orders/1" || c != "" {
		t.Errorf("again: location %q, cookie %q", l, c)
	}
	if a, b := first.Header.Get("Content-Type"), again.Header.Get("Content-Type"); a != b || a == "" {
		t.Errorf("content types %q, %q", a, b)
	}
	s.wantRuns(1)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := openOne(t, nil, func(c *idempotency.Config) { c.Require, c.MaxBody = true, 100 })
	s.ask(http.MethodPost, "/orders?a=1", "body", "Idempotency-Key: k1")
	s.wantRuns(1)
	tests := map[string]struct {
		method, path, body string
		headers            []string
		code               api.Code
		status             int
	}{
		"no key":          {"POST", "/orders", "", nil, api.CodeIdempotencyKeyRequired, 400},
		"no key on PATCH": {"PATCH", "/orders", "", nil, api.CodeIdempotencyKeyRequired, 400},
		"two keys":        {"POST", "/orders", "", []string{"Idempotency-Key: a", "Idempotency-Key: b"}, api.CodeInvalidRequest, 400},
		"empty":           {"POST", "/orders", "", []string{`Idempotency-Key: ""`}, api.CodeInvalidRequest, 400},
		"nothing in it":   {"POST", "/orders", "", []string{`Idempotency-Key: `}, api.CodeInvalidRequest, 400},
		"no end":          {"POST", "/orders", "", []string{`Idempotency-Key: "a`}, api.CodeInvalidRequest, 400},
		"more after it":   {"POST", "/orders", "", []string{`Idempotency-Key: "a"b`}, api.CodeInvalidRequest, 400},
		"parameters":      {"POST", "/orders", "", []string{`Idempotency-Key: "a";b=1`}, api.CodeInvalidRequest, 400},
		"bad escape":      {"POST", "/orders", "", []string{`Idempotency-Key: "a\b"`}, api.CodeInvalidRequest, 400},
		"bare space":      {"POST", "/orders", "", []string{`Idempotency-Key: a b`}, api.CodeInvalidRequest, 400},
		"beyond ASCII":    {"POST", "/orders", "", []string{`Idempotency-Key: "ä"`}, api.CodeInvalidRequest, 400},
		"too long":        {"POST", "/orders", "", []string{"Idempotency-Key: " + strings.Repeat("x", 256)}, api.CodeInvalidRequest, 400},
		"large body":      {"POST", "/orders", strings.Repeat("x", 101), []string{"Idempotency-Key: large"}, api.CodeTooLarge, 413},
		"other body":      {"POST", "/orders?a=1", "bodies", []string{"Idempotency-Key: k1"}, api.CodeIdempotencyMismatch, 422},
		"other path":      {"POST", "/others?a=1", "body", []string{"Idempotency-Key: k1"}, api.CodeIdempotencyMismatch, 422},
		"other query":     {"POST", "/orders?a=2", "body", []string{"Idempotency-Key: k1"}, api.CodeIdempotencyMismatch, 422},
		"other method":    {"PATCH", "/orders?a=1", "body", []string{"Idempotency-Key: k1"}, api.CodeIdempotencyMismatch, 422},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.ask(test.method, test.path, test.body, test.headers...)
			if got.Status != test.status || got.Code != test.code {
				t.Errorf("%d %s, want %d %s: %s", got.Status, got.Code, test.status, test.code, got.Body)
			}
		})
	}
	s.wantRuns(1)
}

func TestPasses(t *testing.T) {
	t.Parallel()
	s := openOne(t, nil, func(c *idempotency.Config) { c.MaxBody = 10 })
	long := strings.Repeat("x", 255)
	for _, test := range []struct {
		method, body string
		headers      []string
		key          bool
	}{
		{"GET", "", []string{"Idempotency-Key: k"}, false},
		{"PUT", strings.Repeat("x", 100), []string{"Idempotency-Key: k"}, false},
		{"POST", strings.Repeat("x", 100), nil, false},
		{"POST", strings.Repeat("x", 10), []string{"Idempotency-Key: " + long}, true},
		{"PATCH", "", []string{`Idempotency-Key: "a \"b\" \\ c"`}, true},
		{"POST", "", []string{`Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324`}, true},
	} {
		before := s.ran.Load()
		for range 2 {
			if got := s.ask(test.method, "/orders", test.body, test.headers...); got.Status != 201 || !strings.HasSuffix(got.Body, test.body) {
				t.Errorf("%s %v: %+v", test.method, test.headers, got)
			}
		}
		want := int64(2)
		if test.key {
			want = 1
		}
		if n := s.ran.Load() - before; n != want {
			t.Errorf("%s %v: ran %d times, want %d", test.method, test.headers, n, want)
		}
	}
}

// TestOthersReplies: one session's key says nothing to another.
func TestOthersReplies(t *testing.T) {
	t.Parallel()
	s := openOne(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "for ", r.Header.Get("Session")) }, nil)
	for _, session := range []string{"ada", "eve", "ada"} {
		if got := s.ask("POST", "/", "", "Idempotency-Key: 1", "Session: "+session); got.Body != "for "+session {
			t.Errorf("%s got %q", session, got.Body)
		}
	}
	s.wantRuns(2)
}

// TestOneKeyAtOnce: of many requests with one key at several servers of a region exactly one runs, and who comes later has
// its reply.
func TestOneKeyAtOnce(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Shared(t)
	conn := jetstreamtest.Provisioned(t, url)
	var ran atomic.Int64
	var sites []*site
	for i := range 2 {
		sites = append(sites, openSite(t, conn, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, ran.Add(1))
		}, func(c *idempotency.Config) { c.Self.Server = fmt.Sprint("s", i) }))
	}
	for round := range 5 {
		ran.Store(0)
		key := fmt.Sprint("round-", round)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for {
					got, err := sites[i%2].try(t.Context(), "POST", "/", "x", "Idempotency-Key: "+key)
					switch {
					case err != nil:
						t.Error(err)
						return
					case got.Code == api.CodeIdempotencyInFlight && got.Status == 409:
						if got.Header.Get("Retry-After") != "1" {
							t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
							return
						}
						time.Sleep(10 * time.Millisecond) // a client waits longer
						continue
					case got.Status != 200 || got.Body != "1":
						t.Errorf("%+v", got)
					}
					return
				}
			})
		}
		wg.Wait()
		if n := ran.Load(); n != 1 {
			t.Fatalf("round %d: ran %d times", round, n)
		}
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	begun, go_ := make(chan struct{}), make(chan struct{})
	slow := openSite(t, conn, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-go_
		fmt.Fprint(w, "slow")
	}, func(c *idempotency.Config) { c.Deadline = time.Second })
	var gone atomic.Bool
	other := openSite(t, conn, nil, func(c *idempotency.Config) {
		c.Self.Server, c.Gone = "b", func(o idempotency.Owner) bool { return gone.Load() && o == self() }
	})
	reborn := openSite(t, conn, nil, func(c *idempotency.Config) { c.Self.Boot = "boot-2" })
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := slow.post("k", "x"); got.Body != "slow" || got.Status != 200 {
			t.Errorf("%+v", got)
		}
	})
	<-begun
	want := func(s *site, body string, code api.Code) {
		t.Helper()
		if got := s.post("k", body); got.Code != code {
			t.Errorf("%d %s, want %s", got.Status, got.Code, code)
		}
	}
	want(slow, "x", api.CodeIdempotencyInFlight)
	want(slow, "y", api.CodeIdempotencyMismatch)
	want(other, "x", api.CodeIdempotencyInFlight)
	want(other, "y", api.CodeIdempotencyMismatch)
	want(reborn, "x", api.CodeOutcomeUnknown)
	gone.Store(true)
	want(other, "x", api.CodeOutcomeUnknown)
	gone.Store(false)
	jetstreamtest.Eventually(t, 5*time.Second, "the deadline passes", func() bool { return other.post("k", "x").Code == api.CodeOutcomeUnknown })
	want(slow, "x", api.CodeIdempotencyInFlight) // it knows that it is still at it
	close(go_)
	wg.Wait()
	for _, s := range []*site{slow, other, reborn} {
		if got := s.post("k", "x"); got.Body != "slow" || !got.Replayed {
			t.Errorf("%+v", got)
		}
	}
	slow.wantRuns(1)
	other.wantRuns(0)
	reborn.wantRuns(0)
}

// TestHowHandlersEnd: what a retry is told of each way in which a handler can end.
func TestHowHandlersEnd(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789", 20)
	tests := map[string]struct {
		handler      http.HandlerFunc
		first, retry string
		runs         int64
	}{
		"silence": {func(http.ResponseWriter, *http.Request) {}, "200 ", "200 replayed ", 1},
		"no":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, "403 no\n", "403 replayed no\n", 1},
		"broken":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "db", http.StatusInternalServerError) }, "500 db\n", "500 replayed db\n", 1},
		"no body": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "204 ", "204 replayed ", 1},
		"twice":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, "201 ", "201 replayed ", 1},
		"early":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, "201 ", "201 replayed ", 1},
		"in pieces": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "a")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "b")
		}, "200 ab", "200 replayed ab", 1},
		"long": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, big[:60]); fmt.Fprint(w, big[60:]) }, "200 " + big, "409 outcome_unknown", 1},
		"long head": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", strings.Repeat("x", 20_000))
			fmt.Fprint(w, "ok")
		}, "200 ok", "409 outcome_unknown", 1},
		"panic": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", "409 outcome_unknown", 1},
		"late panic": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "EOF", "409 outcome_unknown", 1},
		"nothing done": {func(w http.ResponseWriter, r *http.Request) {
			idempotency.NothingDone(r.Context())
			http.Error(w, "later", http.StatusServiceUnavailable)
		}, "503 later\n", "503 later\n", 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openOne(t, test.handler, func(c *idempotency.Config) { c.MaxReply = 100 })
			told := func() string {
				got, err := s.try(t.Context(), "POST", "/", "x", "Idempotency-Key: k")
				switch {
				case err != nil:
					return err.Error()[strings.LastIndexByte(err.Error(), ' ')+1:]
				case got.Code != "":
					return fmt.Sprint(got.Status, " ", got.Code)
				case got.Replayed:
					return fmt.Sprint(got.Status, " replayed ", got.Body)
				}
				return fmt.Sprint(got.Status, " ", got.Body)
			}
			if got := told(); got != test.first {
				t.Errorf("first %q, want %q", got, test.first)
			}
			for range 2 {
				if got := told(); got != test.retry {
					t.Errorf("retry %q, want %q", got, test.retry)
				}
				if test.runs > 1 {
					break
				}
			}
			s.wantRuns(test.runs)
		})
	}
}

// TestHangUp: the client goes while its request is served.
func TestHangUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		write bool
		want  string
	}{"the handler goes on": {true, "200 "}, "the handler gives up": {false, "409 outcome_unknown"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun, ended := make(chan struct{}), make(chan struct{})
			s := openOne(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				close(begun)
				<-r.Context().Done()
				if test.write {
					w.WriteHeader(200)
				}
			}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-begun; cancel() }()
			if _, err := s.try(ctx, "POST", "/", "", "Idempotency-Key: k"); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			<-ended
			var got answer
			jetstreamtest.Eventually(t, 5*time.Second, "it is settled", func() bool {
				got = s.ask("POST", "/", "", "Idempotency-Key: k")
				return got.Code != api.CodeIdempotencyInFlight
			})
			if told := fmt.Sprint(got.Status, " ", got.Code); told != test.want {
				t.Errorf("%q, want %q", told, test.want)
			}
			s.wantRuns(1)
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s := openOne(t, nil, func(c *idempotency.Config) { c.Metrics = reg })
	s.post("k", "x")
	s.post("k", "x")
	s.post("k", "y")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if diff := cmp.Diff(map[string]float64{"done": 1, "replayed": 1, "idempotency_mismatch": 1}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	store := (&jetstream.Conn{}).Idempotency()
	for want, change := range map[string]func(*idempotency.Config){
		"region and server": func(c *idempotency.Config) { c.Self.Server = "" },
		"boot is empty":     func(c *idempotency.Config) { c.Self.Boot = "" },
		"no store":          func(c *idempotency.Config) { c.Store = nil },
		"TTL 1s":            func(c *idempotency.Config) { c.TTL = time.Second },
		"deadline 25h":      func(c *idempotency.Config) { c.Deadline = 25 * time.Hour },
		"max body -1":       func(c *idempotency.Config) { c.MaxBody = -1 },
		"max reply 1048576": func(c *idempotency.Config) { c.MaxReply = 1 << 20 },
	} {
		c := idempotency.Config{Self: self(), Store: store}
		change(&c)
		if _, err := idempotency.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
