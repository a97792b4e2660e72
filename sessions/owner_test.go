package sessions_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// bench is a session on a store, services that own it, and a decider to be told what to say.
type bench struct {
	t      *testing.T
	store  *memory
	owners []*sessions.Owner
	now    time.Time
	op     atomic.Int64
	// dead and to are the decider's words: whether the session's server is dead, and where
	// to go on (empty: where it is). decide, if set, is asked first.
	dead   bool
	to     string
	decide func() error
}

var _ sessions.Decider = (*bench)(nil)

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, store: newMemory(), now: noon}
	b.store.end = func(ctx context.Context) { ctx.Value(endKey{}).(context.CancelFunc)() }
	for range services {
		b.owners = append(b.owners, newOwner(b.store, func() time.Time { return b.now }, func() string {
			return time.Duration(b.op.Add(1)).String()
		}))
	}
	first := sessions.Start(sessions.Record{
		Session: key.Session, Jurisdiction: key.Jurisdiction, Subject: "alice", Claims: map[string]any{"tenant": "t1"},
		StartedAt: noon, ExpiresAt: noon.Add(24 * time.Hour),
	}, region, sessions.Answer{Server: "a", Fallbacks: []sessions.Fallback{{Region: "us", URL: "https://us"}}}, "login", noon)
	if err := b.owners[0].Create(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	return b
}

// Dead implements sessions.Decider.
func (b *bench) Dead(context.Context, sessions.Record) (bool, error) {
	if b.decide != nil {
		if err := b.decide(); err != nil {
			return false, err
		}
	}
	return b.dead, nil
}

// Answer implements sessions.Decider.
func (b *bench) Answer(_ context.Context, rec sessions.Record, _ sessions.Judgement) (sessions.Answer, error) {
	switch b.to {
	case "":
		return sessions.Answer{Server: rec.Server}, nil
	case "none":
		return sessions.Answer{}, errNoServer
	}
	return sessions.Answer{Server: b.to}, nil
}

// Sign implements sessions.Decider.
func (b *bench) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

func (b *bench) Sign(rec *sessions.Record) error { return calmDecider{}.Sign(rec) }

func (b *bench) after(d time.Duration) { b.now = b.now.Add(d) }

func (b *bench) ask(r sessions.Request) (sessions.Outcome, error) {
	r.Key = key
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	return b.owners[0].Refresh(context.WithValue(ctx, endKey{}, cancel), r, b)
}

// redeem presents a token, wants a verdict, and returns the current token afterwards.
func (b *bench) redeem(token sessions.Stamp, want sessions.Verdict) sessions.Stamp {
	b.t.Helper()
	out, err := b.ask(sessions.Request{Token: token})
	if err != nil || out.Judgement.Verdict != want {
		b.t.Fatalf("%s: %s, %v; want %s", token, out.Judgement.Verdict, err, want)
	}
	return out.Record.Current()
}

// untouched fails the test if do writes.
func (b *bench) untouched(do func()) {
	b.t.Helper()
	puts := b.store.puts
	before := *b.store.peek(key)
	do()
	if b.store.puts != puts {
		b.t.Errorf("%d writes were tried, want none", b.store.puts-puts)
	}
	if diff := cmp.Diff(before, *b.store.peek(key)); diff != "" {
		b.t.Errorf("the record changed (-before +after):\n%s", diff)
	}
}

func TestNewOwner(t *testing.T) {
	good := sessions.Config{Region: region, Store: newMemory(), Now: time.Now, NewOp: func() string { return "" }}
	for name, spoil := range map[string]func(c *sessions.Config){
		"region": func(c *sessions.Config) { c.Region = "" },
		"store":  func(c *sessions.Config) { c.Store = nil },
		"now":    func(c *sessions.Config) { c.Now = nil },
		"op":     func(c *sessions.Config) { c.NewOp = nil },
	} {
		c := good
		spoil(&c)
		if o, err := sessions.NewOwner(c); err == nil || o != nil {
			t.Errorf("no %s: %v, %v", name, o, err)
		}
	}
}

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

// TestDeciderFails: whatever the decider cannot say, nothing is written.
func TestDeciderFails(t *testing.T) {
	b := newBench(t)
	b.decide = func() error { return errUnconfirmed }
	b.untouched(func() {
		if _, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, errUnconfirmed) {
			t.Errorf("rotate: %v", err)
		}
	})
	b.decide, b.to = nil, "none"
	b.untouched(func() {
		if _, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, errNoServer) {
			t.Errorf("rotate: %v", err)
		}
	})
}

// TestFaults: what each fault of a write leaves behind, and that the repeat sets it right.
func TestFaults(t *testing.T) {
	tests := []struct {
		fault    fault
		err      error // of the first request, nil: it is answered
		verdict  sessions.Verdict
		written  bool // by the first request
		repeated sessions.Verdict
	}{
		{notWritten, nil, sessions.Rotate, true, sessions.Replay},      // judged again
		{wroteButErrored, nil, sessions.Rotate, true, sessions.Replay}, // found done
		{conflicts, nil, sessions.Rotate, true, sessions.Replay},
		{landsLate, nil, sessions.Rotate, true, sessions.Replay},
		{lostReply, context.Canceled, "", false, sessions.Replay},
		{crashedBefore, errCrashed, "", false, sessions.Rotate},
		{crashedBetween, errCrashed, "", false, sessions.Replay},
	}
	for _, test := range tests {
		t.Run(string(test.fault), func(t *testing.T) {
			b := newBench(t)
			hit := false
			b.store.fault = func(_ context.Context, rec *sessions.Record) fault {
				crashed := test.fault == crashedBefore || test.fault == crashedBetween
				if hit && crashed {
					return crashedBefore
				}
				if rec == nil || hit {
					return sound
				}
				hit = true
				return test.fault
			}
			out, err := b.ask(sessions.Request{Token: at(1, 1)})
			if !errors.Is(err, test.err) || out.Judgement.Verdict != test.verdict || out.Written != test.written {
				t.Errorf("%s, written %t, %v", out.Judgement.Verdict, out.Written, err)
			}
			b.store.fault = nil
			b.store.settle(true)
			b.redeem(b.redeem(at(1, 1), test.repeated), sessions.Rotate)
		})
	}
}

