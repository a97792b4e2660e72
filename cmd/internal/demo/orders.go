// Package demo is a small order API of three dependent requests, locked by berth: what
// `berth dev` runs as its regional servers. Its orders are kept per region and not
// replicated, so that a request which reaches another region finds nothing.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/sdk/server"
)

// Order is a workflow of three steps: cart, address, checkout.
type Order struct {
	ID      string   `json:"orderId"`
	Items   []string `json:"items"`
	Address string   `json:"address,omitempty"`
	// Status is cart, addressed or placed.
	Status string `json:"status"`
	// Region and Servers say where the order lives and who served its steps.
	Region  string   `json:"region"`
	Servers []string `json:"servers"`
	Subject string   `json:"subject"`
}

// errNoOrder says that the region has no such order.
var errNoOrder = errors.New("no such order")

// Orders keeps the orders of one region, durably. Load fails with errNoOrder, wrapped, for
// an order of another region. Save overwrites.
type Orders interface {
	Load(ctx context.Context, id string) (Order, error)
	Save(ctx context.Context, o Order) error
}

// shop serves the API.
type shop struct {
	server, region string
	orders         Orders
	log            *slog.Logger
}

// routes returns the API. All of it wants the lock's claims in the context.
func (s *shop) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/cart", s.cart)
	mux.HandleFunc("POST /api/address", s.address)
	mux.HandleFunc("POST /api/checkout", s.checkout)
	return mux
}

// requestTimeout bounds the storage of one step; maxBody the size of its request.
const (
	requestTimeout = 3 * time.Second
	maxBody        = 16 << 10
)

// step is a request of any of the three.
type step struct {
	OrderID string   `json:"orderId"`
	Items   []string `json:"items"`
	Address string   `json:"address"`
}

func (s *shop) cart(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, http.StatusCreated, func(_ context.Context, in step) (Order, error) {
		if len(in.Items) == 0 {
			return Order{}, fault{http.StatusBadRequest, `want {"items": ["…"]}`}
		}
		return Order{ID: strings.ToLower(ulid.Make().String()), Items: in.Items, Status: "cart", Region: s.region}, nil
	})
}

func (s *shop) address(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, http.StatusOK, func(ctx context.Context, in step) (Order, error) {
		o, err := s.continued(ctx, r, in, "cart", "addressed")
		if err == nil && in.Address == "" {
			err = fault{http.StatusBadRequest, `want {"orderId": "…", "address": "…"}`}
		}
		o.Address, o.Status = in.Address, "addressed"
		return o, err
	})
}

func (s *shop) checkout(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, http.StatusOK, func(ctx context.Context, in step) (Order, error) {
		o, err := s.continued(ctx, r, in, "addressed")
		o.Status = "placed"
		return o, err
	})
}

// continued returns the order of an earlier step, whose status must be one of want.
func (s *shop) continued(ctx context.Context, r *http.Request, in step, want ...string) (Order, error) {
	o, err := s.orders.Load(ctx, in.OrderID)
	claims, _ := server.ClaimsFrom(r.Context())
	switch {
	case errors.Is(err, errNoOrder), err == nil && o.Subject != claims.Subject:
		return Order{}, fault{http.StatusNotFound, fmt.Sprintf("region %s has no order %q: its first step went to another region, or never was", s.region, in.OrderID)}
	case err != nil:
		return Order{}, err
	case !slices.Contains(want, o.Status):
		return Order{}, fault{http.StatusConflict, fmt.Sprintf("order %s is %s", o.ID, o.Status)}
	}
	return o, nil
}

// fault is a refusal that the client caused.
type fault struct {
	status int
	detail string
}

func (f fault) Error() string { return f.detail }

// serve runs one step: body in, order changed and saved, order out.
func (s *shop) serve(w http.ResponseWriter, r *http.Request, status int, change func(context.Context, step) (Order, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	o, err := s.change(ctx, http.MaxBytesReader(w, r.Body, maxBody), r, change)
	var f fault
	switch {
	case err == nil:
		answer(w, status, o)
	case errors.As(err, &f):
		answer(w, f.status, map[string]string{"error": f.detail, "server": s.server})
	default:
		s.log.LogAttrs(ctx, slog.LevelWarn, "step failed", slog.String("path", r.URL.Path), slog.String("error", err.Error()))
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the orders cannot be reached; try again", "server": s.server})
	}
}

func (s *shop) change(ctx context.Context, body io.Reader, r *http.Request, change func(context.Context, step) (Order, error)) (Order, error) {
	var in step
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return Order{}, fault{http.StatusBadRequest, "the body is not JSON: " + err.Error()}
	}
	o, err := change(ctx, in)
	if err != nil {
		return Order{}, err
	}
	if claims, ok := server.ClaimsFrom(r.Context()); ok {
		o.Subject = claims.Subject
	}
	o.Servers = append(o.Servers, s.server)
	return o, s.orders.Save(ctx, o)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; there is nobody to tell
}
