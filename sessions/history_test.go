package sessions_test

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/berthhq/berth/sessions"
)

// A call is one operation of a history: a refresh with the token of a generation, or a revoke.
type call struct {
	revoke bool
	gen    uint64
}

// A came is what a call came to; unknown: it failed, and may have been done or not, or be
// done later. A granted generation says nothing of who made it: a service whose own write it
// found done after all calls that a replay.
type came struct {
	unknown bool
	refused sessions.Verdict
	gen     uint64
}

// A line is all that a session is, to those who watch it from outside, while no time passes
// and no server dies: the current generation, the one last redeemed, and whether it is over.
type line struct {
	current, parent uint64
	revoked         bool
}

// next is the session that a refresh or a revoke leaves, and what it is answered.
func (s line) next(c call) (line, came) {
	switch {
	case c.revoke:
		s.revoked = true
		return s, came{}
	case s.revoked:
		return s, came{refused: sessions.Ended}
	case c.gen == s.current:
		s.current, s.parent = s.current+1, s.current
		return s, came{gen: s.current}
	case c.gen == s.parent:
		return s, came{gen: s.current}
	default:
		return s, came{refused: sessions.Superseded}
	}
}

// model is the session as porcupine reads it.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{line{current: 1}} },
		Step: func(state, input, output any) []any {
			s, got := state.(line), output.(came)
			after, want := s.next(input.(call))
			switch {
			case got.unknown:
				return []any{s, after}
			case got == want:
				return []any{after}
			}
			return nil
		},
	}
	return m.ToModel()
}

// TestModelRefuses: the model tells a session from what is none.
func TestModelRefuses(t *testing.T) {
	one := call{gen: 1}
	rotated := came{gen: 2}
	histories := map[string][]porcupine.Operation{
		"one token redeemed twice": {
			{Input: one, Output: rotated, Call: 1, Return: 2},
			{Input: one, Output: came{gen: 3}, Call: 3, Return: 4},
		},
		"tokens after a revoke": {
			{Input: call{revoke: true}, Output: came{}, Call: 1, Return: 2},
			{Input: one, Output: rotated, Call: 3, Return: 4},
		},
		"a refusal before its cause": {
			{Input: one, Output: came{refused: sessions.Superseded}, Call: 1, Return: 2},
			{Input: one, Output: rotated, Call: 3, Return: 4},
			{Input: call{gen: 2}, Output: came{gen: 3}, Call: 5, Return: 6},
		},
	}
	for name, h := range histories {
		if porcupine.CheckOperations(model(), h) {
			t.Errorf("%s is taken for a session", name)
		}
	}
}

// TestLinearizable runs refreshes and revokes of one session on all services at once, over a
// store on which everything goes wrong, and has porcupine find an order in which they
// explain each other.
func TestLinearizable(t *testing.T) {
	const histories, clients, calls = 60, 4, 6
	seen := map[came]int{}
	for seed := range uint64(histories) {
		h := record(t, seed, clients, calls)
		for _, op := range h {
			c := op.Output.(came)
			c.gen = 0
			seen[c]++
		}
		if result := porcupine.CheckOperationsTimeout(model(), h, 10*time.Second); result != porcupine.Ok {
			t.Fatalf("seed %d: %s\n%+v", seed, result, h)
		}
	}
	t.Logf("seeds 0 to %d: %v", histories-1, seen)
}

// record lets the clients loose and returns what they saw.
func record(t *testing.T, seed uint64, clients, calls int) []porcupine.Operation {
	t.Helper()
	store := newMemory()
	first := sessions.Start(sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction}, region, sessions.Answer{Server: "a"}, "login", noon)
	var ops, clock, newest atomic.Int64
	newest.Store(1)
	now := func() time.Time { return noon }
	owners := make([]*sessions.Owner, services)
	for i := range owners {
		owners[i] = newOwner(store, now, func() string { return time.Duration(ops.Add(1)).String() })
	}
	if err := owners[0].Create(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	store.fault = unlucky(store, seed)
	store.end = func(ctx context.Context) { ctx.Value(endKey{}).(context.CancelFunc)() }

	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	for client := range clients {
		r := rand.New(rand.NewPCG(seed, uint64(client)))
		wg.Go(func() {
			for range calls {
				c := call{revoke: r.IntN(15) == 0, gen: max(1, uint64(newest.Load())-r.Uint64N(3)%uint64(newest.Load()))}
				op := porcupine.Operation{ClientId: client, Input: c, Call: clock.Add(1)}
				got := c.on(t.Context(), owners[r.IntN(len(owners))])
				op.Output, op.Return = got, clock.Add(1)
				if got.unknown {
					op.Return = math.MaxInt64 // it may still be done
				}
				if got.gen > uint64(newest.Load()) {
					newest.Store(int64(got.gen))
				}
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return history
}

type endKey struct{}

// on makes the call.
func (c call) on(ctx context.Context, o *sessions.Owner) came {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = context.WithValue(ctx, endKey{}, cancel)
	if c.revoke {
		_, _, err := o.Revoke(ctx, key, sessions.Record{})
		return came{unknown: err != nil}
	}
	token := at(1, c.gen)
	out, err := o.Refresh(ctx, sessions.Request{Key: key, Token: token, Held: o.Known(key, token)}, calmDecider{})
	switch v := out.Judgement.Verdict; {
	case err != nil:
		return came{unknown: true}
	case v == sessions.Rotate, v == sessions.Replay:
		return came{gen: out.Record.Gen}
	default:
		return came{refused: v}
	}
}

// unlucky makes every sixth access go wrong, and lands or loses late writes meanwhile.
func unlucky(store *memory, seed uint64) func(context.Context, *sessions.Record) fault {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, math.MaxUint64))
	faults := []fault{notWritten, wroteButErrored, lostReply, landsLate, conflicts}
	return func(_ context.Context, rec *sessions.Record) fault {
		runtime.Gosched()
		mu.Lock()
		defer mu.Unlock()
		if r.IntN(4) == 0 {
			store.settle(r.IntN(2) == 0)
		}
		switch {
		case r.IntN(6) != 0:
			return sound
		case rec == nil:
			return notWritten
		default:
			return faults[r.IntN(len(faults))]
		}
	}
}

// calmDecider leaves the session where it is.
type calmDecider struct{}

func (calmDecider) Dead(context.Context, sessions.Record) (bool, error) { return false, nil }

func (calmDecider) Answer(_ context.Context, rec sessions.Record, _ sessions.Judgement) (sessions.Answer, error) {
	return sessions.Answer{Decision: "stay", Server: rec.Server}, nil
}

func (calmDecider) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

func (calmDecider) Sign(rec *sessions.Record) error {
	rec.Hash = sessions.HashToken(rec.Current().String() + " " + rec.Op)
	return nil
}
