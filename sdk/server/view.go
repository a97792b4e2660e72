package server

import (
	"context"
	"sync"

	"github.com/berthhq/berth/registry"
)

// View returns the servers of all regions with their state and load, as the registry of the
// own region sees them; View.Age says how old that is. It is nil until the first has come.
func (a *Agent) View() *registry.View { return a.follower.View() }

// WatchView calls fn with the present view, as soon as there is one, and then with each newer
// one, until ctx ends. It leaves out those that came while fn was busy, but never the last.
func (a *Agent) WatchView(ctx context.Context, fn func(*registry.View)) {
	changed, stop := a.viewers.add()
	defer stop()
	var told *registry.View
	for {
		if v := a.View(); v != told {
			told = v
			fn(v)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// followView keeps the view until ctx ends.
func (a *Agent) followView(ctx context.Context) {
	a.persist(ctx, "follow active servers", func() error { return watchEnded(ctx, a.follower.Run(ctx)) })
}

// viewers are those who wait for the next view.
type viewers struct {
	// mu guards waiting.
	mu      sync.Mutex
	waiting map[chan struct{}]struct{}
}

func newViewers() *viewers { return &viewers{waiting: make(map[chan struct{}]struct{})} }

func (v *viewers) add() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting[c] = struct{}{}
	return c, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiting, c)
	}
}

// wake tells everyone that there is a new view.
func (v *viewers) wake() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for c := range v.waiting {
		select {
		case c <- struct{}{}:
		default: // told already
		}
	}
}
