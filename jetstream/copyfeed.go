package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// Follow hands over copies as they arrive, until ctx ends, which is no error, or the connection is closed for good. It
// survives reconnects, restarts of NATS and a stream that is made only later.
//
// reading is called with on when the reading begins, or goes on: whatever arrives after that call is handed over. missed
// says that copies before it may not have been: they are to be read by All, or by Copies as they are needed. Without on
// it is called when the reading is interrupted, which may take 2.6 s to be noticed. A region without edges reads on, for it
// has no copies. A copy may be handed over twice, but never one that is older than another before it of the same key and
// region. Both functions are called by one goroutine and must not block for long. Beats, marks of removal and copies that
// cannot be used are not handed over.
func (k *Copies) Follow(ctx context.Context, fn func(key sessions.Key, region string, rec sessions.Record), reading func(on, missed bool)) error {
	f := &copyFeed{
		conn: k.conn, filter: events.Copies(">"), begin: natsjs.DeliverNewPolicy, reading: reading,
		each: func(msg *nats.Msg, _ *nats.MsgMetadata) { k.handOver(msg, fn) },
	}
	if err := k.conn.keepReading(ctx, slog.String("stream", StreamCopies), f.follow); err != nil {
		return fmt.Errorf("follow copies of sessions: %w", err)
	}
	return nil
}

// All hands over the newest copy of each session and region that the stream holds by now.
func (k *Copies) All(ctx context.Context, fn func(key sessions.Key, region string, rec sessions.Record)) error {
	err := k.conn.read(ctx, StreamCopies, natsjs.ConsumerConfig{
		FilterSubject: events.Copies(">"),
		DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
	}, func(msg *nats.Msg, _ *nats.MsgMetadata) { k.handOver(msg, fn) })
	if err != nil && !errors.Is(err, natsjs.ErrStreamNotFound) {
		return fmt.Errorf("read copies of sessions: %w", err)
	}
	return nil
}

func (k *Copies) handOver(msg *nats.Msg, fn func(key sessions.Key, region string, rec sessions.Record)) {
	key, origin, ok := parseCopySubject(msg.Subject)
	if !ok || key.IsBeat() || removes(msg.Header) {
		return
	}
	if rec, ok := k.decode(origin, key, msg.Data); ok {
		fn(key, origin, rec)
	}
}

// copyFeed reads the stream from begin on, and goes on, where it can, after what it read last.
type copyFeed struct {
	conn   *Conn
	filter string
	begin  natsjs.DeliverPolicy
	each   func(*nats.Msg, *nats.MsgMetadata)
	// reading, if set, is told what Follow says; on is what it was told last.
	reading func(on, missed bool)
	on      bool

	// last is the last message that was handed over, at how the stream was then.
	last uint64
	at   bucketState
}

const (
	copyHeartbeat = time.Second
	// noEdgesWait is how often a region without edges is asked whether it has some by now.
	noEdgesWait = 2 * time.Second
)

// follow reads until the first fault, or until wake, which it reports as nil.
func (f *copyFeed) follow(ctx context.Context, wake <-chan struct{}) (opened bool, err error) {
	feed, missed, err := f.open(ctx)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		f.tell(true, false)
		sleep(ctx, noEdgesWait)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() {
		if ctx.Err() != nil {
			feed.close()
		} else {
			feed.abandon()
		}
	}()
	f.tell(true, missed)
	defer f.tell(false, false)
	return true, feed.readOn(ctx, wake, copyHeartbeat, func(msg *nats.Msg) error {
		meta, err := feed.take(msg)
		if meta != nil {
			f.last = meta.Sequence.Stream
			f.each(msg, meta)
		}
		return err
	})
}

// tell says whether what arrives is handed over from now on, if that is new.
func (f *copyFeed) tell(on, missed bool) {
	if f.reading != nil && (on != f.on || missed) {
		f.on = on
		f.reading(on, missed)
	}
}

// open begins to read, after the last message where the stream still is what it was. It reports whether something may have
// been missed: what a server that was started anew has stored again may bear numbers that were read before.
func (f *copyFeed) open(ctx context.Context) (feed *feed, missed bool, err error) {
	lookup, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := f.conn.js.Stream(lookup, StreamCopies)
	if err != nil {
		return nil, false, fmt.Errorf("look up stream %s: %w", StreamCopies, err)
	}
	info := s.CachedInfo()
	at := bucketState{server: f.conn.nc.ConnectedServerId(), created: info.Created}
	cfg := natsjs.ConsumerConfig{FilterSubject: f.filter, DeliverPolicy: f.begin}
	goesOn := at.created.Equal(f.at.created) && info.State.LastSeq >= f.last
	if goesOn {
		cfg.DeliverPolicy, cfg.OptStartSeq = natsjs.DeliverByStartSequencePolicy, f.last+1
	}
	if feed, err = f.conn.openFeed(ctx, StreamCopies, copyHeartbeat, cfg); err != nil {
		return nil, false, err
	}
	missed = !goesOn || at.server != f.at.server
	if !goesOn {
		f.last = info.State.LastSeq
	}
	f.at = at
	return feed, missed, nil
}
