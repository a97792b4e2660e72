package sessions_test

import (
	"context"
	"testing"

	"github.com/berthhq/berth/sessions"
)

// TestRevoke: a revocation is durable when it returns, is written once, and nothing comes
// after it (V8).
func TestRevoke(t *testing.T) {
	for _, f := range []fault{sound, notWritten, wroteButErrored, conflicts, landsLate} {
		b := newBench(t)
		hit := false
		b.store.fault = func(_ context.Context, rec *sessions.Record) fault {
			if rec == nil || hit {
				return sound
			}
			hit = true
			return f
		}
		rec, _, err := b.owners[0].Revoke(t.Context(), key, sessions.Record{})
		if held := b.store.peek(key); err != nil || rec.State != sessions.StateRevoked || held.State != sessions.StateRevoked || held.Current() != at(1, 1) {
			t.Errorf("%s: %s, the store has %s at %s, %v", f, rec.State, held.State, held.Current(), err)
		}
		b.store.settle(true)
		b.untouched(func() {
			if _, _, err := b.owners[1].Revoke(t.Context(), key, sessions.Record{}); err != nil {
				t.Errorf("%s: again: %v", f, err)
			}
			b.redeem(at(1, 1), sessions.Ended)
			b.redeem(at(7, 7), sessions.Ended)
		})
	}
}

// TestRevokeLostRecord: the tokens of a session that the store has lost stay refused.
func TestRevokeLostRecord(t *testing.T) {
	b := newBench(t)
	b.store.entries = map[sessions.Key][]entry{}
	if _, _, err := b.owners[0].Revoke(t.Context(), key, rebuilt(at(2, 5))); err != nil {
		t.Fatal(err)
	}
	b.redeem(at(2, 5), sessions.Ended)
}

// TestRevokeBeatsRefresh: a refresh that was judged before a logout does not undo it.
func TestRevokeBeatsRefresh(t *testing.T) {
	b := newBench(t)
	b.decide = func() error {
		_, _, err := b.owners[1].Revoke(t.Context(), key, sessions.Record{})
		return err
	}
	b.redeem(at(1, 1), sessions.Ended)
}
