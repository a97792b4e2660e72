package service

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// admin is what operators see of a service: /healthz, /readyz, /metrics and the full view.
// It listens apart from clients' paths.
type admin struct {
	ready func() error
	view  func() *registry.View
	// fresh fails while the view is stale. nil: it never is.
	fresh   func(now time.Time) error
	metrics *prometheus.Registry
	// more serves other paths. nil: there are none.
	more http.Handler
}

// AdminServers is the reply of GET /v1/servers on an admin listener: every server that the
// service knows, with its load.
type AdminServers struct {
	// AgeMS is the view's age in milliseconds.
	AgeMS int64 `json:"ageMs"`
	// Stale says that the view is too old to be trusted, or that no registry keeps it.
	Stale   bool            `json:"stale"`
	Servers []events.Server `json:"servers"`
}

// ServeHTTP implements http.Handler.
func (a admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /healthz":
		w.WriteHeader(http.StatusNoContent)
	case "GET /readyz":
		if err := a.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "GET /metrics":
		promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	case "GET /v1/servers":
		a.servers(w)
	default:
		if a.more == nil {
			http.NotFound(w, r)
			return
		}
		a.more.ServeHTTP(w, r)
	}
}

func (a admin) servers(w http.ResponseWriter) {
	list := AdminServers{Servers: []events.Server{}}
	view := a.view()
	if view == nil {
		http.Error(w, "no view yet", http.StatusServiceUnavailable)
		return
	}
	now := time.Now()
	list.AgeMS = view.Age(now).Milliseconds()
	list.Stale = a.fresh != nil && a.fresh(now) != nil
	for _, s := range view.Servers {
		list.Servers = append(list.Servers, *s)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // the client has gone; there is nobody to tell
}

// serveAdmin serves a until ctx ends; started is called with its URL, empty if address is.
func serveAdmin(ctx context.Context, address string, a admin, started func(url string)) error {
	if address == "" {
		started("")
		<-ctx.Done()
		return nil
	}
	l, err := Listen(ctx, address)
	if err != nil {
		return err
	}
	go started(URL(l))
	return ServeHTTP(ctx, l, a)
}
