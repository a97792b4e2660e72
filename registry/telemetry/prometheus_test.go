package telemetry_test

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/registry/telemetry"
)

// api serves the HTTP API of a Prometheus whose answer to a query is the query itself.
func api(t *testing.T, start func(*httptest.Server), check func(r *http.Request) (status int)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/query" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(check(r))
		_, _ = io.WriteString(w, r.FormValue("query"))
	}))
	start(s)
	t.Cleanup(s.Close)
	return s
}

func always(status int) func(*http.Request) int { return func(*http.Request) int { return status } }

// client returns a client of s.
func client(t *testing.T, s *httptest.Server, change ...func(*telemetry.PrometheusConfig)) *telemetry.Prometheus {
	t.Helper()
	c := telemetry.PrometheusConfig{URL: s.URL + "/"}
	for _, f := range change {
		f(&c)
	}
	p, err := telemetry.NewPrometheus(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrometheusAnswers(t *testing.T) {
	vector := `{"status":"success","data":{"resultType":"vector","result":[` +
		`{"metric":{"server":"a","x":"y"},"value":[1,"0.5"]},{"metric":{"node":"b"},"value":[1,"NaN"]}]}}`
	tests := []struct {
		name   string
		status int
		body   string
		want   []telemetry.Sample
		err    string
		fault  error // what is the query's
	}{
		{"a vector", 200, vector, []telemetry.Sample{{Server: "a", Value: 0.5}}, "", nil},
		{"nothing", 200, `{"status":"success","data":{"resultType":"vector","result":[]}}`, []telemetry.Sample{}, "", nil},
		{"a scalar", 200, `{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}`, nil, "gives a scalar, want an instant vector", telemetry.ErrInvalid},
		{"a range", 200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, nil, "gives a matrix", telemetry.ErrInvalid},
		{"a query in error", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:3: parse error"}`, nil, `prometheus says: invalid parameter "query": 1:3: parse error`, telemetry.ErrInvalid},
		{"one that cannot be worked out", 422, `{"status":"error","errorType":"execution","error":"many-to-many matching"}`, nil, "prometheus says: many-to-many matching", telemetry.ErrRefused},
		{"overload", 503, `{"status":"error","errorType":"timeout","error":"query timed out"}`, nil, "query timed out", nil},
		{"no permission", 401, "who\n are you", nil, "who are you", nil},
		{"a redirect", 302, "elsewhere", nil, "302", nil},
		{"nonsense", 200, "][", nil, "ask prometheus", nil},
		{"no end", 200, strings.Repeat(" ", 17<<20) + vector, nil, "larger than 16 MiB", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := api(t, (*httptest.Server).Start, always(test.status))
			s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			got, err := client(t, s).Query(t.Context(), "up")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || test.fault != nil && !errors.Is(err, test.fault) ||
					test.fault == nil && (errors.Is(err, telemetry.ErrInvalid) || errors.Is(err, telemetry.ErrRefused)) {
					t.Errorf("%v, want %q, the query's fault: %v", err, test.err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 2 && got[1].Server == "" && got[1].Value != got[1].Value {
				got = got[:1] // NaN is not equal to itself
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPrometheusIsAway(t *testing.T) {
	s := api(t, (*httptest.Server).Start, always(200))
	p := client(t, s)
	s.Close()
	if _, err := p.Query(t.Context(), "up"); err == nil || errors.Is(err, telemetry.ErrRefused) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, want that nobody listens", err)
	}
}

// TestPrometheusGetsTheToken: over TLS, only with the CA that was named, the token that the file
// holds at the time, and only to the host that was named.
func TestPrometheusGetsTheToken(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	want := "Bearer one"
	s := api(t, (*httptest.Server).StartTLS, func(r *http.Request) int {
		if got := r.Header.Get("Authorization"); got != want {
			t.Errorf("authorization %q, want %q", got, want)
		}
		return 200
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	const query = `{"status":"success","data":{"resultType":"vector","result":[]}}`
	p := client(t, s, func(c *telemetry.PrometheusConfig) { c.TokenFile, c.CAFile = token, ca })
	for _, renewed := range []string{"one", "two"} {
		write(renewed)
		want = "Bearer " + renewed
		if _, err := p.Query(t.Context(), query); err != nil {
			t.Error(err)
		}
	}
	stranger := client(t, s)
	if _, err := stranger.Query(t.Context(), query); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v, want that the certificate is not trusted", err)
	}
	write("")
	if _, err := p.Query(t.Context(), query); err == nil || !strings.Contains(err.Error(), "want one token") {
		t.Errorf("without a token: %v", err)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	write("one")
	s.Config.Handler = http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect)
	if _, err := p.Query(t.Context(), query); err == nil {
		t.Error("a redirect is an answer")
	}
}

func TestPrometheusConfigIsChecked(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []telemetry.PrometheusConfig{
		{URL: ""},
		{URL: "prometheus:9090"},
		{URL: "ftp://x"},
		{URL: "http://x", ServerLabel: "a-b"},
		{URL: "http://x", TokenFile: bad},
		{URL: "http://x", TokenFile: "/nowhere"},
		{URL: "http://x", CAFile: bad},
		{URL: "http://x", CAFile: "/nowhere"},
	} {
		if _, err := telemetry.NewPrometheus(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}
