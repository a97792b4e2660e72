package sessions_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

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
	data, err := newer.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Begin(&newer, data, b.store.rev).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.untouched(func() {
		if _, err := b.ask(sessions.Request{Token: at(1, 1)}); !errors.Is(err, sessions.ErrUnavailable) {
			t.Errorf("a newer record: %v", err)
		}
	})
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
