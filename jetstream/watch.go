package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/registry"
)

// Entry is a key of a bucket as of a revision. Deleted says that it was removed, has expired, or was found missing.
type Entry = registry.Entry

// Update is what a Watch hands over at once.
type Update struct {
	// Entries are in the order of their revisions.
	Entries []Entry
	// Complete says that Entries is every key that there is, besides, as Deleted, those that were there and are gone.
	Complete bool
}

// WatchConfig says what to watch.
type WatchConfig struct {
	// Bucket is the bucket to watch. Required.
	Bucket string
	// Keys is the filter of keys, with the wildcards of subjects. Empty: all.
	Keys string
	// Apply gets the updates, one at a time, in order. It must not block for long, nor keep Entries. Required.
	Apply func(Update)
	// Proof, if set, is called with what Current will return, whenever that changes, by the goroutine that calls Apply.
	Proof func(at time.Time)
	// Heartbeat is how often NATS proves, while nothing changes, that the watch is current. Zero: 1 s.
	Heartbeat time.Duration
}

// Watch follows a bucket: first all keys, then each change. It survives lost connections, restarts of NATS, elections and
// a bucket that is made only later: whatever happens, its user ends up with what the bucket holds, deletions included.
// An entry may be handed over twice, never one that is older than another before it of the same key, unless the bucket
// itself was made anew or has lost its latest writes.
type Watch struct {
	conn *Conn
	cfg  WatchConfig
	// prefix is what the bucket's subjects have before their keys.
	prefix string

	// current is when the watch was last proven to have seen everything, in Unix nanoseconds; 0: never.
	current atomic.Int64

	// The fields below belong to Run.

	// known holds the keys that were handed over and not deleted since.
	known map[string]struct{}
	// last is the last revision that was handed over, at how the bucket was then.
	last uint64
	at   bucketState
}

// bucketState tells whether the revisions of a bucket go on from those that were read before.
type bucketState struct {
	server  string
	created time.Time
}

// watchBatch is how many changes are handed over at once, where as many have arrived.
const watchBatch = 256

// NewWatch returns a watch that does not run yet, or the first fault of cfg.
func (c *Conn) NewWatch(cfg WatchConfig) (*Watch, error) {
	switch {
	case cfg.Bucket == "":
		return nil, errors.New("configure watch: no bucket")
	case cfg.Apply == nil:
		return nil, errors.New("configure watch: nobody to hand updates to")
	case cfg.Heartbeat < 0 || cfg.Heartbeat > 0 && cfg.Heartbeat < 100*time.Millisecond:
		return nil, fmt.Errorf("configure watch: heartbeat %v: want at least 100ms", cfg.Heartbeat)
	}
	if cfg.Keys == "" {
		cfg.Keys = ">"
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second
	}
	return &Watch{conn: c, cfg: cfg, prefix: bucketSubject(cfg.Bucket, ""), known: map[string]struct{}{}}, nil
}

