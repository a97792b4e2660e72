package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// ErrFenced says that somebody else has written a key since it was read.
var ErrFenced = errors.New("another registry has written")

// Times and bounds of the projector.
const (
	// maxWrites is how many writes are under way at once, each of another key. Those of new
	// states are first; others are written so many at a time, that a new state waits for no more.
	maxWrites  = 128
	maxPatient = 16
	// writeTimeout bounds the writes of one batch.
	writeTimeout = 2 * time.Second
	// A write that failed is tried again after the first of these, then ever later.
	writeFirstRetry = 20 * time.Millisecond
	writeLastRetry  = time.Second
)

// projector writes berth_servers: of each key the newest value that it was given, fenced by
// the revision that it knows.
type projector struct {
	region  string
	store   Store
	log     *slog.Logger
	metrics *metrics
	// counted is told of sequences of the own region that somebody else has written.
	counted func(seq uint64)
	// leads reports whether this registry may write.
	leads func() bool
	wake  chan struct{}

	// mu guards the fields below. wanted is what is to be written, nil for a key to remove, of
	// each key the newest; urgent are those keys of it whose state has changed since the one
	// in states, which was wanted before. fresh are revisions that were read at an election,
	// nil once they are taken.
	mu     sync.Mutex
	wanted map[string]*events.Server
	urgent map[string]struct{}
	states map[string]events.State
	fresh  map[string]uint64

	// The fields below belong to run. revisions are those of the keys as last read or
	// written; unsure says that somebody else has written, or the outcome of a write is not
	// known, so that they must be read again.
	revisions map[string]uint64
	unsure    bool
}

func newProjector(region string, store Store, log *slog.Logger, m *metrics, counted func(uint64), leads func() bool) *projector {
	return &projector{
		region: region, store: store, log: log, metrics: m, counted: counted, leads: leads, wake: make(chan struct{}, 1),
		wanted: map[string]*events.Server{}, urgent: map[string]struct{}{}, states: map[string]events.State{},
		revisions: map[string]uint64{},
	}
}

// read reads the bucket: its servers, and every key's revision. A key whose value is no server
// is there to be overwritten.
func (p *projector) read(ctx context.Context) ([]events.Server, map[string]uint64, error) {
	entries, err := p.store.Load(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read view: %w", err)
	}
	revisions := make(map[string]uint64, len(entries))
	var servers []events.Server
	for i := range entries {
		e := &entries[i]
		if e.Deleted {
			continue
		}
		revisions[e.Key] = e.Revision
		if s, ok := decodeServer(e, nil); ok && s.Validate() == nil {
			servers = append(servers, *s)
		}
	}
	return servers, revisions, nil
}

// elected reads the bucket at the beginning of a term. Only the newest value of each key is
// wanted from then on, and of the former term none.
func (p *projector) elected(ctx context.Context) ([]events.Server, error) {
	servers, revisions, err := p.read(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh = revisions
	clear(p.wanted)
	clear(p.urgent)
	return servers, nil
}

// want takes over what a table tells. It does not wait.
func (p *projector) want(told Told) {
	if len(told.Values) == 0 && len(told.Gone) == 0 {
		return
	}
	p.mu.Lock()
	for _, s := range told.Values {
		key := s.Key()
		p.wanted[key] = s
		if p.states[key] != s.State {
			p.states[key] = s.State
			p.urgent[key] = struct{}{}
		}
	}
	for _, key := range told.Gone {
		p.wanted[key] = nil
		delete(p.states, key)
	}
	p.mu.Unlock()
	signal(p.wake)
}

// run writes until ctx ends, and then what is left for a moment more.
func (p *projector) run(ctx context.Context) {
	failing := false
	for retry := writeFirstRetry; ; {
		select {
		case <-ctx.Done():
			p.drain(ctx)
			return
		case <-p.wake:
		}
		err := p.flush(ctx)
		if err == nil || ctx.Err() != nil {
			retry, failing = writeFirstRetry, false
			continue
		}
		if !failing && !errors.Is(err, ErrFenced) {
			failing = true
			p.log.LogAttrs(ctx, slog.LevelWarn, "view not written, will try again", slog.String("error", err.Error()))
		}
		sleep(ctx, retry)
		retry = min(2*retry, writeLastRetry)
		signal(p.wake)
	}
}

func (p *projector) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	if err := p.flush(ctx); err != nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "last changes of the view not written", slog.String("error", err.Error()))
	}
}

