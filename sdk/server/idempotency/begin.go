package idempotency

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/tokens/api"
)

// execution is a request that is to be served: by the handler, or by the reply of the first one.
type execution struct {
	key      Key
	entry    Entry
	revision Revision
	// reply is what the first one was answered, nil if this is the first.
	reply *Reply
}

// begin writes down that the request has begun, or says what became of the one before. Who gets an execution without a reply
// runs it, and calls leave.
func (g *Guard) begin(ctx context.Context, key Key, fingerprint string) (*execution, *api.Error) {
	if other, ok := g.running.enter(key, fingerprint); !ok {
		if other != fingerprint {
			return nil, refusalOf(Mismatch)
		}
		return nil, refusalOf(InFlight)
	}
	x, refusal := g.claim(ctx, key, fingerprint)
	if refusal != nil || x.reply != nil {
		g.running.leave(key)
	}
	return x, refusal
}

// claim does so for the only request with the key that this process serves. What was begun in this region comes first: only
// a key that is new here may have come from elsewhere with its session.
func (g *Guard) claim(ctx context.Context, key Key, fingerprint string) (*execution, *api.Error) {
	now := time.Now()
	x := &execution{key: key, entry: Entry{
		Version: EntryVersion, State: StateBegun, Op: ulid.Make().String(), Owner: g.cfg.Self, Fingerprint: fingerprint,
		BegunAt: now.UTC(), Deadline: now.Add(g.cfg.Deadline).UTC(), ExpiresAt: now.Add(g.cfg.TTL).UTC(),
	}}
	expected, over := Revision(0), ""
	for range claimTries {
		var err error
		if x.revision, err = g.cfg.Store.Put(ctx, key, x.entry, expected); err == nil {
			g.running.forget(over)
			return g.elsewhere(ctx, x)
		}
		was, revision, seen := g.cfg.Store.Get(ctx, key)
		switch {
		case seen == nil && was.Op == x.entry.Op: // its acknowledgement was lost
			x.revision = revision
			return g.elsewhere(ctx, x)
		case !errors.Is(err, ErrConflict), seen != nil && !errors.Is(seen, ErrNotFound):
			g.running.abandon(x.entry.Op)
			return nil, g.noStore(ctx, errors.Join(err, seen))
		case seen != nil: // it has just expired
			expected, over = 0, ""
			continue
		}
		first, verdict := &was, g.judge(&was, fingerprint)
		if verdict == Unknown && g.cfg.Ledger != nil {
			if first, verdict, err = g.committed(ctx, key, fingerprint); err != nil {
				return nil, g.noStore(ctx, err)
			}
		}
		if verdict != Run {
			return x.answered(first, verdict)
		}
		expected, over = revision, was.Op
	}
	return nil, refusalOf(InFlight) // somebody else is quicker each time
}

// claimTries bounds how often an entry that says nothing is written over, while others do the same.
const claimTries = 4

// elsewhere looks whether a request that has just been claimed was begun in another region. If so, that is what is kept here,
// too: from here it is copied on, where the session may go next.
func (g *Guard) elsewhere(ctx context.Context, x *execution) (*execution, *api.Error) {
	if g.cfg.Copies == nil {
		return x, nil
	}
	copies, err := g.cfg.Copies.Copies(ctx, x.key)
	if err != nil {
		g.withdraw(ctx, x, &Entry{State: StateVoid})
		return nil, g.noStore(ctx, err)
	}
	first, verdict := g.settled(copies, x.entry.Fingerprint)
	if verdict == Unknown { // what was committed may have been replicated here, what was not says nothing
		if e, v, err := g.committed(ctx, x.key, x.entry.Fingerprint); err == nil && e != nil {
			first, verdict = e, v
		}
	}
	switch verdict {
	case Run:
		return x, nil
	case Replay:
		g.withdraw(ctx, x, first)
	case Mismatch:
		g.withdraw(ctx, x, &Entry{State: StateVoid})
	default:
		g.withdraw(ctx, x, &Entry{State: StateLost, Why: first.Why})
	}
	return x.answered(first, verdict)
}

// settled returns the copy that counts: one with a reply before one without.
func (g *Guard) settled(copies []Entry, fingerprint string) (first *Entry, v Verdict) {
	v = Run
	for i := range copies {
		switch now := g.judge(&copies[i], fingerprint); now {
		case Run:
		case Replay:
			return &copies[i], now
		default:
			first, v = &copies[i], now
		}
	}
	return first, v
}

// withdraw writes how another region has left the request over the claim, which was never carried out. If that fails the
// claim is remembered as empty.
func (g *Guard) withdraw(ctx context.Context, x *execution, as *Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	x.entry.State, x.entry.Reply, x.entry.Why = as.State, as.Reply, as.Why
	if err := g.write(ctx, x); err != nil {
		g.running.abandon(x.entry.Op)
	}
}

// judge says what becomes of the request by an entry.
func (g *Guard) judge(e *Entry, fingerprint string) Verdict {
	if e.State == StateBegun && e.Owner == g.cfg.Self && g.running.wasAbandoned(e.Op) {
		return Run
	}
	gone := e.State == StateBegun && g.cfg.Gone(e.Owner)
	return Judge(e, Retry{Fingerprint: fingerprint, Self: g.cfg.Self, Gone: gone}, time.Now())
}

// answered is the execution, or the refusal, of a request whose first one's entry is known.
func (x *execution) answered(first *Entry, v Verdict) (*execution, *api.Error) {
	if v == Replay {
		x.reply = first.Reply
		return x, nil
	}
	refusal := refusalOf(v)
	if v == Unknown && first.Why != "" {
		refusal.Detail = "the request was carried out and " + first.Why + "; " + lookFirst
	}
	return nil, refusal
}

const lookFirst = "look whether it had its effect before you send it under a new key"

// refusalOf returns what a client is told of a verdict other than Run and Replay.
func refusalOf(v Verdict) *api.Error {
	switch v {
	case Mismatch:
		return &api.Error{Code: api.CodeIdempotencyMismatch, Detail: "an earlier request with this key had another method, path, query or body; choose a new key"}
	case InFlight:
		return &api.Error{Code: api.CodeIdempotencyInFlight, Detail: "wait, then send the same request again", RetryAfter: 1}
	default:
		return &api.Error{Code: api.CodeOutcomeUnknown, Detail: "the server that began the request has not told how it ended; " + lookFirst}
	}
}

// noStore is the refusal of a request that has not begun because nothing could be read, or written.
func (g *Guard) noStore(ctx context.Context, err error) *api.Error {
	if ctx.Err() == nil { // else it is the client that has gone
		g.log.LogAttrs(ctx, slog.LevelWarn, "idempotency keys cannot be read or written: requests with one are refused",
			slog.String("error", err.Error()))
	}
	return unavailable("idempotency keys cannot be stored now; nothing was done, send the same request again", err)
}