// Current returns when the watch last had proof that it had handed over everything; the zero time before that. While it
// works, that is at most two heartbeats ago. The proof is of the NATS node that is connected: how old the values
// themselves are, they have to say.
func (w *Watch) Current() time.Time {
	if at := w.current.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Run follows the bucket until ctx ends, which is no error, or the connection is closed for good.
func (w *Watch) Run(ctx context.Context) error {
	if err := w.conn.keepReading(ctx, slog.String("bucket", w.cfg.Bucket), w.follow); err != nil {
		return fmt.Errorf("watch bucket %s: %w", w.cfg.Bucket, err)
	}
	return nil
}

// follow reads until the first fault, or until wake, which it reports as nil. opened says that reading had begun.
func (w *Watch) follow(ctx context.Context, wake <-chan struct{}) (opened bool, err error) {
	f, complete, err := w.open(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		if ctx.Err() != nil {
			f.close()
		} else {
			f.abandon()
		}
	}()
	r := &reading{watch: w, feed: f, complete: complete, caughtUp: f.due == 0, current: f.due == 0}
	if r.caughtUp {
		r.handOver()
	} else {
		r.entries = make([]Entry, 0, f.due)
	}
	return true, f.readOn(ctx, wake, w.cfg.Heartbeat, r.take)
}

// open begins to read: after the last revision where nothing can be missed by that, else everything, which it reports.
func (w *Watch) open(ctx context.Context) (f *feed, complete bool, err error) {
	name := bucketStream(w.cfg.Bucket)
	lookup, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := w.conn.js.Stream(lookup, name)
	if err != nil {
		return nil, false, fmt.Errorf("look up bucket: %w", err)
	}
	info := s.CachedInfo()
	at := bucketState{server: w.conn.nc.ConnectedServerId(), created: info.Created}
	// Removed keys leave a marker for a while. Away for longer than half of that, or from a server that may have lost its
	// latest writes, only a comparison of all keys tells what is gone.
	away := time.Since(w.Current())
	resume := at == w.at && info.State.LastSeq >= w.last && away < info.Config.SubjectDeleteMarkerTTL/2
	cfg := natsjs.ConsumerConfig{
		FilterSubject: bucketSubject(w.cfg.Bucket, w.cfg.Keys),
		DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
	}
	if resume {
		cfg.DeliverPolicy, cfg.OptStartSeq = natsjs.DeliverByStartSequencePolicy, w.last+1
	}
	if f, err = w.conn.openFeed(ctx, name, w.cfg.Heartbeat, cfg); err != nil {
		return nil, false, err
	}
	w.at = at
	return f, !resume, nil
}

// reading is one run of a watch from an opened feed on.
type reading struct {
	watch *Watch
	feed  *feed
	// complete says that the feed gives every key; entries are collected until caughtUp then.
	complete, caughtUp bool
	entries            []Entry
	// current says that NATS had nothing more to send after what was read last.
	current bool
}

// take handles msg and what else has arrived by now.
func (r *reading) take(msg *nats.Msg) error {
	for n := 1; ; n++ {
		if err := r.one(msg); err != nil {
			r.salvage()
			return err
		}
		if n == watchBatch || len(r.feed.msgs) == 0 {
			break
		}
		msg = <-r.feed.msgs
	}
	if r.caughtUp {
		r.handOver()
	}
	return nil
}

func (r *reading) one(msg *nats.Msg) error {
	at, some, err := r.feed.step(msg)
	switch {
	case err != nil:
		return err
	case some:
		r.entries = append(r.entries, r.watch.entry(msg, at.stream))
		r.current = at.pending == 0
		r.caughtUp = r.caughtUp || r.current || r.feed.read >= r.feed.due
	case idle(msg):
		r.current, r.caughtUp = true, true
	}
	return nil
}

// salvage hands over the changes before a fault. Half of all keys is of no use: they are read again.
func (r *reading) salvage() {
	if r.caughtUp && len(r.entries) > 0 && !r.complete {
		r.handOver()
	}
}

// handOver gives the user what was collected.
func (r *reading) handOver() {
	w := r.watch
	update := Update{Entries: r.entries, Complete: r.complete}
	if update.Complete {
		update.Entries = w.compare(update.Entries)
	}
	noted := update.Complete // by compare, until one that comes here has gone again
	for i := range update.Entries {
		e := &update.Entries[i]
		switch {
		case e.Deleted:
			delete(w.known, e.Key)
			noted = false
		case !noted:
			w.known[e.Key] = struct{}{}
		}
		if e.Revision != 0 {
			w.last = e.Revision
		}
	}
	if update.Complete || len(update.Entries) > 0 {
		w.cfg.Apply(update)
	}
	if r.current {
		at := time.Now()
		w.current.Store(at.UnixNano())
		if w.cfg.Proof != nil {
			w.cfg.Proof(at)
		}
	}
	r.entries, r.complete = nil, false
}

// compare drops markers of keys that the user never had, and adds those that the user has and the bucket has not.
func (w *Watch) compare(all []Entry) []Entry {
	present := make(map[string]struct{}, len(all))
	kept := all[:0]
	for _, e := range all {
		keep := !e.Deleted
		if e.Deleted {
			_, before := present[e.Key]
			_, had := w.known[e.Key]
			keep = had || before
		}
		if keep {
			kept = append(kept, e)
			present[e.Key] = struct{}{}
		}
	}
	for key := range w.known {
		if _, ok := present[key]; !ok {
			kept = append(kept, Entry{Key: key, Deleted: true})
		}
	}
	w.known = present
	// A bucket that was made anew counts from 1 again.
	w.last = 0
	return kept
}

// entry reads a message of the bucket's stream.
func (w *Watch) entry(msg *nats.Msg, revision uint64) Entry {
	e := Entry{Key: strings.TrimPrefix(msg.Subject, w.prefix), Revision: revision, Deleted: removes(msg.Header)}
	if !e.Deleted {
		e.Value = msg.Data
	}
	return e
}

// removes reports whether a message with this header says that its key is gone: removed by a client, or by NATS itself
// when it expired.
func removes(h nats.Header) bool {
	if len(h) == 0 {
		return false
	}
	op := h.Get("KV-Operation")
	return op == "DEL" || op == "PURGE" || h.Get(natsjs.MarkerReasonHeader) != ""
}