// TestStoreAway: reads that fail, a store that never lets a write through, and a record that
// a newer build wrote end the refresh with an error and no verdict.
func TestStoreAway(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(context.Context, *sessions.Record) fault
		want  error
		// most is how many writes may be tried.
		most int
	}{
		"no reads":        {func(context.Context, *sessions.Record) fault { return notWritten }, sessions.ErrUnavailable, 0},
		"no writes":       {onWrite(notWritten), sessions.ErrUnavailable, 3},
		"conflict always": {onWrite(conflicts), sessions.ErrConflict, 64},
	} {
		b := newBench(t)
		b.store.fault = test.fault
		puts := b.store.puts
		if out, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, test.want) {
			t.Errorf("%s: %s, %v", name, out.Judgement.Verdict, err)
		}
		if tried := b.store.puts - puts; tried > test.most {
			t.Errorf("%s: %d writes were tried, want at most %d", name, tried, test.most)
		}
		if rec, _, err := b.owners[0].Revoke(t.Context(), key, sessions.Record{}); !errors.Is(err, test.want) {
			t.Errorf("%s: revoked %s, %v", name, rec.Current(), err)
		}
		if rec := b.store.peek(key); rec.State != sessions.StateActive || rec.Current() != at(1, 1) {
			t.Errorf("%s: the record is %s at %s", name, rec.State, rec.Current())
		}
	}

	b := newBench(t)
	newer := *b.store.peek(key)
	newer.Version = sessions.RecordVersion + 1
	if _, err := b.store.Put(t.Context(), newer, b.store.rev); err != nil {
		t.Fatal(err)
	}
	b.untouched(func() {
		if _, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, sessions.ErrUnavailable) {
			t.Errorf("a newer record: %v", err)
		}
	})
}

func onWrite(f fault) func(context.Context, *sessions.Record) fault {
	return func(_ context.Context, rec *sessions.Record) fault {
		if rec == nil {
			return sound
		}
		return f
	}
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

// TestLostRecord: a store that lost the session, or its last writes, takes it up again from
// the token, above everything that the token has seen.
func TestLostRecord(t *testing.T) {
	b := newBench(t)
	rebuilt := func() sessions.Record { return rebuilt(at(3, 7)) }
	b.store.entries = map[sessions.Key][]entry{}
	b.to = "c"
	out, err := b.ask(sessions.Request{Token: at(3, 7), Rebuilt: rebuilt})
	if err != nil || !out.Judgement.Lost || out.Record.Current() != at(4, 8) || out.Record.Parent != at(3, 7) || out.Record.Server != "c" {
		t.Errorf("record lost: %+v, %v", out, err)
	}
	b.redeem(at(3, 7), sessions.Replay)

	b.to = ""
	if got := b.redeem(at(9, 2), sessions.Rotate); got != at(10, 9) {
		t.Errorf("tail lost: %s, want %s", got, at(10, 9))
	}
	b.untouched(func() { b.redeem(elsewhere(11, "us", 1), sessions.Elsewhere) })

	b.store.entries = map[sessions.Key][]entry{}
	if out, err = b.ask(sessions.Request{Token: elsewhere(1, "us", 1), Rebuilt: rebuilt}); err != nil || out.Judgement.Verdict != sessions.Elsewhere {
		t.Errorf("no record, token from elsewhere: %s, %v", out.Judgement.Verdict, err)
	}
	if rec := b.store.peek(key); rec != nil {
		t.Errorf("a record of another region's session was written: %+v", rec)
	}
}

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

func TestCreate(t *testing.T) {
	b := newBench(t)
	again := *b.store.peek(key)
	again.Op = "another login"
	if err := b.owners[0].Create(t.Context(), again); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("a session of the same name: %v", err)
	}
	other := again
	other.Session = "s2"
	b.store.fault = onWrite(wroteButErrored)
	if err := b.owners[0].Create(t.Context(), other); err != nil {
		t.Errorf("written, and the answer lost: %v", err)
	}
	other.Session = "s3"
	b.store.fault = onWrite(notWritten)
	if err := b.owners[0].Create(t.Context(), other); !errors.Is(err, sessions.ErrUnavailable) {
		t.Errorf("not written: %v", err)
	}
	b.store.fault = nil
	if rec, _, err := b.store.Get(t.Context(), sessions.Key{Jurisdiction: "global", Session: "s2"}); err != nil || rec.Op != "another login" {
		t.Errorf("s2 is %+v, %v", rec, err)
	}
	if _, _, err := b.store.Get(t.Context(), sessions.Key{Jurisdiction: "global", Session: "s3"}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("s3: %v", err)
	}
}
