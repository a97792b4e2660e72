package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
)

var errAway = errors.New("the stream has no leader")

// awayBus is a bus whose stream answers nobody until a time; hangs says that it does not even say so.
type awayBus struct {
	back  time.Time
	hangs bool

	// mu guards what was asked of it.
	mu     sync.Mutex
	stored map[string]bool // by payload
	tries  int
}

func (b *awayBus) Publish(ctx context.Context, _ string, data []byte) error {
	b.mu.Lock()
	b.tries++
	b.mu.Unlock()
	if time.Now().Before(b.back) {
		if b.hangs {
			<-ctx.Done()
			return ctx.Err()
		}
		return errAway
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stored[string(data)] = true
	return nil
}

// seen returns how many events are stored, and how often it was asked.
func (b *awayBus) seen() (stored, tries int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.stored), b.tries
}

func (b *awayBus) Subscribe(context.Context, string, func(string, []byte)) (func(), error) {
	return func() {}, nil
}

// beginningBus is one to which several events can be handed at once.
type beginningBus struct{ *awayBus }

func (b beginningBus) Begin(subject string, data []byte) (func(context.Context) error, error) {
	return func(ctx context.Context) error { return b.Publish(ctx, subject, data) }, nil
}

// lossCounter counts what is dropped.
type lossCounter struct {
	prometheus.Counter
	n   atomic.Int64
	log bytes.Buffer // one line at a time; read it when nothing is dropped
}

func (c *lossCounter) Inc() { c.n.Add(1) }

// created returns an event for the lane rest.
func created(i int) *events.Session {
	return &events.Session{
		Version: events.Version, Region: "eu-west-1", At: time.Unix(1_800_000_000, 0).UTC(), Session: fmt.Sprintf("s%d", i),
		Kind: events.SessionCreated, Epoch: events.Epoch{Number: 1, Region: "eu-west-1"}, Server: "a", Sub: "ada", Jurisdiction: "global",
	}
}

// outboxTest runs fn with an outbox in fake time that only the lane rest is worked off of.
func outboxTest(t *testing.T, bus Bus, fn func(t *testing.T, o *outbox, lost *lossCounter)) {
	t.Helper()
	lost := &lossCounter{}
	o := newOutbox(bus, slog.New(slog.NewTextHandler(&lost.log, nil)), lost)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); o.work(ctx, o.rest) }()
	fn(t, o, lost)
	stop()
	<-done
}

// TestOutboxElection: no event is lost while a stream elects a leader, however it fails meanwhile.
func TestOutboxElection(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, c := range map[string]struct{ hangs, begins bool }{
		"refused": {}, "unanswered": {hangs: true}, "several at once": {begins: true}, "several unanswered": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				away := &awayBus{back: time.Now().Add(7 * time.Second), hangs: c.hangs, stored: map[string]bool{}}
				bus := Bus(away)
				if c.begins {
					bus = beginningBus{away}
				}
				outboxTest(t, bus, func(t *testing.T, o *outbox, lost *lossCounter) {
					n := 0
					for range 100 { // 5000 a second, for 10 s
						for range 500 {
							o.put(created(n))
							n++
						}
						time.Sleep(100 * time.Millisecond)
					}
					time.Sleep(5 * time.Second)
					if stored, _ := away.seen(); lost.n.Load() != 0 || stored != n {
						t.Errorf("%d of %d events are stored, %d lost", stored, n, lost.n.Load())
					}
				})
			})
		})
	}
}

// TestOutboxPatience: an event that cannot be stored is sent again for five minutes and then lost; who
// comes after it has its own time.
func TestOutboxPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &awayBus{back: time.Now().Add(outboxPatience + time.Minute), stored: map[string]bool{}}
		outboxTest(t, bus, func(t *testing.T, o *outbox, lost *lossCounter) {
			o.put(created(1))
			time.Sleep(time.Second)
			o.put(created(2))
			time.Sleep(outboxPatience - 2*time.Second)
			if _, tries := bus.seen(); lost.n.Load() != 0 || tries < 250 || tries > 350 {
				t.Errorf("%d lost before their time, %d attempts", lost.n.Load(), tries)
			}
			time.Sleep(10 * time.Second)
			if lost.n.Load() != 1 {
				t.Errorf("%d lost, want the first", lost.n.Load())
			}
			time.Sleep(time.Minute)
			if stored, _ := bus.seen(); lost.n.Load() != 1 || stored != 1 {
				t.Errorf("%d lost, %d stored, want the second stored", lost.n.Load(), stored)
			}
		})
	})
}

// TestOutboxFull: what a full lane has no room for is dropped and counted at once, and what it holds
// is stored.
func TestOutboxFull(t *testing.T) {
	t.Parallel() // it mostly waits
	synctest.Test(t, func(t *testing.T) {
		bus := &awayBus{back: time.Now().Add(time.Minute), stored: map[string]bool{}}
		outboxTest(t, bus, func(t *testing.T, o *outbox, lost *lossCounter) {
			o.put(created(0))
			synctest.Wait() // it is on its way
			for i := range outboxRest {
				o.put(created(1 + i))
			}
			if lost.n.Load() != 0 {
				t.Errorf("%d lost while there was room", lost.n.Load())
			}
			o.put(created(-1), created(-2))
			time.Sleep(dropEvery)
			o.put(created(-3))
			if lost.n.Load() != 3 {
				t.Errorf("%d lost of 3 that had no room", lost.n.Load())
			}
			if log := lost.log.String(); strings.Count(log, "\n") != 2 || strings.Count(log, "since_last=1") != 1 || strings.Count(log, "since_last=2") != 1 {
				t.Errorf("the log says\n%s", log)
			}
			time.Sleep(2 * time.Minute)
			if stored, _ := bus.seen(); lost.n.Load() != 3 || stored != 1+outboxRest {
				t.Errorf("%d lost, %d stored", lost.n.Load(), stored)
			}
		})
	})
}

// TestOutboxMalformed: an event that can never be sent is lost at once, and holds up nobody.
func TestOutboxMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &awayBus{stored: map[string]bool{}}
		outboxTest(t, bus, func(t *testing.T, o *outbox, lost *lossCounter) {
			nameless, large := created(1), created(2)
			nameless.Session, large.Sub = "no name", strings.Repeat("a", events.MaxSize)
			o.put(large, nameless, created(3), nameless, created(4))
			began := time.Now()
			synctest.Wait()
			if stored, tries := bus.seen(); lost.n.Load() != 3 || stored != 2 || tries != 2 || time.Since(began) != 0 {
				t.Errorf("after %s: %d lost, %d stored, %d attempts", time.Since(began), lost.n.Load(), stored, tries)
			}
		})
	})
}
