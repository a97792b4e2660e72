package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Value is what a bucket holds for a key.
type Value struct {
	Data []byte
	// Revision names this write of the key: a Put that expects it succeeds only if there was none since.
	Revision uint64
	// Written is when, by the clock of NATS.
	Written time.Time
}

// Bucket reads and writes one bucket by compare-and-swap. It may be used by several goroutines at once.
//
// A write that fails with ErrConflict was not applied; one that fails with ErrUnavailable may have been, or may be yet.
type Bucket struct {
	conn *Conn
	name string
	// patience bounds each request.
	patience time.Duration
	// contact is when the stream's leader last proved itself, in Unix nanoseconds; 0: never.
	contact atomic.Int64
}

// Bucket returns the bucket of that name. Nothing is asked of NATS.
func (c *Conn) Bucket(name string) *Bucket {
	return &Bucket{conn: c, name: name, patience: requestTimeout}
}

// Contact returns the last moment at which the stream's leader was certainly there: the start of the last Get or Put that
// it answered, be it with a conflict. The zero time: never.
func (b *Bucket) Contact() time.Time {
	if at := b.contact.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// met notes that the leader answered what was begun at that time.
func (b *Bucket) met(at time.Time) {
	for {
		old := b.contact.Load()
		if old >= at.UnixNano() || b.contact.CompareAndSwap(old, at.UnixNano()) {
			return
		}
	}
}

// Codes of the JetStream API that a bucket tells apart.
const (
	codeNoMessage      = 10037
	codeWrongSequence  = 10071
	codeStillInProcess = 10164
	codeAccountLimits  = 10002
	codeStoreFailed    = 10077
	// serviceUnavailable is the class of those that mean: not now.
	serviceUnavailable = 503
)

// Waits of a write that was certainly not applied, before it is sent again.
const (
	nobodyWait    = 25 * time.Millisecond
	nobodyMost    = 10 // tries, before it is asked whether there is a stream at all
	inProcessWait = 2 * time.Millisecond
	inProcessMost = 6 // tries
)

// Get returns the value of a key as the stream's leader holds it, whatever replicas lag behind. It fails with ErrNotFound
// where there is none, and with ErrUnavailable where no leader answers before ctx ends, nor for 5 s.
func (b *Bucket) Get(ctx context.Context, key string) (Value, error) {
	v, deleted, err := b.last(ctx, key)
	if err == nil && deleted {
		err = ErrNotFound
	}
	if err != nil {
		return Value{}, fmt.Errorf("get %s from %s: %w", key, b.name, err)
	}
	return v, nil
}

// last returns the last message of a key, and whether it says that the key is gone.
func (b *Bucket) last(ctx context.Context, key string) (v Value, deleted bool, err error) {
	ctx, cancel := within(ctx, b.patience)
	defer cancel()
	began := time.Now()
	v, deleted, err = b.conn.leaderRead(ctx, bucketStream(b.name), map[string]any{"last_by_subj": bucketSubject(b.name, key)})
	if err == nil || errors.Is(err, ErrNotFound) {
		b.met(began)
	}
	return v, deleted, err
}

// leaderRead returns the message of a stream that query asks for, and whether it says that its key is gone. Direct reads,
// where a stream allows them, come from any replica: this asks the leader, until ctx ends.
func (c *Conn) leaderRead(ctx context.Context, stream string, query map[string]any) (v Value, deleted bool, err error) {
	data, err := json.Marshal(query)
	if err != nil {
		return Value{}, false, err
	}
	msg, err := c.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, data)
	if err != nil {
		return Value{}, false, err
	}
	var reply struct {
		Error   *natsjs.APIError `json:"error"`
		Message *struct {
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return Value{}, false, fmt.Errorf("read reply: %w", err)
	}
	switch {
	case reply.Error != nil && reply.Error.ErrorCode == codeNoMessage:
		return Value{}, false, ErrNotFound
	case reply.Error != nil:
		return Value{}, false, refusal(reply.Error)
	case reply.Message == nil:
		return Value{}, false, errors.New("read reply: no message")
	}
	m := reply.Message
	var header nats.Header
	if len(m.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return Value{}, false, fmt.Errorf("read header: %w", err)
		}
	}
	return Value{Data: m.Data, Revision: m.Sequence, Written: m.Time}, removes(header), nil
}

