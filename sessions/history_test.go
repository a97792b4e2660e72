package sessions_test

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/berthhq/berth/sessions"
)

// A call is one operation of a history: a refresh with a token, or a revoke.
type call struct {
	revoke bool
	token  sessions.Stamp
}

// A came is what a call came to; unknown: it failed, and may have been done or not, or be done later.
// A granted token says nothing of who made it: a service whose own write it found done after all calls
// that a replay; but taken says that a region has gone on without the owner.
type came struct {
	unknown, taken bool
	// tried says that it is not a call's own answer, but what it may have done before that.
	tried   bool
	refused sessions.Verdict
	token   sessions.Stamp
}

// A line is all that a session is, to those who watch it from outside, while no window ends, no
// server dies, and what was acknowledged is copied: the current token, the one last redeemed, and
// whether it is over. It is the same line wherever the session is.
type line struct {
	current, parent sessions.Stamp
	// loose says that of the current token only the generation is known, for nobody was told of it.
	loose, revoked bool
}

// is reports whether a token may be the current one.
func (s line) is(t sessions.Stamp) bool {
	return !s.loose && t == s.current || s.loose && t.Gen == s.current.Gen && t.Epoch.Compare(s.current.Epoch) >= 0
}

// follows reports whether a token may be the next one: one generation on, and no epoch back.
func (s line) follows(t sessions.Stamp) bool {
	return t.Gen == s.current.Gen+1 && t.Epoch.Compare(s.current.Epoch) >= 0
}

// repeats reports whether a token is answered with the current one: it is the parent, or of a line
// that a takeover has ended, after the parent.
func (s line) repeats(t sessions.Stamp) bool {
	stray := s.parent.Less(t) && t.Gen <= s.current.Gen && (s.loose || t.Less(s.current) && t.Epoch != s.current.Epoch)
	return t == s.parent || stray
}

// after returns what a refresh with a token may have left, whose answer nobody saw.
func (s line) after(t sessions.Stamp) []any {
	if s.revoked || !s.is(t) && !s.repeats(t) {
		return nil
	}
	next := sessions.Stamp{Epoch: s.current.Epoch, Gen: s.current.Gen + 1}
	return []any{line{current: next, parent: t, loose: true}}
}

// refresh returns the line after a refresh that was answered with a token, if it may be.
func (s line) refresh(t sessions.Stamp, got came) []any {
	next := line{current: got.token, parent: t}
	switch {
	case s.revoked:
	case s.follows(got.token) && s.is(t): // a rotation, wherever
		return []any{next}
	case s.follows(got.token) && got.taken && s.repeats(t): // the answer was the old owner's
		return []any{next}
	case !got.taken && s.is(got.token) && s.repeats(t):
		return []any{line{current: got.token, parent: s.parent}}
	}
	return nil
}

// step is what a call leaves of a session.
func (s line) step(c call, got came) []any {
	over := s
	over.revoked = true
	switch {
	case got.unknown && c.revoke:
		return []any{s, over}
	case got.unknown:
		return append(s.after(c.token), s)
	case c.revoke:
		return []any{over}
	case got.refused == sessions.Ended && s.revoked, got.refused == sessions.Superseded && !s.revoked && c.token.Less(s.parent):
		return []any{s}
	case got.refused != "":
		return nil
	}
	return s.refresh(c.token, got)
}

// model is the session as porcupine reads it.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{line{current: at(1, 1)}} },
		Step: func(state, input, output any) []any { return state.(line).step(input.(call), output.(came)) },
	}
	return m.ToModel()
}

// TestModelRefuses: the model tells a session from what is none.
func TestModelRefuses(t *testing.T) {
	one, two := call{token: at(1, 1)}, call{token: at(1, 2)}
	made := func(number, gen uint64) came { return came{token: at(number, gen)} }
	taken := came{token: at(2, 3), taken: true}
	for name, h := range map[string]struct {
		good  bool
		calls []call
		came  []came
	}{
		"a line with a move":                 {true, []call{one, one, two, one, {token: at(2, 3)}}, []came{made(1, 2), made(1, 2), made(2, 3), {refused: sessions.Superseded}, made(3, 4)}},
		"one token redeemed twice":           {false, []call{one, one}, []came{made(1, 2), made(1, 3)}},
		"two answers to one token":           {false, []call{one, one}, []came{made(1, 2), made(2, 2)}},
		"an epoch that falls":                {false, []call{one, {token: at(2, 2)}}, []came{made(2, 2), made(1, 3)}},
		"tokens after a revoke":              {false, []call{{revoke: true}, one}, []came{{}, made(1, 2)}},
		"a refusal before its cause":         {false, []call{one, one, two}, []came{{refused: sessions.Superseded}, made(1, 2), made(1, 3)}},
		"an end that nobody made":            {false, []call{one}, []came{{refused: sessions.Ended}}},
		"an answer that nobody saw":          {true, []call{one, one, one}, []came{{unknown: true}, made(2, 2), made(2, 2)}},
		"an unseen answer, and another":      {false, []call{one, one, one}, []came{{unknown: true}, made(2, 2), made(1, 2)}},
		"a takeover, and its lost tail":      {true, []call{one, one, two}, []came{made(1, 2), taken, made(2, 3)}},
		"a takeover that the old line knows": {false, []call{one, one, two}, []came{made(1, 2), taken, made(1, 3)}},
		"a fork that is no takeover":         {false, []call{one, one}, []came{made(1, 2), made(2, 3)}},
	} {
		var history []porcupine.Operation
		for i, c := range h.calls {
			op := porcupine.Operation{Input: c, Output: h.came[i], Call: int64(2 * i), Return: int64(2*i + 1)}
			if h.came[i].unknown {
				op.Return = math.MaxInt64
			}
			history = append(history, op)
		}
		if good := porcupine.CheckOperations(model(), history); good != h.good {
			t.Errorf("%s: taken for a session %t, want %t", name, good, h.good)
		}
	}
}

