package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// flipEvery is the time from one measured change to the next, which is of another of so many
// flippers.
const (
	flipEvery = 10 * time.Millisecond
	flippers  = 50
	// warmUp is how long changes are made before they are measured: a follower that has just read
	// everything is busier than it is from then on.
	warmUp = 500 * time.Millisecond
)

// stopwatch times what happens to keys.
type stopwatch struct {
	// mu guards the fields below: began is when a key was last changed, zero if that was seen.
	mu    sync.Mutex
	began map[string]time.Time
	took  []time.Duration
}

func (w *stopwatch) start(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began[key] = time.Now()
}

// stop notes that the change of a key was seen.
func (w *stopwatch) stop(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if began := w.began[key]; !began.IsZero() {
		w.took = append(w.took, time.Since(began))
		w.began[key] = time.Time{}
	}
}

// times returns what was measured, and how much was never seen.
func (w *stopwatch) times() (took []time.Duration, missing int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, began := range w.began {
		if !began.IsZero() {
			missing++
		}
	}
	return w.took, missing
}

// seen is how soon changes were seen: decided from when the registry had them, sent from the
// heartbeat on, cold those of warmUp, from when the registry had them.
type seen struct{ decided, sent, cold []time.Duration }

// flips measures how soon the view of a follower, which has a connection of its own, shows that
// a server drains, or does so no more.
func (r *run) flips(ctx context.Context, p *peers) (s seen, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats := make([]*events.Heartbeat, flippers)
	for i := range beats {
		beats[i] = Heartbeat(i)
		beats[i].Server = fmt.Sprintf("flip-%02d", i)
	}
	watch := stopwatch{began: map[string]time.Time{}}
	states := map[string]events.State{}
	all := make(chan struct{})
	open := all // nil once it is closed
	var warm atomic.Bool
	f := registry.NewFollower(p.reader, func(v *registry.View) {
		for _, h := range beats {
			at, ok := v.Find(h.Server)
			if !ok || states[h.Server] == v.State(at) {
				continue
			}
			states[h.Server] = v.State(at)
			watch.stop(h.Server)
			changed, _ := v.Server(h.Server)
			if took := time.Since(changed.Since); warm.Load() {
				s.decided = append(s.decided, took)
			} else if open == nil {
				s.cold = append(s.cold, took)
			}
		}
		if len(states) == flippers && open != nil {
			close(open)
			open = nil
		}
	}, nil)
	var g errgroup.Group
	g.Go(func() error { return f.Run(ctx) })
	err = r.flip(ctx, p.writer, beats, &watch, all, &warm)
	cancel()
	if err = errors.Join(err, g.Wait()); err != nil {
		return seen{}, err
	}
	var missing int
	if s.sent, missing = watch.times(); missing > 0 || len(s.sent) == 0 {
		return seen{}, fmt.Errorf("%d changes were seen, %d were not", len(s.sent), missing)
	}
	for _, list := range [][]time.Duration{s.decided, s.sent, s.cold} {
		slices.Sort(list)
	}
	return s, nil
}

// flip changes states for a time, once all flippers were seen and warm is set.
func (r *run) flip(ctx context.Context, conn *jetstream.Conn, beats []*events.Heartbeat, watch *stopwatch, seen <-chan struct{}, warm *atomic.Bool) error {
	say := func(h *events.Heartbeat) error {
		h.Seq++
		h.At = time.Now().UTC()
		data, err := events.Encode(h)
		if err == nil {
			watch.start(h.Server)
			err = conn.Publish(ctx, h.Subject().String(), data)
		}
		return err
	}
	for _, h := range beats {
		if err := say(h); err != nil {
			return err
		}
	}
	select {
	case <-seen:
	case <-time.After(settleLimit):
		return errors.New("the servers that are to change are not seen")
	case <-ctx.Done():
		return ctx.Err()
	}
	turn := func(i int) error {
		h := beats[i%flippers]
		if h.State == events.StateUp {
			h.State = events.StateDraining
		} else {
			h.State = events.StateUp
		}
		return say(h)
	}
	if err := r.every(ctx, flipEvery, warmUp, turn); err != nil {
		return err
	}
	watch.mu.Lock()
	watch.took = nil
	watch.mu.Unlock()
	warm.Store(true)
	return r.every(ctx, flipEvery, r.Phase, turn)
}

// every calls fn at a steady pace for a time, and waits for what it has begun.
func (r *run) every(ctx context.Context, pace, d time.Duration, fn func(i int) error) error {
	t := time.NewTicker(pace)
	defer t.Stop()
	end := time.Now().Add(d)
	for i := 0; time.Now().Before(end); i++ {
		if err := fn(i); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-time.After(200 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// puts measures the floor of flips: a key put by one connection to a bare watch of another,
// beside as many puts of other keys as there are changes of loads.
func (r *run) puts(ctx context.Context, p *peers) ([]time.Duration, error) {
	kv, err := p.reader.JetStream().KeyValue(ctx, floorName)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	w, err := kv.WatchAll(ctx, natsjs.UpdatesOnly())
	if err != nil {
		return nil, fmt.Errorf("watch bucket: %w", err)
	}
	watch := stopwatch{began: map[string]time.Time{}}
	var g errgroup.Group
	g.Go(func() error {
		for e := range w.Updates() {
			if e != nil {
				watch.stop(e.Key())
			}
		}
		return nil
	})
	value := make([]byte, 600)
	js := p.writer.JetStream()
	beside, other := int(float64(r.changing())*flipEvery.Seconds()), flippers
	err = r.every(ctx, flipEvery, r.Phase, func(i int) error {
		subject := floorSubject(i % flippers)
		watch.start(strings.TrimPrefix(subject, "$KV."+floorName+"."))
		if _, err := js.Publish(ctx, subject, value); err != nil {
			return err
		}
		for range beside {
			if other++; other >= r.Servers {
				other = flippers
			}
			if _, err := js.PublishAsync(floorSubject(other), value, natsjs.WithStallWait(time.Minute)); err != nil {
				return err
			}
		}
		return nil
	})
	err = errors.Join(err, w.Stop(), g.Wait())
	took, _ := watch.times()
	return took, err
}

// freshView measures the time from the start of a follower to its first view.
func freshView(ctx context.Context, conn *jetstream.Conn, servers int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	var took time.Duration
	var size int
	began := time.Now()
	f := registry.NewFollower(conn, func(v *registry.View) {
		if took == 0 {
			took, size = time.Since(began), len(v.Servers)
			cancel()
		}
	}, nil)
	if err := f.Run(ctx); err != nil {
		return 0, err
	}
	if size < servers {
		return 0, fmt.Errorf("a fresh view has %d servers, want %d", size, servers)
	}
	return took, nil
}

// freshWatch measures the same of a bare watch of as many keys.
func freshWatch(ctx context.Context, kv natsjs.KeyValue, keys int) (time.Duration, error) {
	began := time.Now()
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return 0, fmt.Errorf("watch bucket: %w", err)
	}
	n := 0
	for e := range w.Updates() {
		if e == nil {
			break
		}
		n++
	}
	took := time.Since(began)
	if n < keys {
		return 0, fmt.Errorf("a watch has %d keys, want %d", n, keys)
	}
	return took, w.Stop()
}
