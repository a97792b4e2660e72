package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
)

// Edge is another region from which copies of sessions come. They go both ways if each of the two names the other.
type Edge struct {
	Region string
	// Jurisdictions are those whose sessions are copied: both regions are in each. Empty: events.GlobalJurisdiction.
	Jurisdictions []string
}

// NoEdges is the one word that ParseEdges takes for a region which exchanges no copies.
const NoEdges = "none"

// ParseEdges reads edges as an operator writes them, each as REGION or REGION=JURISDICTION+JURISDICTION…; NoEdges alone is
// an empty list, and nothing at all is nil: what is there stays.
func ParseEdges(words []string) ([]Edge, error) {
	if len(words) == 0 {
		return nil, nil
	}
	edges := []Edge{}
	if len(words) == 1 && words[0] == NoEdges {
		return edges, nil
	}
	for _, word := range words {
		region, list, some := strings.Cut(word, "=")
		e := Edge{Region: region}
		if some {
			e.Jurisdictions = strings.Split(list, "+")
		}
		edges = append(edges, e)
	}
	return edges, validateEdges(edges)
}

func validateEdges(edges []Edge) error {
	seen := map[string]bool{}
	for _, e := range edges {
		switch {
		case !events.ValidToken(e.Region):
			return fmt.Errorf("edge %q: want 1 to %d of a-z 0-9 - _", e.Region, events.MaxToken)
		case e.Region == NoEdges:
			return fmt.Errorf("edge %q: it stands alone or not at all", e.Region)
		case seen[e.Region]:
			return fmt.Errorf("edge %q stands twice", e.Region)
		}
		seen[e.Region] = true
		for i, j := range e.Jurisdictions {
			if j == events.LocalJurisdiction {
				return fmt.Errorf("edge %s: jurisdiction %q is what stays in a region", e.Region, j)
			}
			if !events.ValidToken(j) || slices.Contains(e.Jurisdictions[:i], j) {
				return fmt.Errorf("edge %s: jurisdiction %q: want 1 to %d of a-z 0-9 - _, each once", e.Region, j, events.MaxToken)
			}
		}
	}
	return nil
}

// strand is what an edge is made of: the copies of one region's bucket, of sessions or idempotency keys, in one jurisdiction, on
// their way to another region. Each is a source of its own, so that those of one jurisdiction travel on subjects that can be denied by themselves.
//
// The consumer of a source is the one that NATS makes by itself and starts after what the target has stored, not a durable
// one: of a stream that keeps one message per key, nats-server 2.15.2 takes what is replaced while it is under way for
// acknowledged, with all before it, and after a cut a durable consumer goes on behind what it has lost. What NATS's own
// consumer lacks, to come back quickly after a cut, watchEdges adds (ADR 0011).
type strand struct{ bucket, jurisdiction, origin, target string }

// copied are the buckets that edges carry copies of, and the stream that has those of other regions.
func copied() [][2]string {
	return [][2]string{{BucketSessions, StreamCopies}, {BucketIdempotency, StreamIdempotencyCopies}}
}

// strands returns those of the edges of a region that carry a bucket.
func strands(bucket, own string, edges []Edge) (list []strand) {
	for _, e := range edges {
		jurisdictions := e.Jurisdictions
		if len(jurisdictions) == 0 {
			jurisdictions = []string{events.GlobalJurisdiction}
		}
		for _, j := range jurisdictions {
			list = append(list, strand{bucket, j, e.Region, own})
		}
	}
	return list
}

// copySubject returns the subject that the copy of a session, a beat or an idempotency key is stored on.
func copySubject(jurisdiction, origin, key string) string {
	return events.Copies(jurisdiction) + "." + origin + "." + key
}

// travels returns the beginning of the subjects on which the copies travel.
func (s strand) travels() string { return copySubject(s.jurisdiction, s.origin, s.target) }

// keys returns the filter of what is copied.
func (s strand) keys() string { return bucketSubject(s.bucket, s.jurisdiction+".>") }

// api returns the prefix of the JetStream API of the region where the copies come from.
func (s strand) api() string { return "$JS." + s.origin + ".API" }

// source describes where the target's stream gets them from. All of it has to come, so the start is said: NATS would begin
// a new source of a stream that has dropped its first messages with what is written from now on.
func (s strand) source() *natsjs.StreamSource {
	return &natsjs.StreamSource{
		Name:              bucketStream(s.bucket),
		External:          &natsjs.ExternalStream{APIPrefix: s.api(), DeliverPrefix: s.travels()},
		OptStartSeq:       1,
		SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: s.keys(), Destination: copySubject(s.jurisdiction, s.origin, ">")}},
	}
}

