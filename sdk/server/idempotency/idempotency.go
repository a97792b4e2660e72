// Package idempotency promises that a request with an Idempotency-Key has its effect at most once, however often it is
// sent: a retry gets the reply of the first, or is told why it cannot have it.
//
// A Guard wraps the handlers that have effects, inside the lock. It writes down that a request has begun before the
// handler runs, and its reply before the client gets it. Where the process died in between, nobody knows whether the
// effect took place: that is 409 outcome_unknown, never a silent second execution. Judge, which decides that, is pure.
//
// The header is that of the IETF's draft-ietf-httpapi-idempotency-key-header.
package idempotency

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
)

// Headers of requests and replies.
const (
	HeaderKey = "Idempotency-Key"
	// HeaderReplayed is "true" on a reply that was given before.
	HeaderReplayed = "Idempotency-Replayed"
)

// Config is what a Guard needs. Fields without a stated zero value are required.
type Config struct {
	// Self is this process. All but Member are needed; Boot is another at every start.
	Self Owner
	// Store keeps what has begun and what was replied, for all servers of the region.
	Store Store
	// Copies reads what other regions have of a key. nil: nothing, so that a retry after a move to this region runs again.
	Copies Copies
	// Ledger knows the requests whose effects were committed with Tx, for handlers all of whose effects are in such a
	// transaction: then none is outcome_unknown for the death of a process of the region, and each takes place exactly once. nil:
	// handlers do not use Tx.
	Ledger Ledger
	// Gone reports whether a process that has begun a request has died since. false means unknown, too: then the
	// request is in flight until its deadline. A former life of this very process needs no asking. nil: always false.
	Gone func(Owner) bool

	// Require refuses requests without a key: 400 idempotency_key_required. false: they are served, each as new.
	Require bool
	// Applies says which requests are guarded; others pass, with or without a key. nil: those of methods POST and PATCH.
	Applies func(*http.Request) bool
	// Scope says whose the key of a request is. An *api.Error of it is answered as it is, any other with 503. nil: the
	// session's, as SessionScope says.
	Scope func(*http.Request) (Scope, error)

	// TTL is how long a key is remembered, 1 min to 7 days. 0: 24 h.
	TTL time.Duration
	// Deadline is how long a request that another process has begun counts as in flight, 1 s to TTL. It does not end the
	// handler. 0: 1 min.
	Deadline time.Duration
	// MaxBody bounds the body of a request, which is read before the handler runs: beyond it 413 too_large. 0: 1 MiB.
	MaxBody int64
	// MaxReply bounds the body of a reply that is kept, at most 512 KiB. A longer one reaches the client as it is, and a
	// retry is told 409 outcome_unknown. 0: 64 KiB.
	MaxReply int
	// Headers are headers of replies to keep beside those of KeptHeaders.
	Headers []string

	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
	// Metrics registers the guard's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Bounds and defaults of a Config.
const (
	defaultTTL      = 24 * time.Hour
	minTTL          = time.Minute
	maxTTL          = 7 * 24 * time.Hour
	defaultDeadline = time.Minute
	minDeadline     = time.Second
	defaultMaxBody  = 1 << 20
	defaultMaxReply = 64 << 10
	maxMaxReply     = 512 << 10
)

func (c *Config) setDefaults() {
	c.TTL = cmp.Or(c.TTL, defaultTTL)
	c.Deadline = cmp.Or(c.Deadline, min(defaultDeadline, c.TTL))
	c.MaxBody = cmp.Or(c.MaxBody, defaultMaxBody)
	c.MaxReply = cmp.Or(c.MaxReply, defaultMaxReply)
	if c.Gone == nil {
		c.Gone = func(Owner) bool { return false }
	}
	if c.Applies == nil {
		c.Applies = func(r *http.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodPatch }
	}
	if c.Scope == nil {
		c.Scope = SessionScope
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// validate returns the first fault.
func (c *Config) validate() error {
	switch {
	case !events.ValidToken(c.Self.Region) || !events.ValidToken(c.Self.Server):
		return fmt.Errorf("self %+v: want region and server, each 1 to %d of a-z 0-9 - _", c.Self, events.MaxToken)
	case c.Self.Boot == "":
		return errors.New("self: the boot is empty")
	case c.Store == nil:
		return errors.New("no store")
	case c.TTL < minTTL || c.TTL > maxTTL:
		return fmt.Errorf("TTL %s: want %s to %s", c.TTL, minTTL, maxTTL)
	case c.Deadline < minDeadline || c.Deadline > c.TTL:
		return fmt.Errorf("deadline %s: want %s to the TTL, %s", c.Deadline, minDeadline, c.TTL)
	case c.MaxBody < 1:
		return fmt.Errorf("max body %d: want at least 1", c.MaxBody)
	case c.MaxReply < 1 || c.MaxReply > maxMaxReply:
		return fmt.Errorf("max reply %d: want 1 to %d", c.MaxReply, maxMaxReply)
	}
	return nil
}

// Guard keeps requests from having their effect twice. It is safe for concurrent use.
type Guard struct {
	cfg     Config
	running running
	kept    []string
	metrics *metrics
	log     *slog.Logger
}

// New returns a guard, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Guard, error) {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("configure idempotency: %w", err)
	}
	g := &Guard{cfg: c, kept: KeptHeaders(), metrics: newMetrics(c.Metrics), log: c.Log}
	for _, name := range c.Headers {
		g.kept = append(g.kept, http.CanonicalHeaderKey(name))
	}
	return g, nil
}

// Once serves a request by next unless one with the same key was begun before. Otherwise, or where that cannot be told, it
// answers itself, with the reply of the first and Idempotency-Replayed, or with an RFC 9457 problem document:
//
//	400 idempotency_key_required, invalid_request   no key though it is required; one that is malformed
//	409 idempotency_in_flight   with Retry-After: the first is still being served
//	409 outcome_unknown   the first may have had its effect; its reply is not known
//	413 too_large   the body is longer than MaxBody
//	422 idempotency_mismatch   the first was another request: method, path, query or body differ
//	503 unavailable   with Retry-After: the store does not answer; next has not run
//
// What next replies is kept whatever its status: a reply that says no, or that something broke, is the outcome, too. A
// handler that has done nothing, and wants the retry to run, calls NothingDone. The reply is written down before the
// client gets it; where that fails the client gets it all the same, and a retry 409 outcome_unknown. So it is after a panic
// of next, and if it returns without a word because the client has gone.
//
// With a Ledger the outcome is that of the handler's transaction: what was not committed runs again, and what a handler says
// of something that broke, a 5xx, is not kept.
func (g *Guard) Once(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.cfg.Applies(r) {
			g.pass(w, r, next)
			return
		}
		text, refusal := keyOf(r.Header)
		switch {
		case refusal != nil:
			g.refuse(w, refusal)
			return
		case text == "" && g.cfg.Require:
			g.refuse(w, errKeyRequired)
			return
		case text == "":
			g.metrics.requests.WithLabelValues("without_key").Inc()
			g.pass(w, r, next)
			return
		}
		key, body, fingerprint, refusal := g.read(w, r, text)
		if refusal != nil {
			g.refuse(w, refusal)
			return
		}
		x, refusal := g.begin(r.Context(), key, fingerprint)
		switch {
		case refusal != nil:
			g.refuse(w, refusal)
		case x.reply != nil:
			g.replay(w, x.reply)
		default:
			g.execute(w, r, body, next, x)
		}
	})
}

// pass serves a request that is not guarded; Tx knows then that there is no key to store.
func (g *Guard) pass(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if g.cfg.Ledger != nil {
		r = r.WithContext(context.WithValue(r.Context(), doingKey{}, new(doing)))
	}
	next.ServeHTTP(w, r)
}
