package sessions_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/sessions"
)

// dice draw what happens in a world.
type dice interface{ IntN(n int) int }

// rapidDice are rapid's, which shortens what is drawn.
type rapidDice struct{ t *rapid.T }

func (d rapidDice) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "n") }

// drawLease draws a world, and plays what it draws of cuts, heals, delays, restarts, handovers and refreshes.
// It fails if a region answers while a server of another may accept what that one gave out.
func drawLease(without leaseMutant, d dice) (*leaseWorld, error) {
	offsets := make([]time.Duration, 2+d.IntN(4))
	for i := range offsets {
		offsets[i] = time.Duration(d.IntN(int(sessions.LeaseSkew/time.Second)+1)) * time.Second
	}
	w := newLeaseWorld(without, offsets...)
	w.session = fmt.Sprint("s", d.IntN(10))
	w.pass(40, "a")
	if d.IntN(2) == 0 { // the owner is lost first
		w.isolate("a", true)
		w.pass(260, "")
	}
	for range 1 + d.IntN(10) {
		for range 1 + d.IntN(3) {
			w.change(d)
		}
		clients := rand.New(rand.NewPCG(uint64(d.IntN(1<<30)), 0))
		for range []int{3, 10, 40, 100, 260, 400}[d.IntN(6)] {
			w.second()
			w.serve(clients)
			if w.fault != "" {
				return w, fmt.Errorf("%s", w.fault)
			}
		}
	}
	return w, nil
}

// change changes what the links do, or restarts a region.
func (w *leaseWorld) change(d dice) {
	from, to, down := w.names[d.IntN(len(w.names))], w.names[d.IntN(len(w.names))], d.IntN(2) == 0
	switch d.IntN(11) {
	case 0, 5, 6:
		w.isolate(from, down)
	case 1, 7:
		w.cut(from, to, down)
		w.cut(to, from, down)
	case 2:
		w.cut(from, to, down)
	case 3:
		w.tell("from %q to %q another delay", from, to)
		w.delay[[2]string{from, to}] = time.Duration([]int{0, 0, 1, 4, 40}[d.IntN(5)]) * time.Second
	case 4:
		w.restart(from)
	case 8:
		w.forget(from)
		if down {
			w.restart(from)
		}
	case 9:
		w.tell("%s is deaf: %v", from, down)
		w.regions[from].deaf = down
	case 10:
		w.tell("copies from %q to %q come later", from, to)
		w.lag[[2]string{from, to}] = time.Duration([]int{0, 3, 60}[d.IntN(3)]) * time.Second
	}
}

// serve has a client refresh, with a token that may be old, and a region hand the session over now and then.
func (w *leaseWorld) serve(clients *rand.Rand) {
	pick := func() string { return w.names[clients.IntN(len(w.names))] }
	i := len(w.given) - 1 - []int{0, 0, 0, 5, 40, 200}[clients.IntN(6)]
	w.refresh(pick(), w.given[max(0, i)].stamp, time.Duration([]int{0, 1, 10}[clients.IntN(3)])*time.Second)
	if clients.IntN(30) == 0 {
		w.handOver(pick(), pick())
	}
}

// TestLeaseIsNeverHeldTwice: whatever links are cut, in either direction, however late messages come,
// and whoever restarts, no region answers while a server of another may accept what that one gave out.
func TestLeaseIsNeverHeldTwice(t *testing.T) {
	t.Parallel()
	takes := 0
	rapid.Check(t, func(t *rapid.T) {
		w, err := drawLease(leaseMutant{}, rapidDice{t})
		if err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(w.story, "\n"))
		}
		takes += w.takes
	})
	t.Logf("%d takeovers", takes)
	if takes == 0 {
		t.Error("nothing was ever taken over")
	}
}
