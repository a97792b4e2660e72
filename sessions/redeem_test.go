package sessions_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// TestOneTokenManyTabs: 32 requests redeem one token at once on all services; one of them
// writes, all get the same tokens. Then the line goes on as if there had been one.
func TestOneTokenManyTabs(t *testing.T) {
	b := newBench(t)
	const tabs = 32
	outcomes := make([]sessions.Outcome, tabs)
	errs := make([]error, tabs)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range tabs {
		wg.Go(func() {
			<-begin
			outcomes[i], errs[i] = b.owners[i%services].Refresh(t.Context(), sessions.Request{Key: key, Token: at(1, 1)}, b)
		})
	}
	close(begin)
	wg.Wait()
	written := 0
	for i, out := range outcomes {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if out.Written {
			written++
		}
		if diff := cmp.Diff(outcomes[0].Record, out.Record); diff != "" {
			t.Errorf("tab %d got another answer (-first +this):\n%s", i, diff)
		}
	}
	if written != 1 {
		t.Errorf("%d requests wrote, want one", written)
	}

	if got := b.redeem(at(1, 2), sessions.Rotate); got != at(1, 3) {
		t.Errorf("the successor gives %s", got)
	}
	b.after(inside)
	b.untouched(func() { b.redeem(at(1, 1), sessions.Superseded) })
	b.after(outside - inside)
	b.redeem(at(1, 1), sessions.Reused)
	b.untouched(func() { b.redeem(at(1, 3), sessions.Ended) })
}

// TestLostReply: the reply to a refresh is lost; the client repeats it inside the window and
// outside, and is never logged out (V1).
func TestLostReply(t *testing.T) {
	for _, pause := range []time.Duration{0, inside, outside, 31 * time.Second, time.Hour} {
		b := newBench(t)
		lost := b.redeem(at(1, 1), sessions.Rotate)
		b.after(pause)
		want := sessions.Replay
		if pause >= sessions.Window {
			want = sessions.Supersede
		}
		got := b.redeem(at(1, 1), want)
		if (got == lost) != (want == sessions.Replay) {
			t.Errorf("after %s: %s, the lost one was %s", pause, got, lost)
		}
		next := b.redeem(got, sessions.Rotate)
		b.redeem(next, sessions.Rotate)
	}
}

// TestDeadSuccessor: whoever caught the lost reply and presents it after the client has
// superseded it ends the session, also when the supersede was a move.
func TestDeadSuccessor(t *testing.T) {
	for _, to := range []string{"a", "b"} {
		b := newBench(t)
		caught := b.redeem(at(1, 1), sessions.Rotate)
		b.after(outside)
		b.to = to
		b.redeem(at(1, 1), sessions.Supersede)
		if rec := b.store.peek(key); rec.Dead != caught || rec.Grace != at(1, 1) {
			t.Errorf("to %s: dead %s, grace %s", to, rec.Dead, rec.Grace)
		}
		b.redeem(caught, sessions.Reused)
	}
}

// TestForcedMove: the answered server dies inside the window. The repeat is told of another
// one at a higher epoch, and a second tab with the first answer follows it (V9).
func TestForcedMove(t *testing.T) {
	b := newBench(t)
	first := b.redeem(at(1, 1), sessions.Rotate)
	b.after(inside)
	b.dead = true

	b.to = "none"
	b.untouched(func() {
		if _, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, errNoServer) {
			t.Errorf("no other server: %v", err)
		}
	})
	b.to = ""
	b.untouched(func() {
		if out, err := b.ask(sessions.Request{Token: at(1, 1)}); err == nil {
			t.Errorf("a decision to stay is taken for a move: %s", out.Record.Current())
		}
	})
	b.to = "b"
	moved := b.redeem(at(1, 1), sessions.Supersede)
	if want := at(2, 3); moved != want {
		t.Errorf("moved to %s, want %s", moved, want)
	}
	if rec := b.store.peek(key); !rec.Dead.IsZero() || rec.Grace != at(1, 1) || rec.Server != "b" {
		t.Errorf("dead %s, grace %s, server %s", rec.Dead, rec.Grace, rec.Server)
	}

	b.dead, b.to = false, ""
	b.untouched(func() {
		if got := b.redeem(first, sessions.Replay); got != moved {
			t.Errorf("the second tab got %s", got)
		}
	})
	b.redeem(b.redeem(moved, sessions.Rotate), sessions.Rotate)
	b.redeem(first, sessions.Superseded)
}

// TestDeadline: past it nothing is answered or written, whatever it would have been (V3).
func TestDeadline(t *testing.T) {
	refused := func(t *testing.T, b *bench, token sessions.Stamp, by time.Duration) {
		t.Helper()
		b.untouched(func() {
			out, err := b.ask(sessions.Request{Token: token, Deadline: b.now.Add(by)})
			if !errors.Is(err, sessions.ErrDeadline) {
				t.Errorf("%s: %s, %v", token, out.Judgement.Verdict, err)
			}
		})
	}
	b := newBench(t)
	b.redeem(b.redeem(at(1, 1), sessions.Rotate), sessions.Rotate)
	b.after(outside)
	for _, token := range []sessions.Stamp{at(1, 3), at(1, 2), at(1, 1)} {
		refused(t, b, token, -time.Nanosecond)
	}
	if _, err := b.ask(sessions.Request{Token: at(1, 2), Deadline: b.now}); err != nil {
		t.Errorf("on the dot: %v", err)
	}

	// The deadline passes after the judgement: while the server is probed ...
	b = newBench(t)
	current := b.redeem(at(1, 1), sessions.Rotate)
	b.decide = func() error { b.after(time.Second); return nil }
	refused(t, b, current, time.Millisecond)
	refused(t, b, at(1, 1), time.Millisecond)

	// ... and right before a revoke.
	b = newBench(t)
	b.redeem(b.redeem(at(1, 1), sessions.Rotate), sessions.Rotate)
	b.after(outside)
	slow := newOwner(b.store, func() time.Time { b.after(time.Second); return b.now }, func() string { return "op" })
	b.untouched(func() {
		// Two looks at the clock judge, the third comes before the write.
		_, err := slow.Refresh(t.Context(), sessions.Request{Key: key, Token: at(1, 1), Deadline: b.now.Add(2500 * time.Millisecond)}, b)
		if !errors.Is(err, sessions.ErrDeadline) {
			t.Errorf("revoke: %v", err)
		}
	})
}

