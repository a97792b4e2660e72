package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// LeaseStore keeps the one lease of a region's registries.
//
// Get returns it as the last writer left it, revision 0 if there is none. Put writes it if
// the revision is still the one given; it fails with ErrFenced, wrapped, if somebody else has
// written. Any other error leaves open whether it was written. Both end with ctx.
type LeaseStore interface {
	Get(ctx context.Context) (value []byte, revision uint64, err error)
	Put(ctx context.Context, value []byte, revision uint64) (uint64, error)
}

// leaseRequest bounds one request about the lease.
const leaseRequest = 400 * time.Millisecond

// leaseValue is the lease as it is stored. Nobody compares At: it is for people.
type leaseValue struct {
	Holder string    `json:"holder"`
	At     time.Time `json:"at"`
}

// leader keeps a registry's hold of the lease.
type leader struct {
	self    string
	store   LeaseStore
	log     *slog.Logger
	metrics *metrics
	// elected is called when a term begins, beside the renewals; ctx ends with the term.
	elected func(ctx context.Context, term uint64, first bool)
	// term is the present one, nil before the first.
	term atomic.Pointer[term]

	// The fields below belong to run.
	lease  Lease
	sent   time.Time
	number uint64
	// end ends the present term's ctx, nil if there is none.
	end context.CancelFunc
	// begun are calls of elected under way.
	begun sync.WaitGroup
}

// term is a time for which a registry leads: until is by its own clock, zero for ever.
type term struct {
	number uint64
	until  time.Time
}

func newLeader(self string, store LeaseStore, log *slog.Logger, m *metrics, elected func(context.Context, uint64, bool)) *leader {
	return &leader{self: self, store: store, log: log, metrics: m, elected: elected}
}

// leads reports whether this registry may write now.
func (l *leader) leads() bool {
	t := l.term.Load()
	return t != nil && (t.until.IsZero() || time.Now().Before(t.until))
}

// leadsIn reports whether it may, and has gone on to in that same term.
func (l *leader) leadsIn(number uint64) bool {
	t := l.term.Load()
	return t != nil && t.number == number && l.leads()
}

// run holds the lease whenever it can until ctx ends, and then gives it up.
func (l *leader) run(ctx context.Context) {
	defer l.begun.Wait()
	if l.store == nil {
		l.term.Store(&term{number: 1})
		l.begin(ctx, 1, true)
		<-ctx.Done()
		l.stop(ctx)
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		l.step(ctx)
		if l.end != nil && !l.leads() {
			l.stop(ctx)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	l.release(ctx)
}

// step looks at the lease and does what is next.
func (l *leader) step(ctx context.Context) {
	if l.lease.Next(l.self, time.Now()) != StepRenew {
		l.look(ctx)
	}
	switch l.lease.Next(l.self, time.Now()) {
	case StepWait:
	case StepRenew:
		if time.Since(l.sent) >= renewEvery {
			l.write(ctx)
		}
	case StepTake:
		l.stop(ctx) // a term of before is over
		l.write(ctx)
	}
}

// look reads the lease.
func (l *leader) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseRequest)
	defer cancel()
	data, revision, err := l.store.Get(ctx)
	if err != nil {
		return // nothing was seen: what was seen before grows old
	}
	var v leaseValue
	if json.Unmarshal(data, &v) != nil {
		v.Holder = "" // what cannot be read holds nothing
	}
	l.lease.Saw(v.Holder, revision, time.Now())
}

// write takes or renews the lease.
func (l *leader) write(ctx context.Context) {
	data, err := json.Marshal(leaseValue{Holder: l.self, At: time.Now().UTC()})
	if err != nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, leaseRequest)
	defer cancel()
	sent := time.Now()
	first := l.lease.Revision() == 0
	revision, err := l.store.Put(limited, data, l.lease.Revision())
	if err != nil {
		l.lease.Forget(errors.Is(err, ErrFenced))
		if errors.Is(err, ErrFenced) {
			l.stop(ctx)
		}
		return
	}
	l.lease.Wrote(l.self, revision, sent)
	l.sent = sent
	if l.end != nil && !l.leads() {
		l.stop(ctx) // the term had run out meanwhile: what was left out then is told anew
	}
	fresh := l.end == nil
	if fresh {
		l.number++
	}
	l.term.Store(&term{number: l.number, until: l.lease.Until()})
	if fresh {
		l.begin(ctx, l.number, first)
	}
}

func (l *leader) begin(ctx context.Context, number uint64, first bool) {
	ctx, l.end = context.WithCancel(ctx)
	l.metrics.terms.Inc()
	l.log.LogAttrs(ctx, slog.LevelInfo, "registry leads", slog.String("registry", l.self))
	l.begun.Go(func() { l.elected(ctx, number, first) })
}

// stop ends the term, if there is one.
func (l *leader) stop(ctx context.Context) {
	l.term.Store(nil)
	if l.end == nil {
		return
	}
	l.end()
	l.end = nil
	l.log.LogAttrs(ctx, slog.LevelInfo, "registry leads no more", slog.String("registry", l.self))
}

// release gives the lease up, so that a standby need not wait for its end.
func (l *leader) release(ctx context.Context) {
	held := l.leads()
	l.stop(ctx)
	if !held {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseRequest)
	defer cancel()
	data, err := json.Marshal(leaseValue{At: time.Now().UTC()})
	if err == nil {
		_, err = l.store.Put(ctx, data, l.lease.Revision())
	}
	if err != nil {
		l.log.LogAttrs(ctx, slog.LevelWarn, "lease not given up, it will run out", slog.String("error", fmt.Sprint(err)))
	}
}
