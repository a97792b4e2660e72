// Package primary has documents changed in one region and read in all: a change is one compare-and-swap
// in the primary region, wherever an operator asks for it, and comes to the other regions as a copy.
package primary

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/berthhq/berth/events"
)

// ErrConflict says that a document was not written, for another change came first.
var ErrConflict = errors.New("document changed meanwhile")

// Store holds the documents of the region in which they are changed.
//
// Get returns what the last acknowledged Put wrote, never an older replica's state; nil and 0 where there
// is nothing. Put writes a document if the revision is still the last; on ErrConflict nothing was
// written, on any other error that is unknown. Neither retries. Both are safe for concurrent use.
type Store interface {
	Get(ctx context.Context, name string) (document []byte, revision uint64, err error)
	Put(ctx context.Context, name string, document []byte, revision uint64) error
}

// Watcher follows the region's copy of all documents.
//
// Watch calls fn for all documents that there are (complete), then for those that change, one call at a
// time, and again for all after the connection was away; a document that is gone is nil. proof is called
// with the time as of which that is all that the primary region had, whenever that is known anew. It
// ends with ctx, which is no error.
type Watcher interface {
	Watch(ctx context.Context, fn func(documents map[string][]byte, complete bool), proof func(at time.Time)) error
}

// Caller sends a request to a service and waits for its one reply, until ctx ends. A refusal of the
// service is an error of type *Refusal; with any other it is open whether it did what was asked.
type Caller interface {
	Call(ctx context.Context, subject string, data []byte) ([]byte, error)
}

// Refusal is why something was not done.
type Refusal struct {
	// Code is a status of HTTP, Detail one line.
	Code   int
	Detail string
}

func (e *Refusal) Error() string { return e.Detail }

// Refuse returns a Refusal.
func Refuse(code int, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Seat is where one kind of document is changed, as seen from a region. All fields but Primary are
// required.
type Seat struct {
	Region string
	// Primary is the region in which the documents are changed. Empty: they are not.
	Primary string
	// Service is the name of the service that changes them, in every region: rpc.<service>.
	Service string
	// Documents is what messages call them: a plural.
	Documents string
	// Store has the primary's documents; it is used only there.
	Store  Store
	Caller Caller
}

// Validate returns the first fault.
func (s *Seat) Validate() error {
	switch {
	case !events.ValidToken(s.Region):
		return fmt.Errorf("region %q: want 1 to %d of a-z 0-9 - _", s.Region, events.MaxToken)
	case s.Primary != "" && !events.ValidToken(s.Primary):
		return fmt.Errorf("primary region %q: want 1 to %d of a-z 0-9 - _", s.Primary, events.MaxToken)
	case s.Service == "" || s.Documents == "" || s.Store == nil || s.Caller == nil:
		return errors.New("service, documents, store and caller are required")
	}
	return nil
}

// Subject returns the subject of a service's method in a region.
func Subject(service, region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: service, Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// Here reports whether a change is made in this region; if not, it is to be passed on. via is the region
// that has passed it on already, empty: none. It fails with a *Refusal where no region, or another one
// than that takes it for, is the primary.
func (s *Seat) Here(via string) (bool, error) {
	switch {
	case via != "" && s.Primary != s.Region:
		name := s.Primary
		if name == "" {
			name = "none"
		}
		return false, Refuse(http.StatusConflict, "region %s takes %s for the primary region, and that one %s: set the same --primary-region everywhere",
			via, s.Region, name)
	case s.Primary == "":
		return false, Refuse(http.StatusServiceUnavailable,
			"no primary region is set, so %s cannot be changed: start the token services of all regions with the same --primary-region", s.Documents)
	}
	return s.Primary == s.Region, nil
}

// Pass has the primary region do what the request asks of it, and returns its answer. An error is a
// *Refusal.
func Pass[R any](ctx context.Context, s *Seat, method string, request any) (reply R, err error) {
	data, err := json.Marshal(request)
	if err != nil {
		return reply, fmt.Errorf("encode request: %w", err)
	}
	answer, err := s.Caller.Call(ctx, Subject(s.Service, s.Primary, method), data)
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return reply, refusal
	}
	if err != nil {
		return reply, Refuse(http.StatusServiceUnavailable, "%s are changed in region %s, which does not answer %s: %v; if anything was changed is not known, try again",
			s.Documents, s.Primary, s.Region, err)
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, Refuse(http.StatusBadGateway, "region %s gave no proper answer: %v", s.Primary, err)
	}
	return reply, nil
}

// changeAttempts bounds how often a change is tried again because another came first.
const changeAttempts = 8

// Change writes what edit makes of a document, nil if there is none yet; nothing if it makes nil of it.
// edit is called again when another change came first. An error is edit's own, or a *Refusal.
func (s *Seat) Change(ctx context.Context, name string, edit func(document []byte) (next []byte, err error)) error {
	for range changeAttempts {
		document, revision, err := s.Store.Get(ctx, name)
		if err != nil {
			return Refuse(http.StatusServiceUnavailable, "%s could not be read: %v", name, err)
		}
		next, err := edit(document)
		if err != nil || next == nil {
			return err
		}
		switch err := s.Store.Put(ctx, name, next, revision); {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return Refuse(http.StatusServiceUnavailable, "whether %s was changed is not known, try again: %v", name, err)
		}
		return nil
	}
	return Refuse(http.StatusConflict, "%s is being changed by others; nothing was changed", name)
}

// Method answers a request of at most so many bytes with what fn returns, both as JSON.
func Method[Q, R any](most int, fn func(context.Context, Q) (R, error)) func(ctx context.Context, data []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		var q Q
		if len(data) > most {
			return nil, Refuse(http.StatusRequestEntityTooLarge, "request of %d bytes: at most %d are read", len(data), most)
		}
		if err := json.Unmarshal(data, &q); err != nil {
			return nil, Refuse(http.StatusBadRequest, "request cannot be read: %v", err)
		}
		reply, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	}
}

// StaleAfter is the age from which a copy is told to be old.
const StaleAfter = 10 * time.Second

// Age returns how old a copy may be that was last proven to be the primary's at current, in
// milliseconds, -1 if that is not known, and what an operator should know of it; empty: nothing.
func (s *Seat) Age(current, now time.Time) (ms int64, warning string) {
	ms = -1
	if !current.IsZero() {
		ms = max(0, now.Sub(current)).Milliseconds()
	}
	switch {
	case s.Primary == "":
		return ms, fmt.Sprintf("no primary region is set: %s cannot be changed", s.Documents)
	case ms < 0 || now.Sub(current) > StaleAfter:
		return ms, fmt.Sprintf("region %s has not heard of region %s lately: what has changed there meanwhile is not known here", s.Region, s.Primary)
	}
	return ms, ""
}