// strandOf returns the strand that a source of own is of.
func strandOf(own, stream string, external *natsjs.ExternalStream, transforms []natsjs.SubjectTransformConfig) (strand, bool) {
	if external == nil || len(transforms) != 1 {
		return strand{}, false
	}
	bucket := strings.TrimPrefix(stream, bucketStream(""))
	origin := strings.TrimSuffix(strings.TrimPrefix(external.APIPrefix, "$JS."), ".API")
	jurisdiction := strings.TrimSuffix(strings.TrimPrefix(transforms[0].Source, bucketSubject(bucket, "")), ".>")
	s := strand{bucket, jurisdiction, origin, own}
	return s, external.APIPrefix == s.api() && transforms[0].Source == s.keys()
}

// strandsOf returns the strands that sources of own are of.
func strandsOf(own string, sources []*natsjs.StreamSource) []strand {
	var list []strand
	for _, source := range sources {
		if s, ok := strandOf(own, source.Name, source.External, source.SubjectTransforms); ok {
			list = append(list, s)
		}
	}
	return list
}

// provisionEdges makes the streams that copies come to. What comes from no edge any more goes, with its copies.
func (c *Conn) provisionEdges(ctx context.Context, t *Topology) error {
	if t.Edges == nil {
		return nil
	}
	for _, of := range copied() {
		bucket, stream := of[0], of[1]
		in := strands(bucket, c.region, t.Edges)
		w := t.copies(in)
		if bucket == BucketIdempotency {
			w = t.idempotencyCopies(in)
		}
		if err := c.provisionCopies(ctx, stream, w, in); err != nil {
			return err
		}
	}
	return nil
}

// provisionCopies makes one of them.
func (c *Conn) provisionCopies(ctx context.Context, name string, w want, in []strand) error {
	switch {
	case slices.ContainsFunc(in, func(s strand) bool { return s.origin == c.region }):
		return fmt.Errorf("edge %s: that is this region itself", c.region)
	case len(in) == 0:
		return c.retry(ctx, func() error { return c.dropCopies(ctx, name) })
	}
	var before []strand
	err := c.retry(ctx, func() error {
		info, err := c.copiesInfo(ctx, name)
		if err == nil {
			before = strandsOf(c.region, info.Config.Sources)
		}
		return err
	})
	if err == nil {
		err = c.ensureWithRetries(ctx, w)
	}
	if err != nil {
		return err
	}
	for _, gone := range before {
		if slices.Contains(in, gone) {
			continue
		}
		if err := c.retry(ctx, func() error { return c.purgeCopies(ctx, name, gone) }); err != nil {
			return err
		}
	}
	return nil
}

// purgeCopies removes the copies of a strand that is there no more.
func (c *Conn) purgeCopies(ctx context.Context, name string, s strand) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, name)
	if err == nil {
		err = stream.Purge(ctx, natsjs.WithPurgeSubject(copySubject(s.jurisdiction, s.origin, ">")))
	}
	if err != nil {
		return fmt.Errorf("purge copies of %s from stream %s: %w", s.origin, name, err)
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "copies of a former edge are removed", slog.String("stream", name),
		slog.String("origin", s.origin), slog.String("jurisdiction", s.jurisdiction))
	return nil
}

// dropCopies removes a stream of copies of a region that has no edge any more.
func (c *Conn) dropCopies(ctx context.Context, name string) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	err := c.js.DeleteStream(ctx, name)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("remove stream %s: %w", name, err)
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "stream is removed: there is no edge any more", slog.String("stream", name))
	return nil
}

// describeSources returns what matters of sources, in one order, so that they can be compared and told.
func describeSources(own string, sources []*natsjs.StreamSource) []string {
	var words []string
	for _, source := range sources {
		s, ok := strandOf(own, source.Name, source.External, source.SubjectTransforms)
		switch {
		case !ok && source.External != nil:
			words = append(words, source.Name+" of "+source.External.APIPrefix+" by "+source.External.DeliverPrefix)
		case !ok:
			words = append(words, "unknown source "+source.Name)
		case source.Consumer != nil || source.OptStartSeq != 1 || *source.External != *s.source().External || source.SubjectTransforms[0] != s.source().SubjectTransforms[0]:
			words = append(words, s.origin+"="+s.jurisdiction+" in another way")
		default:
			words = append(words, s.origin+"="+s.jurisdiction)
		}
	}
	slices.SortFunc(words, cmp.Compare[string])
	return words
}