// flush writes all that is wanted, each key once. What failed is wanted again, unless there
// is something newer.
func (p *projector) flush(ctx context.Context) error {
	for {
		batch, more := p.take()
		if err := p.write(ctx, batch); err != nil || !more {
			return err
		}
	}
}

// take returns what is to be written next, and whether there is more.
func (p *projector) take() (batch map[string]*events.Server, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fresh != nil {
		p.revisions, p.fresh, p.unsure = p.fresh, nil, false
	}
	if len(p.wanted) <= maxPatient {
		batch = p.wanted
		p.wanted = make(map[string]*events.Server)
		clear(p.urgent)
		return batch, false
	}
	batch = make(map[string]*events.Server, len(p.urgent)+maxPatient)
	for key := range p.urgent {
		batch[key] = p.wanted[key]
		delete(p.wanted, key)
	}
	clear(p.urgent)
	patient := 0
	for key, s := range p.wanted {
		if patient++; patient > maxPatient {
			break
		}
		batch[key] = s
		delete(p.wanted, key)
	}
	return batch, len(p.wanted) > 0
}

// write writes a batch.
func (p *projector) write(ctx context.Context, batch map[string]*events.Server) error {
	if len(batch) == 0 || !p.leads() {
		return nil // the next leader writes every value anew
	}
	if p.unsure {
		if err := p.reload(ctx); err != nil {
			for key, s := range batch {
				p.again(key, s)
			}
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var first error
	keys := sortedKeys(batch)
	for len(keys) > 0 {
		n := min(len(keys), maxWrites)
		if err := p.writeSome(ctx, keys[:n], batch); err != nil && (first == nil || errors.Is(first, ErrFenced)) {
			first = err
		}
		keys = keys[n:]
		if ctx.Err() != nil { // what is left is not begun: nobody could wait for it any more
			for _, key := range keys {
				p.again(key, batch[key])
			}
			break
		}
	}
	return first
}

// writeSome writes the values of some keys of a batch, all at once.
func (p *projector) writeSome(ctx context.Context, keys []string, batch map[string]*events.Server) (first error) {
	ends := make([]func(context.Context) (uint64, error), len(keys))
	for i, key := range keys {
		ends[i] = p.begin(key, batch[key])
	}
	for i, key := range keys {
		if ends[i] == nil {
			continue
		}
		written, err := ends[i](ctx)
		p.count(err)
		switch {
		case err != nil:
			p.unsure = true
			if first == nil || errors.Is(first, ErrFenced) {
				first = fmt.Errorf("write %s: %w", key, err)
			}
			p.again(key, batch[key])
		case batch[key] == nil:
			delete(p.revisions, key)
		default:
			p.revisions[key] = written
		}
	}
	return first
}

// begin starts to write one key; nil if there is nothing to write.
func (p *projector) begin(key string, s *events.Server) (end func(context.Context) (uint64, error)) {
	failed := func(err error) func(context.Context) (uint64, error) {
		return func(context.Context) (uint64, error) { return 0, err }
	}
	revision := p.revisions[key]
	if s == nil {
		if revision == 0 {
			return nil
		}
		if !p.leads() {
			return failed(ErrFenced)
		}
		return p.store.Begin(key, nil, revision)
	}
	value, err := json.Marshal(s)
	switch {
	case err != nil:
		return failed(fmt.Errorf("encode server: %w", err))
	case !p.leads():
		return failed(ErrFenced)
	}
	return p.store.Begin(key, value, revision)
}

// count counts how a write went.
func (p *projector) count(err error) {
	outcome := "written"
	switch {
	case errors.Is(err, ErrFenced):
		outcome = "fenced"
	case err != nil:
		outcome = "failed"
	}
	p.metrics.writes.WithLabelValues(outcome).Inc()
}

// reload reads the revisions anew. What this registry heard is newer than what it reads, so
// its values are written over those of others; but where another registry of the region has
// counted further, the count goes on from there.
func (p *projector) reload(ctx context.Context) error {
	servers, revisions, err := p.read(ctx)
	if err != nil {
		return err
	}
	p.revisions, p.unsure = revisions, false
	var highest uint64
	for i := range servers {
		if servers[i].Region == p.region {
			highest = max(highest, servers[i].Seq)
		}
	}
	p.counted(highest)
	return nil
}

// again wants a value that was not written, unless there is a newer one.
func (p *projector) again(key string, s *events.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, newer := p.wanted[key]; !newer {
		p.wanted[key] = s
	}
}
