package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// TestAdminSaysThatTheViewIsStale: a service with a stale view goes on, is ready, and says so.
func TestAdminSaysThatTheViewIsStale(t *testing.T) {
	var current atomic.Int64
	current.Store(time.Now().Add(-time.Minute).UnixNano())
	view := registry.NewView([]events.Server{{Server: "a", Region: "eu-west-1", State: events.StateUp}}, nil, &current, time.Now())
	var stale error
	a := admin{
		ready: func() error { return nil }, view: func() *registry.View { return view },
		fresh: func(time.Time) error { return stale },
	}
	for _, stale = range []error{nil, fmt.Errorf("%w: it is old", registry.ErrStale)} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/servers", nil))
		var got AdminServers
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Stale != (stale != nil) || got.AgeMS < 60_000 || len(got.Servers) != 1 {
			t.Errorf("%+v, want stale %v", got, stale != nil)
		}
		w = httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
		if w.Code != http.StatusNoContent {
			t.Errorf("readyz says %d", w.Code)
		}
	}
}
