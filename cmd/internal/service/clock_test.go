package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestClock compares clocks that agree, differ, and agree again.
func TestClock(t *testing.T) {
	var out bytes.Buffer
	var skew, within time.Duration
	var fault error
	c := &clock{
		skew: func(context.Context) (time.Duration, time.Duration, error) { return skew, within, fault },
		log:  slog.New(slog.NewTextHandler(&out, nil)),
	}
	if err := c.ready(); !errors.Is(err, errNotCompared) {
		t.Errorf("before the first comparison: ready says %v", err)
	}
	for _, step := range []struct {
		name         string
		skew, within time.Duration
		fault        error
		ready        bool
	}{
		{"NATS away at first", 0, 0, errors.New("away"), false},
		{"agrees", 2 * time.Millisecond, time.Millisecond, nil, true},
		{"at the bound", -5 * time.Second, 0, nil, true},
		{"far ahead", 40 * time.Second, time.Millisecond, nil, false},
		{"NATS away: the last word counts", 0, 0, errors.New("away"), false},
		{"far behind", -time.Minute, time.Millisecond, nil, false},
		{"a slow answer proves little", 6 * time.Second, 2 * time.Second, nil, true},
		{"agrees again", 0, time.Millisecond, nil, true},
	} {
		skew, within, fault = step.skew, step.within, step.fault
		if err := c.compare(t.Context()); !errors.Is(err, step.fault) {
			t.Errorf("%s: %v", step.name, err)
		}
		if err := c.ready(); (err == nil) != step.ready {
			t.Errorf("%s: ready says %v", step.name, err)
		}
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d error lines, want one for each time the clock goes wrong:\n%s", n, out.String())
	}
}

// TestClockJumps sets a clock while the service runs, forwards, back, and slowly: it is noticed, and
// that it was put right as well.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off, away atomic.Int64 // by how much the clock is off; until when NATS is away
		var asked atomic.Int64
		c := &clock{
			wall: func() time.Time { return time.Now().Add(time.Duration(off.Load())) },
			skew: func(context.Context) (time.Duration, time.Duration, error) {
				asked.Add(1)
				if time.Now().UnixNano() < away.Load() {
					return 0, 0, errors.New("away")
				}
				return time.Duration(off.Load()), time.Millisecond, nil
			},
			log: slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.run(ctx) }()
		time.Sleep(time.Hour)
		if n := asked.Load(); n < 110 || n > 130 {
			t.Errorf("a clock that goes well was compared %d times in an hour", n)
		}
		within := func(what string, ready bool, limit time.Duration) {
			t.Helper()
			time.Sleep(limit)
			if (c.ready() == nil) != ready {
				t.Errorf("%s: %s later ready says %v", what, limit, c.ready())
			}
		}
		soon := clockLook + time.Millisecond
		off.Store(int64(40 * time.Second))
		within("set forwards", false, soon)
		within("left alone", false, time.Hour)
		off.Store(0)
		within("put right", true, soon)
		off.Store(int64(-time.Hour))
		within("set back", false, soon)
		off.Store(int64(-2 * time.Second))
		within("put nearly right", true, soon)
		away.Store(time.Now().Add(10 * time.Second).UnixNano())
		off.Store(int64(time.Minute))
		within("set while NATS is away: the last word counts", true, 9*time.Second)
		within("NATS is back", false, 2*soon)
		off.Store(0)
		within("put right at last", true, soon)
		for range 100 { // a drift, no jump
			off.Add(int64(100 * time.Millisecond))
			time.Sleep(time.Second)
		}
		within("drifted away", false, clockEvery)
		cancel()
		<-done
	})
}

// TestClockStart: a service begins when NATS cannot be asked yet. Its clock is not trusted before it was
// compared, and is soon after it can be.
func TestClockStart(t *testing.T) {
	for _, away := range []time.Duration{0, 50 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			c := &clock{
				skew: func(context.Context) (time.Duration, time.Duration, error) {
					if time.Since(began) < away {
						return 0, 0, errors.New("away")
					}
					return 0, time.Millisecond, nil
				},
				log: slog.New(slog.DiscardHandler),
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); c.run(ctx) }()
			for synctest.Wait(); c.ready() != nil; synctest.Wait() {
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(began); took < away || took > away+min(clockLook, away+clockSoon) || away == 0 && took > 0 {
				t.Errorf("NATS away for %s: ready after %s", away, took)
			}
			cancel()
			<-done
		})
	}
}

// TestSkew compares this machine's clock with that of a NATS on it.
func TestSkew(t *testing.T) {
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	skew, within, err := conn.Skew(t.Context())
	if err != nil || skew.Abs() > within+time.Second {
		t.Errorf("skew %s within %s, %v", skew, within, err)
	}
}
