package idempotency

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// finishPatience is how long a reply waits to be written down before the client gets it without that.
const finishPatience = 2 * time.Second

// doingKey is the key of a request's doing in its context.
type doingKey struct{}

// doing is what a handler is told of the request that it serves, and says of it.
type doing struct {
	// key is zero where the request has none; ledger says that Tx will be believed.
	key         Key
	fingerprint string
	ledger      bool
	// nothing was done; the reply was stored by Tx; another transaction has been first.
	nothing, stored, superseded atomic.Bool
}

// NothingDone says that the request has had no effect, and will have none: its reply is not kept, and a retry with the same
// key runs the handler again. It is for replies such as "too many requests" or "try later", and does nothing where the
// request has no key.
func NothingDone(ctx context.Context) {
	if d, ok := ctx.Value(doingKey{}).(*doing); ok {
		d.nothing.Store(true)
	}
}

// Ways in which a reply is lost.
const (
	whyTooLong = "its reply was too long to be kept"
	whyBroke   = "the handler broke off"
	whyHungUp  = "the client hung up before there was a reply"
	// whyRolledBack is settled by the ledger.
	whyRolledBack = "whether its transaction was committed is not known"
)

// execute runs the handler and keeps its reply. Nothing of it reaches the client before it is kept, unless it is too long,
// flushed, or the store is away.
func (g *Guard) execute(w http.ResponseWriter, r *http.Request, body []byte, next http.Handler, x *execution) {
	defer g.running.leave(x.key)
	d := &doing{key: x.key, fingerprint: x.entry.Fingerprint, ledger: g.cfg.Ledger != nil}
	rec := &recorder{w: w, max: g.cfg.MaxReply, kept: g.kept}
	before := w.Header().Clone()
	ended := false
	defer func() {
		if !ended { // a panic is on its way through
			g.finish(r.Context(), x, StateLost, nil, whyBroke)
		}
	}()
	inner := r.WithContext(context.WithValue(r.Context(), doingKey{}, d))
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	next.ServeHTTP(rec, inner)
	ended = true

	if d.superseded.Load() && !rec.passing {
		clear(w.Header())
		maps.Copy(w.Header(), before)
		g.superseded(w, r, x)
		return
	}
	silent := rec.status == 0
	if silent {
		rec.WriteHeader(http.StatusOK)
	}
	state, why := d.outcome(rec, silent && r.Context().Err() != nil)
	var reply *Reply
	if state == StateDone {
		reply = rec.reply()
	}
	g.finish(r.Context(), x, state, reply, why)
	rec.pass()
}

// outcome says how a handler has ended, by its reply and what it has said beside it. hungUp: it had nothing to reply after the
// client had gone, and may have noticed that halfway.
func (d *doing) outcome(rec *recorder, hungUp bool) (s State, why string) {
	broken := rec.status >= http.StatusInternalServerError
	switch {
	case d.nothing.Load():
		return StateVoid, ""
	case d.superseded.Load(), d.stored.Load() && broken:
		return StateLost, whyRolledBack
	case d.ledger && broken && !hungUp: // without Tx nothing can have been committed
		return StateVoid, ""
	case hungUp:
		return StateLost, whyHungUp
	case rec.tooLong:
		return StateLost, whyTooLong
	default:
		return StateDone, ""
	}
}

// finish writes down how an execution has ended. If that fails it stays begun.
func (g *Guard) finish(ctx context.Context, x *execution, s State, reply *Reply, why string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	x.entry.State, x.entry.Reply, x.entry.Why = s, reply, why
	outcome := string(s)
	if err := g.write(ctx, x); err != nil {
		outcome = "unwritten"
		g.log.LogAttrs(ctx, slog.LevelError, "reply could not be kept: a retry of the request will be outcome_unknown",
			slog.String("key", x.key.String()), slog.String("error", err.Error()))
	}
	g.metrics.requests.WithLabelValues(outcome).Inc()
}

// write stores the entry over its own last write, whose revision nobody else changes: where the store says so, it is this
// very write that was applied before its acknowledgement was lost.
func (g *Guard) write(ctx context.Context, x *execution) (err error) {
	for range writeTries {
		_, err = g.cfg.Store.Put(ctx, x.key, x.entry, x.revision)
		if err == nil {
			return nil
		}
		was, revision, seen := g.cfg.Store.Get(ctx, x.key)
		switch {
		case seen == nil && was.Op == x.entry.Op && was.State == x.entry.State:
			return nil
		case seen != nil || was.Op != x.entry.Op || revision != x.revision:
			return errors.Join(err, seen)
		}
	}
	return err
}

// writeTries bounds how often a write that was not applied is sent.
const writeTries = 3

// Send writes the reply, as a handler does that has stored it with Tx.
func (r *Reply) Send(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.Header)
	if !bodyAllowed(r.Status) || len(r.Body) == 0 {
		w.WriteHeader(r.Status)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(r.Body)))
	w.WriteHeader(r.Status)
	_, _ = w.Write(r.Body) // an error is the client's: it has gone
}

// replay answers as the first one was.
func (g *Guard) replay(w http.ResponseWriter, reply *Reply) {
	g.metrics.requests.WithLabelValues("replayed").Inc()
	w.Header().Set(HeaderReplayed, "true")
	reply.Send(w)
}

// refuse answers with a problem document.
func (g *Guard) refuse(w http.ResponseWriter, refusal *api.Error) {
	g.metrics.requests.WithLabelValues(string(refusal.Code)).Inc()
	server.WriteProblem(w, refusal)
}
