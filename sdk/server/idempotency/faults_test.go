package idempotency_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

// faulty is a real store that can be made to fail, by the name of the fault.
type faulty struct {
	idempotency.Store
	get, put atomic.Pointer[string]
}

// The faults.
const (
	fine     = ""
	away     = "nothing reaches it"
	deaf     = "it writes, and the caller hears nothing"
	deafOnce = "it writes once, and the caller hears nothing"
)

func (f *faulty) set(get, put string) { f.get.Store(&get); f.put.Store(&put) }

func (f *faulty) Get(ctx context.Context, key idempotency.Key) (idempotency.Entry, idempotency.Revision, error) {
	if *f.get.Load() == away {
		return idempotency.Entry{}, 0, idempotency.ErrUnavailable
	}
	return f.Store.Get(ctx, key)
}

func (f *faulty) Put(ctx context.Context, key idempotency.Key, e idempotency.Entry, expected idempotency.Revision) (idempotency.Revision, error) {
	fault := *f.put.Load()
	if fault == away {
		return 0, idempotency.ErrUnavailable
	}
	revision, err := f.Store.Put(ctx, key, e, expected)
	if fault == deafOnce {
		none := fine
		f.put.Store(&none)
	}
	if err == nil && fault != fine {
		return 0, idempotency.ErrUnavailable
	}
	return revision, err
}

// TestStoreFaults: what a client is told, and how often its request runs, if the store fails before or after the handler and
// is back for the retry.
func TestStoreFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		beforeGet, beforePut, afterGet, afterPut string
		first, retry, other                      string
	}{
		"none":                           {fine, fine, fine, fine, "200 1", "200 1", "200 1"},
		"away before":                    {away, away, fine, fine, "503 unavailable", "200 1", "200 1"},
		"deaf once before":               {fine, deafOnce, fine, fine, "200 1", "200 1", "200 1"},
		"deaf before, not readable":      {away, deaf, fine, fine, "503 unavailable", "200 1", "200 1"},
		"away after":                     {fine, fine, away, away, "200 1", "409 outcome_unknown", "409 idempotency_in_flight"},
		"deaf after":                     {fine, fine, fine, deaf, "200 1", "200 1", "200 1"},
		"deaf after, not readable":       {fine, fine, away, deaf, "200 1", "200 1", "200 1"},
		"not writable after, readable":   {fine, fine, fine, away, "200 1", "409 outcome_unknown", "409 idempotency_in_flight"},
		"deaf before, not written after": {fine, deafOnce, away, away, "200 1", "409 outcome_unknown", "409 idempotency_in_flight"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
			f := &faulty{Store: conn.Idempotency()}
			f.set(test.beforeGet, test.beforePut)
			var s *site
			s = openSite(t, conn, func(w http.ResponseWriter, _ *http.Request) {
				f.set(test.afterGet, test.afterPut)
				fmt.Fprint(w, s.ran.Load())
			}, func(c *idempotency.Config) { c.Store = f })
			other := openSite(t, conn, nil, func(c *idempotency.Config) { c.Self.Server = "b" })
			told := func(a answer) string {
				if a.Code == api.CodeUnavailable && a.Header.Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
				if a.Code != "" {
					return fmt.Sprint(a.Status, " ", a.Code)
				}
				return fmt.Sprint(a.Status, " ", a.Body)
			}
			if got := told(s.post("k", "x")); got != test.first {
				t.Errorf("first %q, want %q", got, test.first)
			}
			f.set(fine, fine)
			if got := told(s.post("k", "x")); got != test.retry {
				t.Errorf("retry %q, want %q", got, test.retry)
			}
			if got := told(other.post("k", "x")); got != test.other {
				t.Errorf("at another server %q, want %q", got, test.other)
			}
			s.wantRuns(1)
			other.wantRuns(0)
		})
	}
}

// TestAnotherServerAfterAFault: a server that cannot tell whether it has claimed a key leaves it to nobody else.
func TestAnotherServerAfterAFault(t *testing.T) {
	t.Parallel()
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	f := &faulty{Store: conn.Idempotency()}
	f.set(away, deaf)
	s := openSite(t, conn, nil, func(c *idempotency.Config) { c.Store = f })
	other := openSite(t, conn, nil, func(c *idempotency.Config) { c.Self.Server = "b" })
	if got := s.post("k", "x"); got.Code != api.CodeUnavailable {
		t.Errorf("%+v", got)
	}
	if got := other.post("k", "x"); got.Code != api.CodeIdempotencyInFlight {
		t.Errorf("%+v", got)
	}
	s.wantRuns(0)
	other.wantRuns(0)
}
