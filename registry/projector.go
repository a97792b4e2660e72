package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/berthhq/berth/events"
)

// ErrFenced says that somebody else has written a key since it was read.
var ErrFenced = errors.New("another registry has written")

// Times of the projector.
const (
	// stateEvery is the least time between two view updates.
	stateEvery = 50 * time.Millisecond
	// beatEvery is the most time between two view updates: they also say that the region
	// is there.
	beatEvery = time.Second
	// fullEvery is how often all servers are told of.
	fullEvery = 30 * time.Second
	// seqLeap is what a start adds to the highest sequence that the bucket holds: more than
	// the updates that can have gone out since that was written.
	seqLeap = 1000
)

// projector writes what the table holds: berth_servers for the own region, view updates for
// the others. It is owned by the registry's goroutine.
type projector struct {
	region string
	bus    Bus
	store  Store
	log    *slog.Logger
	// seq counts the view updates.
	seq uint64
	// revisions are those of the keys as last read or written, written their values.
	revisions map[string]uint64
	// pending are the keys to write, own the own servers to tell of, urgent says that one of
	// them is in a new state.
	pending map[string]struct{}
	own     map[string]struct{}
	urgent  bool
	// reload says that a write was fenced off or its outcome is unknown.
	reload               bool
	lastUpdate, lastFull time.Time
}

func newProjector(region string, bus Bus, store Store, log *slog.Logger) *projector {
	return &projector{
		region: region, bus: bus, store: store, log: log,
		revisions: map[string]uint64{}, pending: map[string]struct{}{}, own: map[string]struct{}{},
	}
}

// load reads the bucket: its values are where this registry begins.
func (p *projector) load(ctx context.Context) ([]events.Server, error) {
	entries, err := p.store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	clear(p.revisions)
	var servers []events.Server
	for _, e := range entries {
		p.revisions[e.Key] = e.Revision
		var s events.Server
		if json.Unmarshal(e.Value, &s) != nil || s.Key() != e.Key {
			continue // whatever it is, it will be overwritten or stay alone
		}
		servers = append(servers, s)
		if s.Region == p.region {
			p.seq = max(p.seq, s.Seq)
		}
	}
	p.reload = false
	return servers, nil
}

// begin reads the bucket and leaps over the updates that the registry before may have sent.
func (p *projector) begin(ctx context.Context) ([]events.Server, error) {
	servers, err := p.load(ctx)
	if err == nil && p.seq > 0 {
		p.seq += seqLeap
	}
	return servers, err
}

// changed notes keys to write.
func (p *projector) changed(keys []string, urgent bool) {
	for _, key := range keys {
		p.pending[key] = struct{}{}
		if region, id, ok := cutKey(key); ok && region == p.region {
			p.own[id] = struct{}{}
		}
	}
	p.urgent = p.urgent || urgent
}

// flush tells of what is due. A failure is logged and leaves the rest for the next flush.
func (p *projector) flush(ctx context.Context, t *Table, now time.Time) {
	since := now.Sub(p.lastUpdate)
	if since >= stateEvery && (p.urgent || since >= beatEvery) {
		if err := p.publish(ctx, t, now); err != nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "view update not published", slog.String("error", err.Error()))
		}
	}
	if err := p.write(ctx, t); err != nil {
		p.reload = true
		p.log.LogAttrs(ctx, slog.LevelWarn, "view not written", slog.String("error", err.Error()))
	}
}

// publish sends a view update: the own servers that changed, or all of them.
func (p *projector) publish(ctx context.Context, t *Table, now time.Time) error {
	full := now.Sub(p.lastFull) >= fullEvery
	p.seq++
	for id := range p.own {
		t.stamp(id, p.seq)
	}
	var list []events.Server
	for _, s := range t.Servers() {
		if s.Region != p.region {
			continue
		}
		if _, changed := p.own[s.Server]; changed || full {
			list = append(list, s)
		}
	}
	p.lastUpdate, p.urgent = now, false
	parts, err := split(list)
	if err != nil {
		return err
	}
	for i, part := range parts {
		u := &events.ViewUpdate{
			Version: events.Version, Region: p.region, Seq: p.seq, At: now.UTC(), Full: full,
			Part: i + 1, Of: len(parts), Servers: part, Sees: t.Sees(now),
		}
		data, err := events.Encode(u)
		if err != nil {
			return err
		}
		if err := p.bus.Publish(ctx, u.Subject().String(), data); err != nil {
			return err
		}
	}
	clear(p.own)
	if full {
		p.lastFull = now
	}
	return nil
}

// split cuts a list into parts whose encoding stays below events.MaxViewPart; at least one.
func split(list []events.Server) ([][]events.Server, error) {
	const envelope = 8 << 10 // the update's own fields
	parts := [][]events.Server{{}}
	size := envelope
	for _, s := range list {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("encode server %s: %w", s.Server, err)
		}
		if size+len(data) > events.MaxViewPart {
			parts = append(parts, []events.Server{})
			size = envelope
		}
		size += len(data) + 1
		last := len(parts) - 1
		parts[last] = append(parts[last], s)
	}
	return parts, nil
}

// write puts the pending keys into the bucket, each fenced by its revision. After a write
// that somebody else came before, the revisions are read anew and all that is pending is
// written over them: what this registry heard is newer than what it read.
func (p *projector) write(ctx context.Context, t *Table) error {
	if len(p.pending) == 0 {
		return nil
	}
	if p.reload {
		if _, err := p.load(ctx); err != nil {
			return err
		}
	}
	for _, key := range sortedKeys(p.pending) {
		s, there := t.Get(key)
		if there && s.Region == p.region {
			if _, untold := p.own[s.Server]; untold {
				continue // its sequence comes with the view update
			}
		}
		if err := p.put(ctx, key, s, there); err != nil {
			return err
		}
		delete(p.pending, key)
	}
	return nil
}

func (p *projector) put(ctx context.Context, key string, s events.Server, there bool) error {
	revision, known := p.revisions[key]
	var value []byte
	if there {
		var err error
		if value, err = json.Marshal(s); err != nil {
			return fmt.Errorf("encode server %s: %w", key, err)
		}
	} else if !known {
		return nil
	}
	revision, err := p.store.Put(ctx, key, value, revision)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if p.revisions[key] = revision; !there {
		delete(p.revisions, key)
	}
	return nil
}
