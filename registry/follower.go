package registry

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
)

// Bucket is the bucket that holds the view of a region: its keys are <region>.<server>.
const Bucket = "berth_servers"

// Follower keeps the view of a service that is no registry: a snapshot of berth_servers,
// then its changes, never a gap, with its age.
type Follower struct {
	watcher Watcher
	log     *slog.Logger
	// servers belongs to the one goroutine that applies.
	servers map[string]events.Server
	view    atomic.Pointer[View]
	current atomic.Int64
	skipped atomic.Int64
	// changed, if not nil, is called with each new view.
	changed func(*View)
}

// NewFollower returns a follower of the bucket that watcher reads. changed is called with
// each new view, one at a time, and must not block; it may be nil. log may be nil.
func NewFollower(watcher Watcher, changed func(*View), log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{watcher: watcher, log: log, servers: map[string]events.Server{}, changed: changed}
}

// Run follows until ctx ends, which is no error.
func (f *Follower) Run(ctx context.Context) error {
	err := f.watcher.Watch(ctx, Bucket, f.apply, func(at time.Time) { f.current.Store(at.UnixNano()) })
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
	if complete {
		clear(f.servers)
	}
	for _, e := range entries {
		if e.Deleted {
			delete(f.servers, e.Key)
			continue
		}
		var s events.Server
		if err := json.Unmarshal(e.Value, &s); err != nil || s.Key() != e.Key {
			f.skipped.Add(1)
			f.log.LogAttrs(context.Background(), slog.LevelWarn, "server skipped: its value does not fit its key", slog.String("key", e.Key))
			continue
		}
		f.servers[e.Key] = s
	}
	if !complete && f.view.Load() == nil {
		return
	}
	servers := sorted(f.servers)
	v := NewView(servers, seqsOf(servers), &f.current)
	f.view.Store(v)
	if f.changed != nil {
		f.changed(v)
	}
}
