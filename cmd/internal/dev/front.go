package dev

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/tokens/api"
)

// headerLocation says where a client is, "lat,lon" in degrees: what a geo-DNS would know.
const headerLocation = "X-Berth-Client-Location"

// frontTimeout bounds one region's answer; the front then tries the next.
const frontTimeout = 12 * time.Second

// Way is a region's token service as the front reaches it.
type Way struct {
	// Region is one of the regions that a fleet can be made of.
	Region string
	// URL is the token service's, Admin its admin listener's.
	URL, Admin string
}

// front plays the geo-DNS of the global URL: it passes each request to the token service
// nearest to the client, and to the next one if that does not answer.
type front struct {
	ways   []Way
	client *http.Client
}

// NewFront returns a handler that passes requests on to the nearest of the ways. Without a
// client's location their order is that of the list.
func NewFront(ways []Way) http.Handler {
	return &front{ways: ways, client: &http.Client{
		Timeout: frontTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBody+1))
	if err != nil {
		http.Error(w, "the request cannot be read", http.StatusBadRequest)
		return
	}
	for _, way := range f.order(r.Header.Get(headerLocation)) {
		reply, err := f.pass(r.Context(), way, r, body)
		if err != nil {
			continue
		}
		maps.Copy(w.Header(), reply.Header)
		w.WriteHeader(reply.StatusCode)
		_, _ = io.Copy(w, reply.Body) // the client has gone; there is nobody to tell
		_ = reply.Body.Close()
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "no region answers", http.StatusServiceUnavailable)
}

// pass sends the request to one region.
func (f *front) pass(ctx context.Context, way Way, r *http.Request, body []byte) (*http.Response, error) {
	out, err := http.NewRequestWithContext(ctx, r.Method, way.URL+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range r.Header {
		if name != "Connection" {
			out.Header[name] = values
		}
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		out.Header.Set("X-Forwarded-For", host) // whatever the client says of itself
	}
	return f.client.Do(out)
}

// order returns the regions nearest first for a client at the location, as configured if
// that is not known.
func (f *front) order(location string) []Way {
	at, err := events.ParseLocation(location)
	if err != nil {
		return f.ways
	}
	ways := slices.Clone(f.ways)
	slices.SortStableFunc(ways, func(a, b Way) int {
		return cmp.Compare(placement.Milliseconds(at, Location(a.Region)), placement.Milliseconds(at, Location(b.Region)))
	})
	return ways
}
