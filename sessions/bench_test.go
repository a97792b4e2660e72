package sessions_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// Stay implements sessions.Stayer.
func (b *bench) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

// Sign implements sessions.Stayer.
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

func onWrite(f fault) func(context.Context, *sessions.Record) fault {
	return func(_ context.Context, rec *sessions.Record) fault {
		if rec == nil {
			return sound
		}
		return f
	}
}
