package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

var (
	_ residency.Store = (*Documents)(nil)
	_ primary.Watcher = (*Documents)(nil)
	_ primary.Caller  = DocumentsCaller{}
)

// documents describes a bucket of documents: in the primary region one like others, elsewhere one that nobody can write
// and that NATS fills from the primary's. kind is its word in the subjects on which that travels.
func (t *Topology) documents(bucket, kind, about, own string) want {
	w := t.bucket(bucket, about, func(c *natsjs.StreamConfig) {
		if t.Primary == "" || t.Primary == own {
			return
		}
		c.Subjects, c.Sources = nil, []*natsjs.StreamSource{documentsSource(bucket, kind, t.Primary, own)}
	})
	w.ownOrigins, w.foreignOrigins = t.Primary == own, t.Primary == ""
	return w
}

// documentsSource is where a copy comes from. As with sessions, all of it has to come, and NATS's own consumer is
// restarted after a cut (ADR 0011).
func documentsSource(bucket, kind, primary, own string) *natsjs.StreamSource {
	return &natsjs.StreamSource{
		Name:        bucketStream(bucket),
		External:    &natsjs.ExternalStream{APIPrefix: "$JS." + primary + ".API", DeliverPrefix: "berth." + kind + "." + primary + "." + own},
		OptStartSeq: 1,
	}
}

// primaryOf returns the region that a stream's messages come from, own if from nowhere else.
func primaryOf(own string, c *natsjs.StreamConfig) string {
	for _, source := range c.Sources {
		if source.External != nil {
			return strings.TrimSuffix(strings.TrimPrefix(source.External.APIPrefix, "$JS."), ".API")
		}
	}
	return own
}

// Documents is a bucket of a region that is written in the primary region, and elsewhere a copy of that.
type Documents struct {
	conn   *Conn
	bucket *Bucket
	// stream is the bucket's.
	stream string
	log    *slog.Logger
	// heard is as of when the bucket is the primary's, in Unix nanoseconds: 0 until that is known, atPrimary in
	// the primary region itself.
	heard atomic.Int64
}

const atPrimary = math.MaxInt64

// Documents returns the region's bucket of that name, BucketOrgs or BucketPolicy. Nothing is asked of NATS.
func (c *Conn) Documents(bucket string) *Documents {
	return &Documents{conn: c, bucket: c.Bucket(bucket), stream: bucketStream(bucket), log: c.log}
}

// Primary returns the region in which the documents are changed, as Provision has made the bucket.
func (d *Documents) Primary(ctx context.Context) (string, error) {
	info, err := d.info(ctx)
	if err != nil {
		return "", err
	}
	return primaryOf(d.conn.region, &info.Config), nil
}

func (d *Documents) info(ctx context.Context) (*natsjs.StreamInfo, error) {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := d.conn.js.Stream(ctx, d.stream)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", d.stream, err)
	}
	return s.CachedInfo(), nil
}

// Get implements primary.Store.
func (d *Documents) Get(ctx context.Context, name string) (document []byte, revision uint64, err error) {
	v, err := d.bucket.Get(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements primary.Store. It works in the primary region only.
func (d *Documents) Put(ctx context.Context, name string, document []byte, revision uint64) error {
	_, err := d.bucket.Put(ctx, name, document, revision, 0)
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("%w: %w", primary.ErrConflict, err)
	}
	return err
}

// Delete implements residency.Store. It works in the primary region only.
func (d *Documents) Delete(ctx context.Context, name string, revision uint64) error {
	err := d.bucket.Delete(ctx, name, revision)
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("%w: %w", primary.ErrConflict, err)
	}
	return err
}

// Watch implements primary.Watcher. Where the bucket is a copy it keeps an eye on its source, too.
func (d *Documents) Watch(ctx context.Context, fn func(documents map[string][]byte, complete bool), proof func(at time.Time)) error {
	watch, err := d.conn.NewWatch(WatchConfig{
		Bucket: d.bucket.name,
		Apply: func(u Update) {
			documents := make(map[string][]byte, len(u.Entries))
			for _, e := range u.Entries {
				documents[e.Key] = nil
				if !e.Deleted {
					documents[e.Key] = e.Value
				}
			}
			fn(documents, u.Complete)
		},
		Proof: func(at time.Time) {
			if heard := d.heard.Load(); heard != 0 {
				proof(time.Unix(0, min(heard, at.UnixNano())))
			}
		},
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { d.watchSource(ctx); return nil })
	g.Go(func() error { return watch.Run(ctx) })
	return g.Wait()
}

// documentsLook is how often the source of a copy is looked at.
const documentsLook = time.Second

// watchSource looks at where the copy comes from until ctx ends, and sets that up again where it is silent though the
// primary answers, as watchEdges does.
func (d *Documents) watchSource(ctx context.Context) {
	var silent, kick time.Time
	pause, look := firstKick, time.Duration(0)
	for sleep(ctx, look) {
		look = documentsLook
		info, err := d.info(ctx)
		if err != nil {
			continue
		}
		if len(info.Config.Sources) == 0 {
			d.heard.Store(atPrimary)
			look = noEdgesWait
			continue
		}
		d.heard.CompareAndSwap(atPrimary, 0)
		now := time.Now()
		if len(info.Sources) == 1 && works(info.Sources[0]) {
			silent, pause = time.Time{}, firstKick
			if info.Sources[0].Lag == 0 {
				d.heard.Store(now.Add(-info.Sources[0].Active).UnixNano())
			}
			continue
		}
		primary := primaryOf(d.conn.region, &info.Config)
		if !d.answers(ctx, primary) {
			silent = time.Time{}
			continue
		}
		if silent.IsZero() {
			silent = now
		}
		if now.Sub(silent) < patience || now.Before(kick) {
			continue
		}
		silent, kick = time.Time{}, now.Add(pause)
		pause = min(2*pause, lastKick)
		err = d.conn.restartSources(ctx, d.stream, func(*natsjs.StreamSource) bool { return true })
		if err != nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "silent source of documents could not be set up again",
				slog.String("stream", d.stream), slog.String("primary", primary), slog.String("error", err.Error()))
		}
	}
}

// answers reports whether the primary's bucket can be seen.
func (d *Documents) answers(ctx context.Context, primary string) bool {
	ctx, cancel := within(ctx, lookTimeout)
	defer cancel()
	_, err := d.conn.askAbroad(ctx, "$JS."+primary+".API.STREAM.INFO."+d.stream)
	return err == nil
}

// DocumentsCaller asks those of other regions who change documents.
type DocumentsCaller struct{ conn *Conn }

// DocumentsCaller returns a caller over the connection.
func (c *Conn) DocumentsCaller() DocumentsCaller { return DocumentsCaller{c} }

// Call implements primary.Caller.
func (c DocumentsCaller) Call(ctx context.Context, subject string, data []byte) ([]byte, error) {
	r, err := c.conn.Call(ctx, subject, nil, data)
	if refused, ok := errors.AsType[*ServiceError](err); ok {
		code, _ := strconv.Atoi(refused.Code) // ours are numbers
		return nil, &primary.Refusal{Code: code, Detail: refused.Description}
	}
	return r.Data, err
}
