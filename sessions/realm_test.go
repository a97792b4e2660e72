package sessions_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/berthhq/berth/sessions"
)

// A realm is three regions with one session, like a fleet, but one in which everything happens at
// once. Messages between regions are lost, doubled and late, stores do what they may, and a region
// dies and returns. What would fork a session by design is left out: an answer leaves a region once
// its copies have arrived; a region is taken over from only while it is dead, by one other, and returns
// when copies have been exchanged (V17).
type realm struct {
	ops   atomic.Int64
	clock atomic.Int64 // since noon
	sites map[string]*province

	// fate is held by whoever takes a session over, and who lets a region die or return.
	fate sync.Mutex
	// late are messages that have arrived and will once more.
	late sync.WaitGroup

	mu sync.Mutex
	// r draws what goes wrong.
	r *rand.Rand
}

// A province is one region of a realm.
type province struct {
	name  string
	store *memory
	owner *sessions.Owner
	cache *sessions.Cache
	// life counts deaths and returns: while it is odd the region is dead.
	life atomic.Int64

	mu     sync.Mutex
	copies map[string]copied
}

func newRealm(t *testing.T, seed uint64) *realm {
	t.Helper()
	w := &realm{sites: map[string]*province{}, r: rand.New(rand.NewPCG(seed, 1<<32))}
	for _, name := range regionNames {
		s := &province{name: name, store: newMemory(), cache: sessions.NewCache(100), copies: map[string]copied{}}
		var err error
		s.owner, err = sessions.NewOwner(sessions.Config{
			Region: name, Store: s.store, Cache: s.cache, Copies: s, Peers: embassy{w, s},
			Now:   func() time.Time { return noon.Add(time.Duration(w.clock.Load())) },
			NewOp: func() string { return name + time.Duration(w.ops.Add(1)).String() },
			Wait:  func(ctx context.Context, _ time.Duration) error { runtime.Gosched(); return ctx.Err() },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.sites[name] = s
	}
	first := sessions.Start(sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction}, "eu", sessions.Answer{Server: "eu-a", Region: "eu"}, "login", noon)
	if err := w.sites["eu"].owner.Create(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.flow()
	for _, s := range w.sites {
		wrong := unlucky(s.store, seed, 25)
		s.store.fault = func(ctx context.Context, rec *sessions.Record) fault {
			if s.dead() {
				return crashedBefore
			}
			return wrong(ctx, rec)
		}
		s.store.gone = s.died
		s.store.end = func(ctx context.Context) { ctx.Value(endKey{}).(context.CancelFunc)() }
	}
	return w
}

// draw returns one of n.
func (w *realm) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r.IntN(n)
}

func (s *province) dead() bool { return s.life.Load()%2 == 1 }

// Copies implements sessions.Copies.
func (s *province) Copies(context.Context, sessions.Key) ([]sessions.Copy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []sessions.Copy
	for name, c := range s.copies {
		list = append(list, sessions.Copy{Region: name, Record: c.rec})
	}
	return list, nil
}

// flow brings every living region's record to all others that live.
func (w *realm) flow() {
	for _, from := range w.sites {
		for _, to := range w.sites {
			if from != to && !from.dead() && !to.dead() {
				from.tell(to)
			}
		}
	}
}

// tell brings a region's record to another.
func (s *province) tell(to *province) {
	s.store.mu.Lock()
	rec, rev := s.store.last(key)
	s.store.mu.Unlock()
	to.mu.Lock()
	news := rec != nil && to.copies[s.name].rev < rev
	if news {
		to.copies[s.name] = copied{rec: *rec, rev: rev}
	}
	to.mu.Unlock()
	if news {
		to.cache.Forget(key)
	}
}

// A breath is what goes on in a region until that dies.
type breath struct {
	of   *province
	life int64
}

type breathKey struct{}

// died reports whether the region has died since a call of it began.
func (s *province) died(ctx context.Context) bool {
	b := ctx.Value(breathKey{}).(breath)
	return b.of != s || b.life%2 == 1 || s.life.Load() != b.life
}

// within does something in a region. What a region says that dies meanwhile is lost.
func within[T any](ctx context.Context, w *realm, s *province, do func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = context.WithValue(ctx, endKey{}, cancel)
	ctx = context.WithValue(ctx, breathKey{}, breath{s, s.life.Load()})
	answer, err := do(ctx)
	w.flow()
	if s.died(ctx) {
		return *new(T), errUnreachable
	}
	return answer, err
}

// ask lets another region do something.
func ask[T any](ctx context.Context, w *realm, to *province, do func(ctx context.Context) (T, error)) (T, error) {
	deliver := func() (T, error) {
		return within(context.WithoutCancel(ctx), w, to, do)
	}
	switch w.draw(30) {
	case 0: // the request is lost
		return *new(T), errUnreachable
	case 1: // the answer is lost
		_, _ = deliver()
		return *new(T), errUnreachable
	case 2: // the request arrives again later
		w.late.Go(func() {
			for range 20 {
				runtime.Gosched()
			}
			_, _ = deliver()
		})
	}
	return deliver()
}

// embassy asks other regions for one.
type embassy struct {
	w    *realm
	from *province
}

// Ask implements sessions.Peers.
func (e embassy) Ask(ctx context.Context, region string, q sessions.Question) (sessions.Reply, error) {
	to := e.w.sites[region]
	return ask(ctx, e.w, to, func(ctx context.Context) (sessions.Reply, error) {
		return to.owner.Answer(ctx, q, func(sessions.Record) string { return "" })
	})
}

// refresh is a region's token service: it refreshes, passes on, or takes over.
func (w *realm) refresh(ctx context.Context, s *province, token sessions.Stamp, passed int) (sessions.Outcome, error) {
	req := sessions.Request{Key: key, Token: token, Rebuilt: func() sessions.Record { return rebuilt(token) }, Held: s.owner.Known(key, token)}
	out, err := s.owner.Refresh(ctx, req, wanderer{w, s})
	if err != nil || out.Judgement.Verdict != sessions.Elsewhere {
		return out, err
	}
	if passed >= hops {
		return sessions.Outcome{}, errHops
	}
	owner := w.sites[out.Owner]
	out, err = ask(ctx, w, owner, func(ctx context.Context) (sessions.Outcome, error) { return w.refresh(ctx, owner, token, passed+1) })
	if !errors.Is(err, errUnreachable) {
		return out, err
	}
	w.fate.Lock()
	defer w.fate.Unlock()
	if !owner.dead() || s.dead() {
		return sessions.Outcome{}, errUnreachable
	}
	req.Held = nil
	out, err = s.owner.TakeOver(ctx, req, owner.name, false, wanderer{w, s})
	w.decided(s)
	if err == nil && out.Judgement.Verdict == sessions.Elsewhere {
		err = errUnreachable
	}
	return out, err
}

// revoke ends the session at its owner, and here if that is dead.
func (w *realm) revoke(ctx context.Context, s *province, token sessions.Stamp) error {
	name, over, err := s.owner.Locate(ctx, key, token)
	if err != nil || over {
		return err
	}
	end := func(ctx context.Context, s *province) (ended bool, err error) {
		_, ended, err = s.owner.Revoke(ctx, key, rebuilt(token))
		return ended, err
	}
	owner := w.sites[name]
	if owner == s {
		_, err = end(ctx, s)
		return err
	}
	_, err = ask(ctx, w, owner, func(ctx context.Context) (bool, error) { return end(ctx, owner) })
	if !errors.Is(err, errUnreachable) {
		return err
	}
	w.fate.Lock()
	defer w.fate.Unlock()
	if !owner.dead() {
		return errUnreachable
	}
	_, err = end(ctx, s)
	w.decided(s)
	return err
}

// decided lands or loses what a region did not see written, and tells the others of what it has.
func (w *realm) decided(s *province) {
	for s.store.settle(w.draw(2) == 0) {
	}
	w.flow()
}

// perCall is how much time passes in each call: a history is over before a window is.
const perCall = int64(500 * time.Millisecond)

// on makes a call in a region.
func (w *realm) on(ctx context.Context, s *province, c call) came {
	w.clock.Add(perCall)
	got, err := within(ctx, w, s, func(ctx context.Context) (came, error) {
		if c.revoke {
			return came{}, w.revoke(ctx, s, c.token)
		}
		out, err := w.refresh(ctx, s, c.token, 0)
		return cameTo(out, err), err
	})
	if err != nil {
		return came{unknown: true}
	}
	return got
}

// sweep looks after the session, everywhere, and now and then lets a region die and return.
func (w *realm) sweep(ctx context.Context, over <-chan struct{}) {
	for round := 0; open(over); round++ {
		for _, s := range w.sites {
			_, _ = within(ctx, w, s, func(ctx context.Context) (bool, error) { // what is not settled now is looked at in the next round
				return s.owner.Sweep(ctx, key, wanderer{w, s})
			})
		}
		if s := w.sites[regionNames[w.draw(len(regionNames))]]; round%8 == 7 {
			w.die(s)
			for until := w.clock.Load() + int64(w.draw(6))*perCall; w.clock.Load() < until && open(over); {
				runtime.Gosched()
			}
			w.rise(s)
		}
	}
}

// open reports whether a channel is not closed yet.
func open(over <-chan struct{}) bool {
	select {
	case <-over:
		return false
	default:
		return true
	}
}

// die ends all that a region does; its store endures, and all that is in there has been copied.
func (w *realm) die(s *province) {
	w.fate.Lock()
	defer w.fate.Unlock()
	s.life.Add(1)
	s.store.forget()
	s.cache.Suspend()
	s.cache.Resume()
	for _, other := range w.sites {
		if other != s {
			s.tell(other)
		}
	}
}

// rise lets a region return, once it has every copy.
func (w *realm) rise(s *province) {
	w.fate.Lock()
	defer w.fate.Unlock()
	for _, other := range w.sites {
		if other != s {
			other.tell(s)
		}
	}
	s.life.Add(1)
}

// wanderer likes a session to move, within its region and beyond.
type wanderer struct {
	w *realm
	s *province
}

// Dead implements sessions.Decider.
func (d wanderer) Dead(context.Context, sessions.Record) (bool, error) { return false, nil }

// Answer implements sessions.Decider.
func (d wanderer) Answer(_ context.Context, rec sessions.Record, j sessions.Judgement) (sessions.Answer, error) {
	a := sessions.Answer{Decision: "stay", Server: rec.Server, Region: rec.Answer.Region}
	to := func(region string) sessions.Answer {
		a.Decision, a.Server = "move", region+"-a"
		if a.Server == rec.Server {
			a.Server = region + "-b"
		}
		a.Region, _, _ = strings.Cut(a.Server, "-")
		return a
	}
	switch want := d.w.draw(10); {
	case j.TakenOver, j.Lost && rec.Answer.Region != d.s.name:
		return to(d.s.name), nil
	case want == 0:
		return to(d.s.name), nil
	case want < 4:
		return to(regionNames[d.w.draw(len(regionNames))]), nil
	}
	return a, nil
}

// Stay implements sessions.Stayer.
func (d wanderer) Stay(rec sessions.Record) sessions.Answer { return rec.Answer }

// Sign implements sessions.Stayer.
func (d wanderer) Sign(rec *sessions.Record) error { return calmDecider{}.Sign(rec) }

// TestLinearizableBetweenRegions runs refreshes and revokes of one session in three regions at once,
// which hand it over, take it over and settle what went wrong.
func TestLinearizableBetweenRegions(t *testing.T) {
	t.Parallel()
	checkHistories(t, 60, func(seed uint64) []porcupine.Operation {
		w := newRealm(t, seed)
		over := make(chan struct{})
		var sweeping sync.WaitGroup
		sweeping.Go(func() { w.sweep(t.Context(), over) })
		h := crowd{clients: 4, calls: 10, revokes: 40}.play(seed, func(r *rand.Rand, c call) came {
			s := w.sites[regionNames[r.IntN(len(regionNames))]]
			for s.dead() { // nobody answers: the client goes elsewhere
				s = w.sites[regionNames[r.IntN(len(regionNames))]]
			}
			return w.on(t.Context(), s, c)
		})
		close(over)
		sweeping.Wait()
		w.late.Wait()
		return h
	})
}
