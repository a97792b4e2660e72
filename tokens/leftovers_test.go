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

// looked is a store that remembers how often sessions were read.
type looked struct {
	sessions.Store
	mu  sync.Mutex
	got map[string]int
}

func (l *looked) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	if !seeksContact(key) {
		l.mu.Lock()
		l.got[key.Session]++
		l.mu.Unlock()
	}
	return l.Store.Get(ctx, key)
}

func (l *looked) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.got))
}

func (l *looked) times(session string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got[session]
}

// TestATakenSessionIsLookedAtOnce: a session that was taken over elsewhere is looked at when that is news, not at
// each of its refreshes.
func TestATakenSessionIsLookedAtOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	r := newRegions(t, dublin, singapore)
	r.kill[dublin]()
	r.kill[singapore]()
	store := &looked{Store: r.fleets[dublin].conn.Records(), got: map[string]int{}}
	r.start(t, dublin, func(c *tokens.Config) { c.Store = store })
	rec := sessions.Start(sessions.Record{
		Session: "taken", Jurisdiction: "global", Subject: "ada", StartedAt: time.Now().UTC(), ExpiresAt: time.Now().Add(time.Hour).UTC(),
	}, singapore, sessions.Answer{Server: "a", Region: singapore}, "op", time.Now().UTC())
	rec.Epoch.Number, rec.Taken = 2, []sessions.Stamp{{Epoch: events.Epoch{Number: 1, Region: "us-east-1"}, Gen: 1}}
	put := func(rec sessions.Record, rev sessions.Revision) sessions.Revision {
		t.Helper()
		rev, err := r.fleets[singapore].conn.Records().Put(t.Context(), rec, rev)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	named := func(name string) sessions.Record {
		other := rec
		other.Session = name
		return other
	}
	tries := 0
	jetstreamtest.Eventually(t, 10*time.Second, "copies to be followed", func() bool {
		tries++
		put(named(fmt.Sprint("before-", tries)), 0)
		return len(store.names()) > 0
	})
	var rev sessions.Revision
	for round := range 6 {
		rec.Gen++
		if round == 5 {
			rec.Epoch.Number++ // it is moved
		}
		rev = put(rec, rev)
		after := fmt.Sprint("after-", round)
		put(named(after), 0) // comes after it, and is looked at after it
		jetstreamtest.Eventually(t, 10*time.Second, after+" to be looked at", func() bool { return store.times(after) > 0 })
	}
	jetstreamtest.Eventually(t, 10*time.Second, "a new epoch to be looked at", func() bool { return store.times(rec.Session) >= 2 })
	if n := store.times(rec.Session); n > 2 {
		t.Errorf("looked at %d times, at two epochs", n)
	}
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
	from := taken("old-taken-from-a-region-that-is-gone")
	from.Taken[0].Epoch.Region = "us-east-1"
	put(from)
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

	store := &looked{Store: f.conn.Records(), got: map[string]int{}}
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
