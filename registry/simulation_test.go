package registry_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// world is a region in fake time: servers that live, fall silent or die, and the table that
// judges them.
type world struct {
	t       testing.TB
	table   *registry.Table
	rng     *rand.Rand
	tick    time.Duration
	now     time.Time
	servers []*simulated
	byID    map[string]*simulated
	results []probeResult
	// cut says that the registry's own connection is away.
	cut bool
	// blind says that no probe from here arrives.
	blind bool
	// live is the registry on NATS that judges them in place of the table; nil: none.
	live *liveRegion
	// seen is called with what the table wants done.
	seen func(registry.Effect)
	// careful learns the same as table and looks at all of every server at each tick; nil: none does.
	careful *registry.Table
}

// simulated is the truth about one server.
type simulated struct {
	id   string
	boot int
	seq  uint64
	next time.Time
	// says is what it says in each heartbeat of this boot.
	says *events.Heartbeat
	// dead says that nobody listens; stopped that the process stands still until then; mute
	// that its heartbeats do not arrive until then.
	dead          bool
	stopped, mute time.Time
	// lost is the share of its heartbeats that do not arrive.
	lost float64
	// since is when it last died, born when it was last started anew.
	since, born time.Time
}

type probeResult struct {
	due  time.Time
	done registry.ProbeDone
}

// newWorld returns a region of n servers that have been up for some seconds.
func newWorld(t testing.TB, n int, tick time.Duration, seed uint64) *world {
	w := &world{t: t, table: registry.NewTable("eu-west-1", registry.Detection{}), tick: tick, now: start}
	w.begin(n, seed)
	return w
}

// begin lets n servers come up.
func (w *world) begin(n int, seed uint64) {
	w.rng, w.byID, w.seen = rand.New(rand.NewPCG(seed, seed)), map[string]*simulated{}, func(registry.Effect) {}
	for i := range n {
		s := &simulated{id: fmt.Sprintf("eu-west-1-%03d", i), boot: 1}
		s.next = w.now.Add(time.Duration(w.rng.Int64N(int64(time.Second))))
		w.servers, w.byID[s.id] = append(w.servers, s), s
	}
	w.run(6 * time.Second)
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.step()
	}
}

func (w *world) step() {
	if w.live != nil {
		w.live.pass(w)
	} else {
		w.now = w.now.Add(w.tick)
	}
	for _, s := range w.servers {
		for !s.next.After(w.now) {
			s.next = s.next.Add(time.Second + time.Duration((w.rng.Float64()-0.5)*0.2*float64(time.Second)))
			w.beat(s)
		}
	}
	if w.live != nil {
		return
	}
	waiting := w.results
	w.results = nil
	for _, r := range waiting {
		if r.due.After(w.now) {
			w.results = append(w.results, r)
		} else {
			w.reduce(r.done)
		}
	}
	w.reduce(registry.Ticked{})
	w.table.Tell(w.now)
	if w.careful != nil {
		w.careful.Tell(w.now)
	}
}

func (w *world) beat(s *simulated, change ...func(*events.Heartbeat)) {
	if s.dead || w.now.Before(s.stopped) {
		return
	}
	s.seq++
	if w.cut && w.live == nil || w.now.Before(s.mute) || w.rng.Float64() < s.lost {
		return
	}
	if s.says == nil {
		s.says = beat(s.id, boot(s.boot), 0)
	}
	h := *s.says
	h.Seq = s.seq
	for _, c := range change {
		c(&h)
	}
	w.reduce(live(&h))
}

func (w *world) reduce(e registry.Event) {
	if w.live != nil {
		w.live.learn(w, e)
		return
	}
	effects := w.table.Reduce(e, w.now)
	w.compare(e, effects)
	for _, effect := range effects {
		if due, ok := effect.(registry.ProbeDue); ok {
			w.probe(due)
		}
		w.seen(effect)
	}
}

// compare lets the careful table learn the same: it has to come to the same.
func (w *world) compare(e registry.Event, effects []registry.Effect) {
	if w.careful == nil {
		return
	}
	if _, ok := e.(registry.Ticked); ok {
		w.careful.StirAll()
	}
	if diff := cmp.Diff(w.careful.Reduce(e, w.now), effects); diff != "" {
		w.t.Fatalf("%v: %T, a look at every server comes to (-), the table to (+):\n%s", w.now.Sub(start), e, diff)
	}
}

// probe answers as the truth is when it begins, and at its time.
func (w *world) probe(due registry.ProbeDue) {
	s := w.byID[due.Server]
	r := probeResult{done: registry.ProbeDone{Server: due.Server, Boot: due.Boot}}
	switch {
	case w.blind:
		r.due = w.now.Add(time.Second)
	case s.dead:
		r.done.Refused = true
	case w.now.Before(s.stopped):
		r.due = s.stopped
		if most := w.now.Add(time.Second); most.Before(r.due) {
			r.due = most
		} else {
			r.done.OK = true
		}
	default:
		r.due, r.done.OK = w.now.Add(10*time.Millisecond), true
	}
	w.results = append(w.results, r)
}

// state returns a server's state as the registry knows it.
func (w *world) state(id string) events.State {
	if w.live != nil {
		return w.live.state(id)
	}
	return server(w.t, w.table, id).State
}

// connect cuts the registry off the bus, or joins it again.
func (w *world) connect(on bool) {
	w.cut = !on
	switch {
	case w.live != nil:
		w.live.connect(on)
	case on:
		w.reduce(registry.Gap{})
	}
}

// restart starts the registry anew. It learns first of what operators want.
func (w *world) restart(wishes registry.Event) {
	if w.live != nil {
		w.live.restart(w)
		return
	}
	list := w.table.Servers()
	w.table, w.results = registry.NewTable("eu-west-1", registry.Detection{}), nil
	if w.careful != nil {
		w.careful = registry.NewTable("eu-west-1", registry.Detection{})
	}
	w.reduce(wishes)
	w.reduce(registry.Restored{Servers: list})
}

// kill ends a process.
func (w *world) kill(s *simulated) { s.dead, s.since = true, w.now }

// count returns how many servers are in a state.
func (w *world) count(state events.State) int {
	n := 0
	for _, s := range w.table.Servers() {
		if s.State == state {
			n++
		}
	}
	return n
}

// boots starts a process anew.
func (w *world) boots(s *simulated) {
	s.dead, s.seq, s.next, s.born = false, 0, w.now, w.now
	s.boot++
	s.says = nil
}
