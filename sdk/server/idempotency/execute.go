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

// doing is what a handler says of the request that it serves.
type doing struct{ nothing atomic.Bool }

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
)

// execute runs the handler and keeps its reply. Nothing of it reaches the client before it is kept, unless it is too long,
// flushed, or the store is away.
func (g *Guard) execute(w http.ResponseWriter, r *http.Request, body []byte, next http.Handler, x *execution) {
	defer g.running.leave(x.key)
	d := new(doing)
	rec := &recorder{w: w, max: g.cfg.MaxReply, kept: g.kept}
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

	silent := rec.status == 0
	if silent {
		rec.WriteHeader(http.StatusOK)
	}
	switch {
	case d.nothing.Load():
		g.finish(r.Context(), x, StateVoid, nil, "")
	case silent && r.Context().Err() != nil: // its handler has noticed that, perhaps halfway
		g.finish(r.Context(), x, StateLost, nil, whyHungUp)
	case rec.tooLong:
		g.finish(r.Context(), x, StateLost, nil, whyTooLong)
	default:
		g.finish(r.Context(), x, StateDone, rec.reply(), "")
	}
	rec.pass()
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

// replay answers as the first one was.
func (g *Guard) replay(w http.ResponseWriter, reply *Reply) {
	g.metrics.requests.WithLabelValues("replayed").Inc()
	h := w.Header()
	maps.Copy(h, reply.Header)
	h.Set(HeaderReplayed, "true")
	if len(reply.Body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(reply.Body)))
	}
	w.WriteHeader(reply.Status)
	_, _ = w.Write(reply.Body) // an error is the client's: it has gone
}

// refuse answers with a problem document.
func (g *Guard) refuse(w http.ResponseWriter, refusal *api.Error) {
	g.metrics.requests.WithLabelValues(string(refusal.Code)).Inc()
	server.WriteProblem(w, refusal)
}
