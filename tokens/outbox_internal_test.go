package tokens

import (
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

// lossCounter counts what is dropped.
type lossCounter struct {
	prometheus.Counter
	n atomic.Int64
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
	o := newOutbox(bus, slog.New(slog.DiscardHandler), lost)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); o.work(ctx, o.rest) }()
	fn(t, o, lost)
	stop()
	<-done
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
