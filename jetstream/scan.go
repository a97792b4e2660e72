package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Bounds of a Scan: it holds scanBatch values at most, and waits scanPatience for those that have vanished meanwhile.
const (
	scanBatch    = 256
	scanPatience = time.Second
)

// Scan calls fn for the keys that match filter, with the wildcards of subjects, in the order of their last writes, from
// the revision from on (0: the first), until fn says false, and returns the revision to go on from, 0 if all was read.
// It holds a small part of the bucket at a time, and takes nothing from the stream that fn does not get, but for the rest
// of the last batch.
//
// A key that is written meanwhile comes again, at the end: whoever goes on to 0 has seen every key that was there at the
// beginning, and some of them twice. It reads from the replica that is at hand; the end, which a replica that lags has not
// got, it reads from the stream's leader.
func (b *Bucket) Scan(ctx context.Context, filter string, from uint64, fn func(key string, v Value) bool) (next uint64, err error) {
	cfg := natsjs.ConsumerConfig{
		FilterSubject: bucketSubject(b.name, filter), AckPolicy: natsjs.AckNonePolicy, InactiveThreshold: feedInactive,
		MemoryStorage: true, Replicas: 1, DeliverPolicy: natsjs.DeliverAllPolicy,
	}
	if from > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = natsjs.DeliverByStartSequencePolicy, from
	}
	create, cancel := within(ctx, requestTimeout)
	consumer, err := b.conn.js.CreateConsumer(create, bucketStream(b.name), cfg)
	cancel()
	if err != nil {
		return 0, b.scanFault(err)
	}
	info := consumer.CachedInfo()
	defer b.forget(ctx, info.Name)
	s := scan{bucket: b, fn: fn, pending: info.NumPending, last: max(from, 1) - 1}
	for s.pending > 0 && !s.full {
		if err := s.batch(ctx, consumer); err != nil {
			return 0, b.scanFault(err)
		}
	}
	if s.pending == 0 {
		if err := s.rest(ctx, filter); err != nil {
			return 0, b.scanFault(err)
		}
	}
	if s.pending == 0 {
		return 0, nil
	}
	return s.last + 1, nil
}

// End returns the revision of the newest write of any key, 0 where there is none.
func (b *Bucket) End(ctx context.Context) (uint64, error) {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := b.conn.js.Stream(ctx, bucketStream(b.name))
	if err != nil {
		return 0, b.scanFault(err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

func (b *Bucket) scanFault(err error) error {
	if transient(err) || errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("scan %s: %w", b.name, err)
}

// forget removes a consumer that has served. NATS does so by itself where it cannot be told.
func (b *Bucket) forget(ctx context.Context, name string) {
	if !b.conn.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = b.conn.js.DeleteConsumer(ctx, bucketStream(b.name), name)
}

// scan is a Scan in progress.
type scan struct {
	bucket *Bucket
	fn     func(key string, v Value) bool
	// last is the revision of what fn got last; read counts what has come, which has no gaps.
	last, read uint64
	// pending is how many are still to come, full that fn wants none of them.
	pending uint64
	full    bool
}

// batch hands over the next values.
func (s *scan) batch(ctx context.Context, consumer natsjs.Consumer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	want := int(min(s.pending, scanBatch))
	batch, err := consumer.Fetch(want, natsjs.FetchMaxWait(scanPatience))
	if err != nil {
		return err
	}
	got := 0
	for msg := range batch.Messages() {
		got++
		if s.full { // the rest of the batch
			continue
		}
		if err := s.take(msg); err != nil {
			return err
		}
	}
	if err := batch.Error(); err != nil {
		return err
	}
	if got == want || s.full {
		return nil
	}
	// Some that were pending have been written anew, or have expired.
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	info, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	s.pending = info.NumPending
	return nil
}

// rest hands over what the leader has beyond the last value of the replica: nothing, unless that lags.
func (s *scan) rest(ctx context.Context, filter string) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	stream, err := s.bucket.conn.js.Stream(ctx, bucketStream(s.bucket.name))
	if err != nil {
		return err
	}
	for end := stream.CachedInfo().State.LastSeq; s.last < end; {
		msg, err := stream.GetMsg(ctx, s.last+1, natsjs.WithGetMsgSubject(bucketSubject(s.bucket.name, filter)))
		switch {
		case errors.Is(err, natsjs.ErrMsgNotFound) || err == nil && msg.Sequence > end: // what is newer was written meanwhile
			return nil
		case err != nil:
			return err
		case s.full: // there is more than fn wants
			s.pending = 1
			return nil
		}
		s.hand(msg.Subject, msg.Header, Value{Data: msg.Data, Revision: msg.Sequence, Written: msg.Time})
	}
	return nil
}

func (s *scan) take(msg natsjs.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if s.read++; meta.Sequence.Consumer != s.read {
		return fmt.Errorf("%w: %w: got number %d, not %d", ErrUnavailable, errGap, meta.Sequence.Consumer, s.read)
	}
	s.pending = meta.NumPending
	s.hand(msg.Subject(), msg.Headers(), Value{Data: msg.Data(), Revision: meta.Sequence.Stream, Written: meta.Timestamp})
	return nil
}

// hand gives fn one value, unless it is the mark of a key that is gone.
func (s *scan) hand(subject string, header nats.Header, v Value) {
	s.last = v.Revision
	if !removes(header) {
		s.full = !s.fn(strings.TrimPrefix(subject, bucketSubject(s.bucket.name, "")), v)
	}
}