// checkHistories has porcupine find an order for each of so many histories in which its calls
// explain one another, and tells what they came to.
func checkHistories(t *testing.T, histories uint64, record func(seed uint64) []porcupine.Operation) {
	t.Helper()
	seen, operations := map[string]int{}, 0
	for seed := range histories {
		h := record(seed)
		for _, op := range h {
			if got := op.Output.(came); !got.tried {
				operations++
				seen[got.kind(op.Input.(call))]++
			}
		}
		if result := porcupine.CheckOperationsTimeout(model(), h, 20*time.Second); result != porcupine.Ok {
			slices.SortFunc(h, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
			for _, op := range h {
				t.Logf("client %d, %d to %d: %v came to %+v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
			}
			t.Fatalf("seed %d: %s", seed, result)
		}
	}
	t.Logf("%d operations in %d histories: %v", operations, histories, seen)
}

// kind says in a word what a call came to.
func (c came) kind(of call) string {
	switch {
	case c.unknown:
		return "unknown"
	case of.revoke:
		return "ended"
	case c.refused != "":
		return string(c.refused)
	case c.taken:
		return "taken over"
	case c.token.Epoch.Region != of.token.Epoch.Region:
		return "moved"
	default:
		return "granted"
	}
}

// newest is the highest token that clients were told of.
type newest struct {
	mu   sync.Mutex
	told []sessions.Stamp
}

// note adds a token.
func (n *newest) note(t sessions.Stamp) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, known := slices.BinarySearchFunc(n.told, t, sessions.Stamp.Compare); !known && !t.IsZero() {
		n.told = slices.Insert(n.told, i, t)
	}
}

// draw returns one of the three highest.
func (n *newest) draw(r *rand.Rand) sessions.Stamp {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.told[len(n.told)-1-r.IntN(min(3, len(n.told)))]
}

// A crowd is clients that call at once.
type crowd struct {
	clients, calls int
	// revokes is of how many calls one is a revoke.
	revokes int
}

// play lets the clients loose and returns what they saw. on makes a call.
func (c crowd) play(seed uint64, on func(r *rand.Rand, c call) came) []porcupine.Operation {
	var clock atomic.Int64
	known := &newest{told: []sessions.Stamp{at(1, 1)}}
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	for client := range c.clients {
		r := rand.New(rand.NewPCG(seed, uint64(client)))
		wg.Go(func() {
			for range c.calls {
				in := call{revoke: r.IntN(c.revokes) == 0, token: known.draw(r)}
				op := porcupine.Operation{ClientId: client, Input: in, Call: clock.Add(1)}
				got := on(r, in)
				op.Output, op.Return = got, clock.Add(1)
				if got.unknown {
					op.Return = math.MaxInt64 // it may still be done
				}
				known.note(got.token)
				mu.Lock()
				history = append(history, op)
				// A first try may have been done, and not seen, before others went on; or it took the session
				// over, and a second one found that.
				if got.refused != "" || got.taken || got.token.Gen > in.token.Gen+1 {
					op.Output = came{unknown: true, tried: true}
					history = append(history, op)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return thin(history)
}

// thin leaves out calls of unknown outcome that could not tell more than earlier ones: a token is
// redeemed once, and perhaps once more in a takeover; a session ends once.
func thin(history []porcupine.Operation) []porcupine.Operation {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	known := map[call]int{}
	return slices.DeleteFunc(history, func(op porcupine.Operation) bool {
		in := op.Input.(call)
		if !op.Output.(came).unknown {
			return false
		}
		if in.revoke {
			in.token = sessions.Stamp{}
		}
		told := known[in]
		if op.Return == math.MaxInt64 {
			known[in]++
		}
		return told >= 2
	})
}

// TestLinearizable runs refreshes and revokes of one session on all services of a region at once,
// over a store on which everything goes wrong.
func TestLinearizable(t *testing.T) {
	checkHistories(t, 60, func(seed uint64) []porcupine.Operation {
		store := newMemory()
		var ops atomic.Int64
		owners := make([]*sessions.Owner, services)
		for i := range owners {
			owners[i] = newOwner(store, func() time.Time { return noon }, func() string { return time.Duration(ops.Add(1)).String() })
		}
		first := sessions.Start(sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction}, region, sessions.Answer{Server: "a"}, "login", noon)
		if err := owners[0].Create(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		store.fault = unlucky(store, seed, 6)
		store.end = func(ctx context.Context) { ctx.Value(endKey{}).(context.CancelFunc)() }
		return crowd{clients: 4, calls: 6, revokes: 15}.play(seed, func(r *rand.Rand, c call) came {
			return c.on(t.Context(), owners[r.IntN(len(owners))])
		})
	})
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
	out, err := o.Refresh(ctx, sessions.Request{Key: key, Token: c.token, Held: o.Known(key, c.token)}, calmDecider{})
	return cameTo(out, err)
}

// cameTo is what a refresh came to, for who watches it.
func cameTo(out sessions.Outcome, err error) came {
	switch v := out.Judgement.Verdict; {
	case err != nil, v == sessions.Unrotated: // a move may be under way
		return came{unknown: true}
	case v == sessions.Rotate, v == sessions.Replay, v == sessions.Supersede:
		return came{token: out.Record.Current(), taken: out.Judgement.TakenOver}
	default:
		return came{refused: v}
	}
}

// unlucky makes one access of so many go wrong, and lands or loses late writes meanwhile.
func unlucky(store *memory, seed uint64, oneIn int) func(context.Context, *sessions.Record) fault {
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
		case r.IntN(oneIn) != 0:
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
