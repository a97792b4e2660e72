package tokens_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// nowhere is a store that takes every write and a bus that publishes nothing: what is left is
// the service itself.
type nowhere struct {
	sessions.Store
	tokens.Bus
	written int
}

func (n *nowhere) Begin(*sessions.Record, []byte, sessions.Revision) sessions.Pending { return n }

func (n *nowhere) Wait(context.Context) (sessions.Revision, error) {
	n.written++
	return sessions.Revision(n.written), nil
}

func (n *nowhere) Publish(context.Context, string, []byte) error { return nil }

// sink takes a reply.
type sink struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return s.body.Write(b) }
func (s *sink) WriteHeader(status int)      { s.status = status }

// BenchmarkRefresh is a refresh without HTTP, NATS and events: half of it is the signatures.
func BenchmarkRefresh(b *testing.B) {
	f := newFleet(b, jetstreamtest.Provisioned(b, jetstreamtest.Shared(b)), server("a", dublin, "https://a.example.com"), server("b", "us-east-1", "https://b.example.com"))
	n := &nowhere{Bus: f.conn}
	s := f.service(func(c *tokens.Config) { c.Store, c.Bus, c.Log = n, n, nil })
	start, err := json.Marshal(api.StartRequest{Subject: "ada@example.com", Org: "acme", Scope: "orders:read orders:write", Claims: map[string]any{"role": "member"}})
	if err != nil {
		b.Fatal(err)
	}
	_, data := s.Serve(b.Context(), api.MethodStart, nil, start)
	next := func(data []byte) string {
		_, rest, _ := strings.Cut(string(data), `"refreshToken":"`)
		token, _, ok := strings.Cut(rest, `"`)
		if !ok {
			b.Fatalf("no token in %s", data)
		}
		return token
	}
	token := next(data)
	w := &sink{header: http.Header{}}
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/refresh", nil)
	handler := s.Handler()
	b.ReportAllocs()
	for b.Loop() {
		body := `{"refreshToken":"` + token + `","closestServerId":"a","criticalTaskInProgress":false}`
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		w.body.Reset()
		clear(w.header)
		handler.ServeHTTP(w, r)
		token = next(w.body.Bytes())
	}
}
