package registry

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// Bucket is the bucket that holds the view of a region: its keys are <region>.<server>.
const Bucket = "berth_servers"

// viewEvery is the least time between two views.
const viewEvery = 50 * time.Millisecond

// Follower keeps the view of a service that is no registry: a snapshot of berth_servers,
// then its changes, never a gap, with its age.
type Follower struct {
	watcher Watcher
	log     *slog.Logger
	// changed, if not nil, is called with each new view.
	changed func(*View)
	view    atomic.Pointer[View]
	current atomic.Int64
	skipped atomic.Int64
	// stale holds a token while the view is older than servers.
	stale chan struct{}

	// mu guards servers, which are those of the bucket as far as it was read. whole says that
	// all of it was.
	mu      sync.Mutex
	servers map[string]*events.Server
	whole   bool
}

// NewFollower returns a follower of the bucket that watcher reads. changed is called with
// each new view, one at a time, at most one per 50 ms; it may be nil. log may be nil.
func NewFollower(watcher Watcher, changed func(*View), log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{
		watcher: watcher, log: log, changed: changed,
		servers: map[string]*events.Server{}, stale: make(chan struct{}, 1),
	}
}

// Run follows until ctx ends, which is no error.
func (f *Follower) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { f.build(inner); return nil })
	g.Go(func() error {
		defer stop()
		return f.watcher.Watch(inner, Bucket, f.apply, func(at time.Time) { f.current.Store(at.UnixNano()) })
	})
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// View returns the newest view, nil before the first snapshot.
func (f *Follower) View() *View { return f.view.Load() }

// Skipped returns how many values were no servers.
func (f *Follower) Skipped() int64 { return f.skipped.Load() }

// apply takes what the watch brings.
func (f *Follower) apply(entries []Entry, complete bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if complete {
		clear(f.servers)
		f.whole = true
	}
	for _, e := range entries {
		if e.Deleted {
			delete(f.servers, e.Key)
			continue
		}
		s, ok := decodeServer(e)
		if !ok {
			// What the key held before is no longer true either.
			delete(f.servers, e.Key)
			f.skipped.Add(1)
			f.log.LogAttrs(context.Background(), slog.LevelWarn, "server skipped: its value does not fit its key", slog.String("key", e.Key))
			continue
		}
		f.servers[e.Key] = s
	}
	if f.whole {
		signal(f.stale)
	}
}

// decodeServer reads a value of the bucket, false if it is none or stands under another
// server's key.
func decodeServer(e Entry) (*events.Server, bool) {
	s := new(events.Server)
	err := json.Unmarshal(e.Value, s)
	return s, err == nil && s.Key() == e.Key && s.State.Valid()
}

// build makes a view whenever something has changed: the first change at once, those that
// follow closely together.
func (f *Follower) build(ctx context.Context) {
	pause := time.NewTimer(viewEvery)
	defer pause.Stop()
	var ramp <-chan time.Time // while a server is in slow start
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.stale:
		case <-ramp:
		}
		servers, now := f.snapshot(), time.Now()
		v := NewView(servers, seqsOf(servers), &f.current, now)
		f.view.Store(v)
		ramp = nil
		if now.Before(v.settled) {
			ramp = time.After(rampEvery)
		}
		if f.changed != nil {
			f.changed(v)
		}
		pause.Reset(viewEvery)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// snapshot returns the servers in the order of a view.
func (f *Follower) snapshot() []events.Server {
	f.mu.Lock()
	sorted := slices.SortedFunc(maps.Values(f.servers), compareServers)
	f.mu.Unlock()
	list := make([]events.Server, len(sorted))
	for i, s := range sorted {
		list[i] = *s
	}
	return list
}

// signal leaves a token for whoever waits, once for any number of signals.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