// ask sends a request to the JetStream API, again and again where nobody listens.
func (c *Conn) ask(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	for {
		msg, err := c.nc.RequestWithContext(ctx, subject, data)
		switch {
		case err == nil:
			return msg, nil
		case !errors.Is(err, nats.ErrNoResponders) || !sleep(ctx, nobodyWait):
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// refusal makes what JetStream says of a request into what callers branch on.
func refusal(err *natsjs.APIError) error {
	switch {
	case err.ErrorCode == codeWrongSequence, err.ErrorCode == codeStillInProcess:
		return ErrConflict
	case err.Code == serviceUnavailable:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return err
	}
}

// isFull reports whether a stream has no room for what was to be written: by its own bound, the account's, the server's, or
// the disk's. Nothing was written then.
func isFull(err error) bool {
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeAccountLimits, codeFewResources, codeFewMemory, codeFewStorage:
		return true
	case codeStoreFailed:
		return strings.Contains(api.Description, "maximum") || strings.Contains(api.Description, "no space left")
	default:
		return false
	}
}

// isGone reports whether there is no stream.
func isGone(err error) bool {
	var api *natsjs.APIError
	return errors.As(err, &api) && api.ErrorCode == natsjs.JSErrCodeStreamNotFound || errors.Is(err, natsjs.ErrStreamNotFound)
}

// Put writes a key if revision is still its last one, 0 meaning that there is no value, and returns the new revision.
// The value expires after ttl, in whole seconds rounded up; 0: never. It is stored, in the own region's domain, when Put
// returns nil. Where no stream answers at all it tries again until ctx ends, at most 5 s.
func (b *Bucket) Put(ctx context.Context, key string, data []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("write %s to %s: %w: %w", key, b.name, ErrUnavailable, err)
	}
	return b.Begin(key, data, revision, ttl).Wait(ctx)
}

// Begin starts a Put and returns at once, or within 2 s where NATS reads nothing; Wait on the Write gives the result, and
// has to be called. Until then neither data may be changed nor the key be written by the same caller.
func (b *Bucket) Begin(key string, data []byte, revision uint64, ttl time.Duration) *Write {
	w := new(Write)
	w.start(b, key, data, revision, ttl)
	return w
}

// Delete removes a key if revision is still its last one. Those who watch see it go; where the bucket keeps markers, one
// stays for a while.
func (b *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := b.beginDelete(key, revision).Wait(ctx)
	return err
}

func (b *Bucket) beginDelete(key string, revision uint64) *Write {
	w := &Write{bucket: b, key: key, header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, revision: revision}
	w.send()
	return w
}

func putHeader(ttl time.Duration) nats.Header {
	if ttl <= 0 {
		return nats.Header{}
	}
	seconds := int64((ttl + time.Second - 1) / time.Second)
	return nats.Header{natsjs.MsgTTLHeader: {strconv.FormatInt(seconds, 10) + "s"}}
}

// Write is a write under way.
type Write struct {
	bucket   *Bucket
	key      string
	data     []byte
	header   nats.Header
	revision uint64
	ack      *ack
}

// start begins a Put.
func (w *Write) start(b *Bucket, key string, data []byte, revision uint64, ttl time.Duration) {
	*w = Write{bucket: b, key: key, data: data, header: putHeader(ttl), revision: revision}
	w.send()
}

func (w *Write) send() {
	w.header[natsjs.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(w.revision, 10)}
	msg := &nats.Msg{Subject: bucketSubject(w.bucket.name, w.key), Header: w.header, Data: w.data}
	w.ack = w.bucket.conn.acks.publish(msg, false)
}

// Wait returns the new revision, or why there is none, as Put does.
func (w *Write) Wait(ctx context.Context) (uint64, error) {
	revision, err := w.wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("write %s to %s: %w", w.key, w.bucket.name, err)
	}
	return revision, nil
}

func (w *Write) wait(ctx context.Context) (uint64, error) {
	end := time.Now().Add(w.bucket.patience)
	over := w.revision == 0 // over a marker, a key may be made again
	for busy, nobody := 0, 0; ; w.send() {
		revision, err := w.ack.wait(ctx, time.Until(end))
		sent := w.ack.sent
		w.ack.release()
		if err == nil {
			w.bucket.met(sent)
			return revision, nil
		}
		var api *natsjs.APIError
		switch {
		case errors.Is(err, errNobody):
			if nobody++; nobody == nobodyMost {
				if _, _, err := w.bucket.last(ctx, w.key); isGone(err) {
					return 0, err
				}
			}
			if time.Now().After(end) || !sleep(ctx, nobodyWait) {
				return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		case !errors.As(err, &api):
			return 0, err
		case api.ErrorCode == codeStillInProcess && busy < inProcessMost:
			// A replicated stream says so, now and then, of a write that nothing conflicts with. It was not applied.
			if !sleep(ctx, inProcessWait<<busy) {
				return 0, ErrConflict
			}
			busy++
		case api.ErrorCode == codeWrongSequence && over:
			over = false
			if err := w.overMarker(ctx); err != nil {
				return 0, err
			}
		default:
			if api.ErrorCode == codeWrongSequence {
				w.bucket.met(sent)
			}
			return 0, refusal(api)
		}
	}
}

// overMarker makes the write expect the marker of a removed key, if that is what is in the way.
func (w *Write) overMarker(ctx context.Context) error {
	v, deleted, err := w.bucket.last(ctx, w.key)
	switch {
	case errors.Is(err, ErrNotFound): // it has just gone
		return nil
	case err != nil:
		return err
	case !deleted:
		return ErrConflict
	}
	w.revision = v.Revision
	return nil
}

// Load returns all keys that match filter, with the wildcards of subjects, empty: all. In a cluster it reads from the
// replica that is at hand, which may lag a little.
func (b *Bucket) Load(ctx context.Context, filter string) (map[string]Value, error) {
	if filter == "" {
		filter = ">"
	}
	all := map[string]Value{}
	err := b.conn.read(ctx, bucketStream(b.name), natsjs.ConsumerConfig{
		FilterSubject: bucketSubject(b.name, filter),
		DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
	}, func(msg *nats.Msg, meta *nats.MsgMetadata) {
		key := strings.TrimPrefix(msg.Subject, bucketSubject(b.name, ""))
		if removes(msg.Header) {
			delete(all, key)
			return
		}
		all[key] = Value{Data: msg.Data, Revision: meta.Sequence.Stream, Written: meta.Timestamp}
	})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", b.name, err)
	}
	return all, nil
}
