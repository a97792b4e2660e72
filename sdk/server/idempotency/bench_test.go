package idempotency_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
)

// BenchmarkOnce measures what the guard adds to a request: first is one with a new key, which is written twice, retry one
// that is replayed.
func BenchmarkOnce(b *testing.B) {
	store := jetstreamtest.Provisioned(b, jetstreamtest.Shared(b)).Idempotency()
	guard, err := idempotency.New(idempotency.Config{Self: self(), Store: store, Copies: store, Scope: byHeader})
	if err != nil {
		b.Fatal(err)
	}
	handler := guard.Once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "done") }))
	ask := func(key string) {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/orders", strings.NewReader("body"))
		r.Header.Set(idempotency.HeaderKey, key)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
	b.Run("first", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			ask(fmt.Sprint(b.N, "-", n))
		}
	})
	ask("one")
	b.Run("retry", func(b *testing.B) {
		for b.Loop() {
			ask("one")
		}
	})
}
