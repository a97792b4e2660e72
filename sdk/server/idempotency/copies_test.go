package idempotency_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

// copiesFunc is an idempotency.Copies.
type copiesFunc func(idempotency.Key) ([]idempotency.Entry, error)

func (f copiesFunc) Copies(_ context.Context, key idempotency.Key) ([]idempotency.Entry, error) {
	return f(key)
}

// TestAfterAMove: what another region has begun is never carried out again here, and what it has answered is answered here.
// Once known it needs no copy any more.
func TestAfterAMove(t *testing.T) {
	t.Parallel()
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	was := openSite(t, conn, nil, func(c *idempotency.Config) { c.Self.Region, c.Self.Server = "us-east-1", "us-east-1-a" })
	if got := was.post("k", "x"); got.Status != 201 {
		t.Fatalf("%+v", got)
	}
	key := idempotency.KeyOf(idempotency.Scope{Jurisdiction: events.GlobalJurisdiction, Holder: "s1"}, "k")
	done, _, err := was.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*idempotency.Entry)) idempotency.Entry {
		e := done
		change(&e)
		return e
	}
	begun := with(func(e *idempotency.Entry) {
		e.State, e.Reply, e.Deadline = idempotency.StateBegun, nil, time.Now().Add(time.Hour)
	})
	void := with(func(e *idempotency.Entry) { e.State, e.Reply = idempotency.StateVoid, nil })
	lost := with(func(e *idempotency.Entry) {
		e.State, e.Reply, e.Why = idempotency.StateLost, nil, "its reply was too long"
	})
	other := with(func(e *idempotency.Entry) { e.Fingerprint = "of another request" })
	tests := map[string]struct {
		copies []idempotency.Entry
		fault  error
		code   api.Code
		body   string
		runs   int64
		later  api.Code
	}{
		"nothing":        {nil, nil, "", "got x", 1, ""},
		"void":           {[]idempotency.Entry{void}, nil, "", "got x", 1, ""},
		"done":           {[]idempotency.Entry{done}, nil, "", "got x", 0, ""},
		"done somewhere": {[]idempotency.Entry{begun, done, void}, nil, "", "got x", 0, ""},
		"begun":          {[]idempotency.Entry{begun}, nil, api.CodeOutcomeUnknown, "", 0, api.CodeOutcomeUnknown},
		"lost":           {[]idempotency.Entry{lost}, nil, api.CodeOutcomeUnknown, "", 0, api.CodeOutcomeUnknown},
		"another":        {[]idempotency.Entry{other}, nil, api.CodeIdempotencyMismatch, "", 0, ""},
		"not readable":   {nil, errors.New("no leader"), api.CodeUnavailable, "", 0, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
			copies, fault := test.copies, test.fault
			s := openSite(t, conn, nil, func(c *idempotency.Config) {
				c.Copies = copiesFunc(func(k idempotency.Key) ([]idempotency.Entry, error) {
					if k != key {
						t.Errorf("asked for %s", k)
					}
					return copies, fault
				})
			})
			got := s.post("k", "x")
			if got.Code != test.code || test.body != "" && got.Body != test.body {
				t.Errorf("%+v", got)
			}
			s.wantRuns(test.runs)
			copies, fault = nil, nil // they have expired, or their region's edge is gone
			if got := s.post("k", "x"); got.Code != test.later || test.later == "" && got.Body != "got x" {
				t.Errorf("later: %+v", got)
			}
		})
	}
}
