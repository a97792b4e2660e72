package server

import (
	"context"

	"github.com/berthhq/berth/registry"
)

// View returns the servers of all regions with their state and load, as the registry of the
// own region sees them; View.Age says how old that is. It is nil until the first has come.
func (a *Agent) View() *registry.View { return a.servers.View() }

// WatchView calls fn with the present view, as soon as there is one, and then with each newer
// one, until ctx ends. It leaves out those that came while fn was busy, but never the last.
func (a *Agent) WatchView(ctx context.Context, fn func(*registry.View)) { a.servers.Watch(ctx, fn) }

// Subscription returns what keeps the view. Its Fresh says whether the view can be trusted.
func (a *Agent) Subscription() *registry.Subscription { return a.servers }

// followView keeps the view until ctx ends.
func (a *Agent) followView(ctx context.Context) {
	a.persist(ctx, "follow active servers", func() error { return watchEnded(ctx, a.servers.Run(ctx)) })
}
