package tokens_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
)

// aged is a ledger in which the sessions named old were written two hours earlier.
type aged struct{ tokens.Ledger }

func (a aged) Scan(ctx context.Context, jurisdiction string, from uint64, fn func(tokens.Entry) bool) (uint64, error) {
	return a.Ledger.Scan(ctx, jurisdiction, from, func(e tokens.Entry) bool {
		if strings.HasPrefix(e.Record.Session, "old") {
			e.Written = e.Written.Add(-2 * time.Hour)
		}
		return fn(e)
	})
}

// looked is a store that remembers which sessions were read.
type looked struct {
	sessions.Store
	mu  sync.Mutex
	got map[string]bool
}

func (l *looked) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	if !seeksContact(key) {
		l.mu.Lock()
		l.got[key.Session] = true
		l.mu.Unlock()
	}
	return l.Store.Get(ctx, key)
}

func (l *looked) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.got))
}

// TestAStartLooksAtFew: of all that the region's bucket holds, a service that starts looks only at
// sessions that may be unsettled, by what the records and the copies say together.
func TestAStartLooksAtFew(t *testing.T) {
	r := newRegions(t, dublin, singapore)
	r.kill[dublin]()
	r.kill[singapore]()
	f := r.fleets[dublin]
	record := func(name string, state sessions.State, number uint64, region string) sessions.Record {
		rec := sessions.Start(sessions.Record{
			Session: name, Jurisdiction: "global", Subject: "ada", StartedAt: time.Now().UTC(), ExpiresAt: time.Now().Add(time.Hour).UTC(),
		}, region, sessions.Answer{Server: "a", Region: dublin}, "op-"+name, time.Now().UTC())
		rec.State, rec.Epoch = state, events.Epoch{Number: number, Region: region}
		return rec
	}
	write := func(region string, rec sessions.Record) {
		t.Helper()
		if _, err := r.fleets[region].conn.Records().Put(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	put := func(rec sessions.Record) { write(dublin, rec) }
	var copied []string
	putCopy := func(rec sessions.Record) {
		write(singapore, rec)
		copied = append(copied, rec.Session)
	}
	for i := range 50 {
		put(record(fmt.Sprint("old-moved-", i), sessions.StateMoved, 2, singapore))
		put(record(fmt.Sprint("old-active-", i), sessions.StateActive, 1, dublin))
	}
	put(record("old-revoked", sessions.StateRevoked, 1, dublin))
	putCopy(record("old-revoked", sessions.StateRevoked, 1, dublin))
	put(record("old-came-back", sessions.StateActive, 3, dublin)) // by a handover
	putCopy(record("old-came-back", sessions.StateMoved, 3, dublin))
	taken := func(name string) sessions.Record {
		rec := record(name, sessions.StateActive, 2, dublin)
		rec.Taken = []sessions.Stamp{{Epoch: events.Epoch{Number: 1, Region: singapore}, Gen: 1}}
		return rec
	}
	put(taken("old-taken-and-heard"))
	putCopy(record("old-taken-and-heard", sessions.StateMoved, 2, dublin))

	// These have to be looked at, whenever they were written, but for the first.
	put(record("young-moved", sessions.StateMoved, 2, singapore))
	prepared := record("old-prepared", sessions.StatePrepared, 2, dublin)
	prepared.Source = singapore
	put(prepared)
	put(taken("old-taken"))
	putCopy(record("old-taken", sessions.StateActive, 1, singapore))
	put(record("old-ended-elsewhere", sessions.StateActive, 1, dublin))
	putCopy(record("old-ended-elsewhere", sessions.StateRevoked, 1, dublin))
	put(record("old-lost", sessions.StateActive, 1, dublin))
	lost := record("old-lost", sessions.StateActive, 2, singapore)
	lost.Taken = []sessions.Stamp{{Epoch: events.Epoch{Number: 1, Region: dublin}, Gen: 1}}
	putCopy(lost)

	for _, session := range copied {
		r.awaitCopy(t, dublin, session, 1)
	}

	store := &looked{Store: f.conn.Records(), got: map[string]bool{}}
	r.start(t, dublin, func(c *tokens.Config) { c.Store, c.Ledger = store, aged{f.conn.Records()} })
	s := r.services[dublin]
	want := []string{"old-ended-elsewhere", "old-lost", "old-prepared", "old-taken", "young-moved"}
	jetstreamtest.Eventually(t, 10*time.Second, "all that is unsettled to be looked at", func() bool { return len(store.names()) >= len(want) })
	jetstreamtest.Eventually(t, 10*time.Second, "what can be settled to be settled", func() bool {
		return s.Unsettled() == 3 && f.record("old-ended-elsewhere").State == sessions.StateRevoked && f.record("old-lost").State == sessions.StateMoved
	})
	if diff := cmp.Diff(want, store.names()); diff != "" {
		t.Errorf("looked at (-want +got):\n%s", diff)
	}
}
