package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// An origin is a region whose copies come to another: what it has written, what of that is stored there, and the link
// between them.
type origin struct {
	strand       strand
	last, stored uint64
	// had is what it had written when it came into sight; it has been out of sight since away, unless that is zero.
	had  uint64
	away time.Time
}

// A harbour is a region that watches its edges, and the truth about these, which the region does not know.
type harbour struct {
	copies  *Copies
	origins []*origin
	without func(*strandSight)
}

func newHarbour(without func(*strandSight), origins ...string) *harbour {
	const own = "us-east-1"
	log := slog.New(slog.DiscardHandler)
	h := &harbour{copies: &Copies{conn: &Conn{region: own, log: log}, log: log}, without: without}
	for _, region := range origins {
		h.origins = append(h.origins, &origin{strand: strand{BucketSessions, "global", region, own}})
	}
	return h
}

func (h *harbour) cut(i int) { h.origins[i].away = time.Now() }

func (h *harbour) heal(i int) {
	o := h.origins[i]
	o.away, o.had = time.Time{}, o.last
}

// look has the region look at its edges once.
func (h *harbour) look(ctx context.Context) {
	info := &natsjs.StreamInfo{}
	var in []strand
	var seen []originState
	for _, o := range h.origins {
		source := o.strand.source()
		now := &natsjs.StreamSourceInfo{
			Name: source.Name, External: source.External, SubjectTransforms: source.SubjectTransforms,
			Seq: o.stored, Lag: o.last - o.stored, Active: 100 * time.Millisecond,
		}
		state := originState{last: o.last}
		if !o.away.IsZero() {
			now.Active, now.Lag, state = time.Minute, 0, originState{err: errors.New("no answer")}
		}
		info.Sources, in, seen = append(info.Sources, now), append(in, o.strand), append(seen, state)
	}
	h.copies.judge(ctx, info, in, seen)
	if h.without != nil {
		for _, is := range h.copies.sight.strands {
			h.without(is)
		}
	}
}

// check returns what of V17 is broken.
func (h *harbour) check() error {
	ready := h.copies.Ready()
	complete := true
	for _, o := range h.origins {
		switch {
		case !o.away.IsZero():
			complete = complete && time.Since(o.away) >= blindAfter+lookEvery
		case o.stored < o.had && ready == nil:
			return fmt.Errorf("V17: ready, and %d of what %s had when it came into sight have not arrived", o.had-o.stored, o.strand.origin)
		default:
			complete = complete && o.stored == o.last
		}
	}
	if complete && ready != nil {
		return fmt.Errorf("V17: nothing is missing of any region in sight, and not ready: %w", ready)
	}
	return nil
}

// A turn is one step of a schedule, and how long what it has done lasts.
type turn struct {
	name  string
	do    func(h *harbour)
	lasts time.Duration
}

// returns is the schedule of V17: the region starts, is cut off from all others, comes back to one of two, then to the
// other.
var returns = []turn{
	{"starts with something missing", func(h *harbour) { h.origins[0].last, h.origins[1].last = 7, 3; h.heal(0); h.heal(1) }, 2 * time.Second},
	{"has all of one", func(h *harbour) { h.origins[0].stored = 7 }, 2 * time.Second},
	{"has all of both", func(h *harbour) { h.origins[1].stored = 3 }, time.Second},
	{"is cut off from all", func(h *harbour) { h.cut(0); h.cut(1) }, time.Minute},
	{"is cut off still, they write", func(h *harbour) { h.origins[0].last, h.origins[1].last = 50, 9 }, time.Minute},
	{"sees one again", func(h *harbour) { h.heal(0) }, 2 * time.Second},
	{"gets a part of it, more is written", func(h *harbour) { h.origins[0].stored, h.origins[0].last = 30, 60 }, 2 * time.Second},
	{"has what that had at the heal, and more", func(h *harbour) { h.origins[0].stored = 55 }, 2 * time.Second},
	{"has all of that", func(h *harbour) { h.origins[0].stored = 60 }, time.Minute},
	{"sees the other again", func(h *harbour) { h.heal(1) }, 2 * time.Second},
	{"has all of the other", func(h *harbour) { h.origins[1].stored = 9 }, time.Second},
}

// play takes the turns, looking as often as the watch does, and returns what they break first.
func play(t *testing.T, without func(*strandSight), turns []turn) (broken error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHarbour(without, "eu-west-1", "ap-southeast-1")
		for i, turn := range turns {
			turn.do(h)
			for until := time.Now().Add(turn.lasts); time.Now().Before(until); time.Sleep(lookEvery) {
				h.look(t.Context())
				if err := h.check(); err != nil {
					broken = fmt.Errorf("turn %d (%s): %w", i, turn.name, err)
					return
				}
			}
		}
	})
	return broken
}

// TestReturningRegion: a region that returns is ready when nothing is pending since the heal, and does not wait for regions
// that it cannot see (V17). The schedule breaks that, with either half of the rule missing.
func TestReturningRegion(t *testing.T) {
	if err := play(t, nil, returns); err != nil {
		t.Error(err)
	}
	instead := func(of, is strandState) func(*strandSight) {
		return func(s *strandSight) {
			if s.state == of {
				s.state = is
			}
		}
	}
	for name, without := range map[string]func(*strandSight){
		"a region in sight is not waited for":     instead(strandBehind, strandCaughtUp),
		"a region that nobody sees is waited for": instead(strandUnseen, strandBehind),
		"a region that returns is as complete as it was": func(s *strandSight) {
			if s.state == strandUnseen {
				s.state, s.answered = strandCaughtUp, time.Now()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := play(t, without, returns)
			if err == nil {
				t.Fatal("the schedule breaks nothing")
			}
			t.Logf("V17, %s: the schedule of a returning region breaks %v", name, err)
		})
	}
}
