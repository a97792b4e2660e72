package registry

import (
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// Bucket is the bucket that holds the view of a region: its keys are <region>.<server>.
const Bucket = "berth_servers"

// The least times between two views.
const (
	// viewEvery is that where only load has changed.
	viewEvery = 50 * time.Millisecond
	// A new state, or server, is shown at once, but views take at most a part of a processor:
	// after one the next waits for so many times as long as it took, and stateEvery at least.
	stateEvery = 200 * time.Microsecond
	viewBreath = 2
)

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

	// mu guards the fields below. servers are those of the bucket as far as it was read, whole
	// says that all of it was. changed and gone are the keys that the view has still to take
	// over, afresh says that it is to be made of all, urgent that more than load has changed.
	mu            sync.Mutex
	servers       map[string]*events.Server
	changes, gone map[string]struct{}
	whole, afresh bool
	urgent        bool
}

// NewFollower returns a follower of the bucket that watcher reads. changed is called with
// each new view, one at a time: at most one per 50 ms, but for new states and servers, which
// are shown at once. It may be nil. log may be nil.
func NewFollower(watcher Watcher, changed func(*View), log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{
		watcher: watcher, log: log, changed: changed,
		servers: map[string]*events.Server{}, changes: map[string]struct{}{}, gone: map[string]struct{}{},
		stale: make(chan struct{}, 1),
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
		clear(f.changes)
		clear(f.gone)
		f.whole, f.afresh, f.urgent = true, true, true
	}
	decoded := f.decode(entries)
	if complete && len(f.servers) == 0 {
		f.servers = make(map[string]*events.Server, len(entries))
	}
	for i := range entries {
		key, s := entries[i].Key, decoded[i]
		before := f.servers[key]
		switch {
		case s != nil:
			f.servers[key] = s
			f.note(f.changes, f.gone, key, before == nil || s.State != before.State || s.Protection != before.Protection)
		case before != nil:
			// What does not fit is not what the key held before either.
			delete(f.servers, key)
			f.note(f.gone, f.changes, key, true)
		}
	}
	if f.whole {
		signal(f.stale)
	}
}

// decodeAtOnce is how many entries are worth a goroutine of their own.
const decodeAtOnce = 1000

// decode returns the servers of the entries, nil where there is none. A snapshot is decoded by
// all processors. The caller holds mu.
func (f *Follower) decode(entries []Entry) []*events.Server {
	decoded := make([]*events.Server, len(entries))
	parts := min(runtime.GOMAXPROCS(0), 1+len(entries)/decodeAtOnce)
	var g errgroup.Group
	for part := range parts {
		from, to := part*len(entries)/parts, (part+1)*len(entries)/parts
		decodePart := func() error {
			var like *events.Server
			for i := from; i < to; i++ {
				if before := f.servers[entries[i].Key]; before != nil {
					like = before
				}
				if decoded[i] = f.read(&entries[i], like); decoded[i] != nil {
					like = decoded[i]
				}
			}
			return nil
		}
		if part < parts-1 {
			g.Go(decodePart)
		} else {
			_ = decodePart() // it has no error
		}
	}
	_ = g.Wait()
	return decoded
}

// note adds a key to those of one kind of change.
func (f *Follower) note(to, from map[string]struct{}, key string, urgent bool) {
	if f.afresh {
		return
	}
	delete(from, key)
	to[key] = struct{}{}
	f.urgent = f.urgent || urgent
}

// read returns the server of an entry, nil if there is none.
func (f *Follower) read(e *Entry, like *events.Server) *events.Server {
	if e.Deleted {
		return nil
	}
	s, ok := decodeServer(e, like)
	if !ok {
		f.skipped.Add(1)
		f.log.LogAttrs(context.Background(), slog.LevelWarn, "server skipped: its value does not fit its key", slog.String("key", e.Key))
		return nil
	}
	return s
}

// decodeServer reads a value of the bucket, false if it is none or stands under another
// server's key. It shares strings with like, which may be nil.
func decodeServer(e *Entry, like *events.Server) (*events.Server, bool) {
	s, err := events.DecodeServer(e.Value, like)
	if err != nil || !s.State.Valid() {
		return nil, false
	}
	region, id, _ := strings.Cut(e.Key, ".")
	return s, s.Region == region && s.Server == id
}

// build makes a view whenever something has changed: new states at once, load that changes in
// quick succession together.
func (f *Follower) build(ctx context.Context) {
	series := NewSeries(&f.current)
	pause := time.NewTimer(viewEvery)
	defer pause.Stop()
	var ramp <-chan time.Time // while a server is in slow start
	var shown time.Time
	var took time.Duration
	for {
		ramped := false
		select {
		case <-ctx.Done():
			return
		case <-f.stale:
		case <-ramp:
			ramped = true
		}
		for {
			wait := f.pause(took) - time.Since(shown)
			if wait <= 0 {
				break
			}
			pause.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-f.stale:
			case <-pause.C:
			}
		}
		began := time.Now()
		v := f.next(series, ramped, began)
		if v == nil {
			continue
		}
		f.view.Store(v)
		ramp = nil
		if began.Before(v.settled) {
			ramp = time.After(rampEvery)
		}
		if f.changed != nil {
			f.changed(v)
		}
		shown = time.Now()
		took = shown.Sub(began)
	}
}

// pause returns how long after a view, which took so long to make, the next is due.
func (f *Follower) pause(took time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.urgent {
		return min(viewEvery, max(stateEvery, viewBreath*took))
	}
	return viewEvery
}

// next makes the view of what has changed, nil if nothing has and none is asked for.
func (f *Follower) next(series *Series, asked bool, now time.Time) *View {
	f.mu.Lock()
	afresh := f.afresh
	changed, gone := make([]*events.Server, 0, len(f.changes)), slices.Collect(maps.Keys(f.gone))
	if afresh {
		changed = slices.Grow(changed, len(f.servers))
		for _, s := range f.servers {
			changed = append(changed, s)
		}
	}
	for key := range f.changes {
		changed = append(changed, f.servers[key])
	}
	clear(f.changes)
	clear(f.gone)
	f.afresh, f.urgent = false, false
	f.mu.Unlock()
	switch {
	case afresh:
		slices.SortFunc(changed, compareServers)
		return series.All(changed, now)
	case len(changed) == 0 && len(gone) == 0 && !asked:
		return nil
	}
	return series.Next(changed, gone, now)
}

// signal leaves a token for whoever waits, once for any number of signals.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
