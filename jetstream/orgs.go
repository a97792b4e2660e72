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

	"github.com/berthhq/berth/residency"
)

var (
	_ residency.Store   = (*Orgs)(nil)
	_ residency.Watcher = (*Orgs)(nil)
	_ residency.Caller  = OrgCaller{}
)

// orgs describes berth_orgs: in the primary region a bucket like others, elsewhere one that nobody can write and that
// NATS fills from the primary's.
func (t *Topology) orgs(own string) want {
	w := t.bucket(BucketOrgs, "Organizations: <organization>", func(c *natsjs.StreamConfig) {
		if t.Primary == "" || t.Primary == own {
			return
		}
		c.Subjects, c.Sources = nil, []*natsjs.StreamSource{orgsSource(t.Primary, own)}
	})
	w.ownOrigins, w.foreignOrigins = t.Primary == own, t.Primary == ""
	return w
}

// orgsSource is where a copy comes from. As with sessions, all of it has to come, and NATS's own consumer is restarted
// after a cut (ADR 0011).
func orgsSource(primary, own string) *natsjs.StreamSource {
	return &natsjs.StreamSource{
		Name:        bucketStream(BucketOrgs),
		External:    &natsjs.ExternalStream{APIPrefix: "$JS." + primary + ".API", DeliverPrefix: "berth.orgs." + primary + "." + own},
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

// Orgs is the bucket berth_orgs of the region.
type Orgs struct {
	conn   *Conn
	bucket *Bucket
	log    *slog.Logger
	// heard is as of when the bucket is the primary's, in Unix nanoseconds: 0 until that is known, atPrimary in
	// the primary region itself.
	heard atomic.Int64
}

const atPrimary = math.MaxInt64

// Orgs returns the region's organizations. Nothing is asked of NATS.
func (c *Conn) Orgs() *Orgs { return &Orgs{conn: c, bucket: c.Bucket(BucketOrgs), log: c.log} }

// Primary returns the region in which organizations are changed, as Provision has made the bucket.
func (o *Orgs) Primary(ctx context.Context) (string, error) {
	info, err := o.info(ctx)
	if err != nil {
		return "", err
	}
	return primaryOf(o.conn.region, &info.Config), nil
}

func (o *Orgs) info(ctx context.Context) (*natsjs.StreamInfo, error) {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	s, err := o.conn.js.Stream(ctx, bucketStream(BucketOrgs))
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", bucketStream(BucketOrgs), err)
	}
	return s.CachedInfo(), nil
}

// Get implements residency.Store.
func (o *Orgs) Get(ctx context.Context, name string) (document []byte, revision uint64, err error) {
	v, err := o.bucket.Get(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return v.Data, v.Revision, err
}

// Put implements residency.Store. It works in the primary region only.
func (o *Orgs) Put(ctx context.Context, name string, document []byte, revision uint64) error {
	_, err := o.bucket.Put(ctx, name, document, revision, 0)
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("%w: %w", residency.ErrConflict, err)
	}
	return err
}

// Watch implements residency.Watcher. Where the bucket is a copy it keeps an eye on its source, too.
func (o *Orgs) Watch(ctx context.Context, fn func(documents map[string][]byte, complete bool), proof func(at time.Time)) error {
	watch, err := o.conn.NewWatch(WatchConfig{
		Bucket: BucketOrgs,
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
			if heard := o.heard.Load(); heard != 0 {
				proof(time.Unix(0, min(heard, at.UnixNano())))
			}
		},
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { o.watchSource(ctx); return nil })
	g.Go(func() error { return watch.Run(ctx) })
	return g.Wait()
}

// orgsLook is how often the source of a copy is looked at.
const orgsLook = time.Second

// watchSource looks at where the copy comes from until ctx ends, and sets that up again where it is silent though the
// primary answers, as watchEdges does.
func (o *Orgs) watchSource(ctx context.Context) {
	var silent, kick time.Time
	pause, look := firstKick, time.Duration(0)
	for sleep(ctx, look) {
		look = orgsLook
		info, err := o.info(ctx)
		if err != nil {
			continue
		}
		if len(info.Config.Sources) == 0 {
			o.heard.Store(atPrimary)
			look = noEdgesWait
			continue
		}
		o.heard.CompareAndSwap(atPrimary, 0)
		now := time.Now()
		if len(info.Sources) == 1 && works(info.Sources[0]) {
			silent, pause = time.Time{}, firstKick
			if info.Sources[0].Lag == 0 {
				o.heard.Store(now.Add(-info.Sources[0].Active).UnixNano())
			}
			continue
		}
		primary := primaryOf(o.conn.region, &info.Config)
		if !o.answers(ctx, primary) {
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
		err = o.conn.restartSources(ctx, bucketStream(BucketOrgs), func(*natsjs.StreamSource) bool { return true })
		if err != nil {
			o.log.LogAttrs(ctx, slog.LevelWarn, "silent source of organizations could not be set up again",
				slog.String("primary", primary), slog.String("error", err.Error()))
		}
	}
}

// answers reports whether the primary's bucket can be seen.
func (o *Orgs) answers(ctx context.Context, primary string) bool {
	ctx, cancel := within(ctx, lookTimeout)
	defer cancel()
	_, err := o.conn.nc.RequestWithContext(ctx, "$JS."+primary+".API.STREAM.INFO."+bucketStream(BucketOrgs), nil)
	return err == nil
}

// OrgCaller asks the registrars of other regions.
type OrgCaller struct{ conn *Conn }

// OrgCaller returns a caller over the connection.
func (c *Conn) OrgCaller() OrgCaller { return OrgCaller{c} }

// Call implements residency.Caller.
func (c OrgCaller) Call(ctx context.Context, subject string, data []byte) ([]byte, error) {
	r, err := c.conn.Call(ctx, subject, nil, data)
	if refused, ok := errors.AsType[*ServiceError](err); ok {
		code, _ := strconv.Atoi(refused.Code) // ours are numbers
		return nil, &residency.Refusal{Code: code, Detail: refused.Description}
	}
	return r.Data, err
}
