package server_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// quiet is a ResponseWriter that keeps nothing.
type quiet struct{ header http.Header }

func (q *quiet) Header() http.Header         { return q.header }
func (q *quiet) Write(p []byte) (int, error) { return len(p), nil }
func (q *quiet) WriteHeader(int)             {}

// BenchmarkLock is one request with a token that was seen before, in turn of so many. Beside
// it, as a floor, the least that a middleware can do with a token: look it up in a map, check
// its expiry and put its claims into the context.
func BenchmarkLock(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		conn, s := newRegion(b)
		c := config(b, conn)
		c.Log, c.Capacity = nil, 10_000
		a, stop := start(b, c)
		served := 0
		next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.Context().Value(floorKey{}) != nil {
				served++
			} else if _, ok := server.ClaimsFrom(r.Context()); ok {
				served++
			}
		})
		lock, floor := a.Lock(next), &mapLock{next: next, known: map[string]*api.AccessClaims{}}
		w := &quiet{header: http.Header{}}
		requests := make([]*http.Request, tokens)
		for i := range requests {
			session := of(fmt.Sprintf("session-%d", i))
			token := s.access(b, session)
			requests[i], floor.known[token] = request(token), goodClaims(session)
			for served == 0 { // until the key has come
				lock.ServeHTTP(w, requests[i])
			}
			lock.ServeHTTP(w, requests[i])
		}
		for _, test := range []struct {
			name    string
			handler http.Handler
		}{{"floor", floor}, {"lock", lock}} {
			b.Run(fmt.Sprintf("%s/tokens=%d", test.name, tokens), func(b *testing.B) {
				b.ReportAllocs()
				served = 0
				n := 0
				for b.Loop() {
					test.handler.ServeHTTP(w, requests[n%tokens])
					n++
				}
				if served != n {
					b.Fatalf("%d of %d requests served", served, n)
				}
			})
		}
		stop()
	}
}

// mapLock is the floor.
type mapLock struct {
	next  http.Handler
	mu    sync.RWMutex
	known map[string]*api.AccessClaims
}

type floorKey struct{}

func (m *mapLock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token := r.Header.Get("Authorization")[len("Bearer "):]
	m.mu.RLock()
	claims, ok := m.known[token]
	m.mu.RUnlock()
	if !ok || claims.ExpiresAt < now.Unix() {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	m.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), floorKey{}, claims)))
}

// BenchmarkLockFirstSight is a token that was not seen before: its signature is checked.
func BenchmarkLockFirstSight(b *testing.B) {
	conn, s := newRegion(b)
	c := config(b, conn)
	c.Log, c.CachedTokens = nil, 1
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