// TestFloor: nothing below what the passing server has seen is issued (V10).
func TestFloor(t *testing.T) {
	b := newBench(t)
	floor := events.Epoch{Number: 2, Region: region}
	refused := func(token sessions.Stamp, f events.Epoch) {
		t.Helper()
		b.untouched(func() {
			if out, err := b.ask(sessions.Request{Token: token, Floor: f}); !errors.Is(err, sessions.ErrFloor) {
				t.Errorf("%s at floor %v: %s, %v", token, f, out.Judgement.Verdict, err)
			}
		})
	}
	refused(at(1, 1), floor)
	refused(at(1, 1), events.Epoch{Number: 1, Region: "us"}) // a pair: us is above eu
	b.redeem(at(1, 1), sessions.Rotate)
	refused(at(1, 1), floor) // nor replayed
	b.to = "b"
	if out, err := b.ask(sessions.Request{Token: at(1, 2), Floor: floor}); err != nil || out.Record.Epoch != floor {
		t.Errorf("a move to the floor: %v, %v", out.Record.Epoch, err)
	}
}

// TestCriticalRepeat: a repeat that says critical is recorded before it is answered, with the
// same tokens (V12); one that does not takes no claim back.
func TestCriticalRepeat(t *testing.T) {
	b := newBench(t)
	b.redeem(at(1, 1), sessions.Rotate)
	before := *b.store.peek(key)
	b.after(inside)
	out, err := b.ask(sessions.Request{Token: at(1, 1), Critical: true, Bookmark: "dropped"})
	if err != nil || out.Judgement.Verdict != sessions.Replay || out.Written {
		t.Fatalf("%s, written %t, %v", out.Judgement.Verdict, out.Written, err)
	}
	want := before
	want.CriticalSince, want.Op = b.now, out.Record.Op
	if diff := cmp.Diff(want, *b.store.peek(key)); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	b.untouched(func() {
		for _, critical := range []bool{true, false} {
			if _, err := b.ask(sessions.Request{Token: at(1, 1), Critical: critical}); err != nil {
				t.Error(err)
			}
		}
	})
	out, err = b.ask(sessions.Request{Token: at(1, 2), Bookmark: "b2"})
	if err != nil || !out.Record.CriticalSince.IsZero() || out.Record.Bookmark != "b2" {
		t.Errorf("the next refresh: critical since %v, bookmark %q, %v", out.Record.CriticalSince, out.Record.Bookmark, err)
	}
}

// TestCriticalRepeatFaults: a repeat is answered only if its claim stands in the store.
func TestCriticalRepeatFaults(t *testing.T) {
	for _, f := range []fault{notWritten, wroteButErrored, conflicts, landsLate, lostReply} {
		b := newBench(t)
		b.redeem(at(1, 1), sessions.Rotate)
		hit := false
		b.store.fault = func(_ context.Context, rec *sessions.Record) fault {
			if rec == nil || hit {
				return sound
			}
			hit = true
			return f
		}
		_, err := b.ask(sessions.Request{Token: at(1, 1), Critical: true})
		if (err == nil) == (f == lostReply) || b.store.peek(key).CriticalSince.IsZero() {
			t.Errorf("%s: %v, the store has %v", f, err, b.store.peek(key).CriticalSince)
		}
	}
	b := newBench(t)
	b.redeem(at(1, 1), sessions.Rotate)
	b.store.fault = onWrite(notWritten)
	if _, err := b.ask(sessions.Request{Token: at(1, 1), Critical: true}); !errors.Is(err, sessions.ErrUnavailable) {
		t.Errorf("a claim that cannot be written is answered: %v", err)
	}
	b.redeem(at(1, 1), sessions.Replay) // without a claim nothing is to be written
}

// TestLoserOfARace: of two refreshes with different wishes the first to write decides; the
// other gets its answer, and only its critical task is added.
func TestLoserOfARace(t *testing.T) {
	b := newBench(t)
	b.decide = func() error {
		b.decide = nil // the winner comes in while the loser probes
		b.to = "b"
		b.redeem(at(1, 1), sessions.Rotate)
		b.to = "c"
		return nil
	}
	out, err := b.ask(sessions.Request{Token: at(1, 1), Critical: true, Bookmark: "loser"})
	if err != nil || out.Judgement.Verdict != sessions.Replay {
		t.Fatalf("%s, %v", out.Judgement.Verdict, err)
	}
	if out.Record.Server != "b" || out.Record.Bookmark != "" || out.Record.CriticalSince.IsZero() {
		t.Errorf("server %s, bookmark %q, critical since %v", out.Record.Server, out.Record.Bookmark, out.Record.CriticalSince)
	}
}
