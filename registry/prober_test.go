package registry_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/registry"
)

func TestProbe(t *testing.T) {
	var redirected atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /unwell", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	mux.HandleFunc("GET /elsewhere", func(http.ResponseWriter, *http.Request) { redirected.Store(true) })
	mux.HandleFunc("GET /hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("GET /hangs-midway", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("ok so far"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	prober := registry.NewProber(registry.ProberConfig{Timeout: 200 * time.Millisecond})
	for _, test := range []struct {
		url  string
		want string // a part of the error, empty for none
	}{
		{server.URL + "/healthz", ""},
		{server.URL + "/none", ""},
		{server.URL + "/unwell", "status 503"},
		{server.URL + "/not-there", "status 404"},
		{server.URL + "/moved", "status 302"},
		{server.URL + "/hangs", "deadline exceeded"},
		{server.URL + "/hangs-midway", "deadline exceeded"},
		{"ftp://" + strings.TrimPrefix(server.URL, "http://"), "unsupported protocol"},
		{"http://\n", "invalid control character"},
	} {
		t.Run(strings.TrimPrefix(test.url, server.URL), func(t *testing.T) {
			began := time.Now()
			err := prober.Probe(t.Context(), test.url)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("failed: %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want one with %q", err, test.want)
			case errors.Is(err, registry.ErrRefused):
				t.Errorf("%v is no refused connection", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if redirected.Load() {
		t.Error("a probe followed a redirect")
	}
}

func TestProbeRefused(t *testing.T) {
	err := registry.NewProber(registry.ProberConfig{}).Probe(t.Context(), refusing(t))
	if !errors.Is(err, registry.ErrRefused) {
		t.Errorf("%v, want ErrRefused", err)
	}
}

func TestProbeReadsLittle(t *testing.T) {
	written := make(chan int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		total := 0
		defer func() { written <- total }()
		for chunk := make([]byte, 32<<10); total < 1<<30; {
			n, err := w.Write(chunk)
			total += n
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	if err := registry.NewProber(registry.ProberConfig{}).Probe(t.Context(), server.URL); err != nil {
		t.Errorf("a long answer is a good one: %v", err)
	}
	// What the sockets hold has left the server, but hardly more.
	if got := <-written; got >= 64<<20 {
		t.Errorf("the server wrote %d bytes before the probe hung up", got)
	}
}

func TestProbeValidatesCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // it would tell of the refused handshake
	server.StartTLS()
	t.Cleanup(server.Close)
	err := registry.NewProber(registry.ProberConfig{}).Probe(t.Context(), server.URL)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("%v, want an unknown authority", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	if err := registry.NewProber(registry.ProberConfig{Roots: roots}).Probe(t.Context(), server.URL); err != nil {
		t.Errorf("with its authority: %v", err)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := registry.NewProber(registry.ProberConfig{Timeout: time.Minute}).Probe(ctx, server.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's end", err)
	}
}
