package server_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/berthhq/berth/sdk/server"
)

// quiet is a ResponseWriter that keeps nothing.
type quiet struct{ header http.Header }

func (q *quiet) Header() http.Header         { return q.header }
func (q *quiet) Write(p []byte) (int, error) { return len(p), nil }
func (q *quiet) WriteHeader(int)             {}

// BenchmarkLock is one request with a token that was seen before, in turn of so many.
func BenchmarkLock(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			conn, s := newRegion(b)
			c := config(b, conn)
			c.Capacity = 10_000
			a, _ := start(b, c)
			served := 0
			h := a.Lock(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if _, ok := server.ClaimsFrom(r.Context()); ok {
					served++
				}
			}))
			w := &quiet{header: http.Header{}}
			requests := make([]*http.Request, tokens)
			for i := range requests {
				requests[i] = request(s.access(b, of(fmt.Sprintf("session-%d", i))))
				for served == 0 { // until the key has come
					h.ServeHTTP(w, requests[i])
				}
				h.ServeHTTP(w, requests[i])
			}
			served = 0
			b.ReportAllocs()
			b.ReportMetric(float64(len(requests[0].Header.Get("Authorization"))), "B/token")
			n := 0
			for b.Loop() {
				h.ServeHTTP(w, requests[n%tokens])
				n++
			}
			if served != n {
				b.Fatalf("%d of %d requests served", served, n)
			}
		})
	}
}

// BenchmarkLockFirstSight is a token that was not seen before: the signature is checked.
func BenchmarkLockFirstSight(b *testing.B) {
	conn, s := newRegion(b)
	c := config(b, conn)
	c.CachedTokens = 1
	a, _ := start(b, c)
	served := 0
	h := a.Lock(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	w := &quiet{header: http.Header{}}
	requests := make([]*http.Request, 1000)
	for i := range requests {
		requests[i] = request(s.access(b, of(fmt.Sprintf("session-%d", i))))
	}
	for served == 0 {
		h.ServeHTTP(w, requests[0])
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		h.ServeHTTP(w, requests[n%len(requests)])
		n++
	}
}
