package jetstream

import (
	"cmp"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
)

// The streams of a region.
const (
	StreamHeartbeats = "BERTH_HEARTBEATS"
	StreamEvents     = "BERTH_EVENTS"
	StreamViews      = "BERTH_VIEWS"
	// StreamCopies and StreamIdempotencyCopies are there only in a region that has edges.
	StreamCopies            = "BERTH_SESSION_COPIES"
	StreamIdempotencyCopies = "BERTH_IDEMPOTENCY_COPIES"
)

// The buckets of a region.
const (
	BucketServers  = "berth_servers"
	BucketSessions = "berth_sessions"
	BucketKeys     = "berth_keys"
	BucketRegistry = "berth_registry"
	BucketOrgs     = "berth_orgs"
	BucketPolicy   = "berth_policy"
	// BucketIdempotency is written by regional servers.
	BucketIdempotency = "berth_idempotency"
)

// Topology says how a region's streams and buckets are kept. Where a field is zero, a stream that exists keeps what it
// has, so that a service that was told nothing does not undo what another, or an operator, has set.
type Topology struct {
	// Replicas is how many nodes hold each stream: 1, 3 or 5. Zero: 1 when made.
	Replicas int
	// HeartbeatBytes bounds the memory of BERTH_HEARTBEATS. Zero: 256 MiB when made.
	HeartbeatBytes int64
	// EventAge and EventBytes bound BERTH_EVENTS. Zero: 7 days and 10 GiB when made.
	EventAge   time.Duration
	EventBytes int64
	// ViewAge and ViewBytes bound BERTH_VIEWS. Zero: 24 hours and 4 GiB when made.
	ViewAge   time.Duration
	ViewBytes int64
	// Edges are the regions with which copies of sessions, and of idempotency keys, are exchanged. Empty: none, and the streams
	// of copies go; nil: what is there stays.
	Edges []Edge
	// Primary is the region in which organizations and the policy are changed: there berth_orgs and berth_policy are written,
	// everywhere else they are copies. Empty: what is there stays, and the buckets are made as those of the primary region.
	Primary string
	// CopyBytes bounds BERTH_SESSION_COPIES. Zero: 10 GiB when made.
	CopyBytes int64
	// IdempotencyBytes bounds berth_idempotency, IdempotencyCopyBytes the copies of other regions' in BERTH_IDEMPOTENCY_COPIES.
	// Zero: 1 GiB and 2 GiB when made.
	IdempotencyBytes, IdempotencyCopyBytes int64
	// Memory keeps everything in memory, for tests in fake time: nothing survives NATS. False: on disk, but for heartbeats.
	Memory bool
}

// Validate returns the first fault.
func (t *Topology) Validate() error {
	switch t.Replicas {
	case 0, 1, 3, 5:
	default:
		return fmt.Errorf("replicas %d: want 1, 3 or 5", t.Replicas)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"heartbeat bytes", t.HeartbeatBytes},
		{"event age", int64(t.EventAge)},
		{"event bytes", t.EventBytes},
		{"view age", int64(t.ViewAge)},
		{"view bytes", t.ViewBytes},
		{"copy bytes", t.CopyBytes},
		{"idempotency bytes", t.IdempotencyBytes},
		{"idempotency copy bytes", t.IdempotencyCopyBytes},
	} {
		if f.value < 0 {
			return fmt.Errorf("%s %d: want at least 0", f.name, f.value)
		}
	}
	if t.Primary != "" && !events.ValidToken(t.Primary) {
		return fmt.Errorf("primary region %q: want 1 to %d of a-z 0-9 - _", t.Primary, events.MaxToken)
	}
	return validateEdges(t.Edges)
}

// Limits of streams when they are made.
const (
	heartbeatAge   = 60 * time.Second
	heartbeatBytes = 256 << 20
	eventAge       = 7 * 24 * time.Hour
	eventBytes     = 10 << 30
	viewAge        = 24 * time.Hour
	viewBytes      = 4 << 30
	copyBytes      = 10 << 30
	keptBytes      = 1 << 30
	keptCopyBytes  = 2 << 30
	// copyAge ends what says itself not when it is to end, such as the marker of a key that somebody has removed by hand.
	copyAge = 31 * 24 * time.Hour
	// copiesPerKey is two, so that such a marker does not displace the copy itself.
	copiesPerKey = 2
	// markerAge is how long berth_servers remembers that a key was removed: a watch that was away for longer compares
	// all keys instead.
	markerAge = time.Hour
	// duplicateWindow is how long message ids are remembered. Nothing sends them to heartbeats, and the memory is dear.
	duplicateWindow = time.Second
)

// want is a stream that is to be, in the region own.
type want struct {
	config natsjs.StreamConfig
	// limits holds what the Topology asks for, zero where it does not: then config has the value to make it with.
	replicas int
	maxAge   time.Duration
	maxBytes int64
	// ownOrigins says that a stream without sources is to have none, foreignOrigins that subjects and sources stay as they
	// are where the stream exists.
	ownOrigins, foreignOrigins bool
}

// streams returns every stream and bucket of a region.
func (t *Topology) streams(own string) []want {
	return []want{
		t.heartbeats(own),
		t.events(own),
		t.views(own),
		t.bucket(BucketServers, "Active servers of all regions as this region sees them: <region>.<server>", func(c *natsjs.StreamConfig) {
			c.AllowDirect = true
			c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, markerAge
		}),
		t.bucket(BucketSessions, "Sessions that this region owns: <jurisdiction>.<session>, each kept to its end", func(c *natsjs.StreamConfig) {
			c.AllowMsgTTL = true
		}),
		t.bucket(BucketRegistry, "Which registry of the region leads (lease), and what operators want of it (wishes)", func(*natsjs.StreamConfig) {}),
		t.bucket(BucketKeys, "Public keys of all regions, each under its id", func(*natsjs.StreamConfig) {}),
		t.idempotency(),
		t.documents(BucketOrgs, "orgs", "Organizations: <organization>", own),
		t.documents(BucketPolicy, "policy", "The policy of placement: <document>", own),
	}
}

// heartbeats keeps the last of each server in memory: it is worth one interval. Publishers get no acknowledgement.
func (t *Topology) heartbeats(own string) want {
	return t.want(natsjs.StreamConfig{
		Name:              StreamHeartbeats,
		Description:       "Last heartbeat of each server of the region",
		Subjects:          []string{events.Subject{Kind: events.KindHeartbeat, Region: own}.Filter()},
		Storage:           natsjs.MemoryStorage,
		MaxMsgsPerSubject: 1,
		MaxAge:            heartbeatAge,
		MaxBytes:          heartbeatBytes,
		NoAck:             true,
		AllowDirect:       true,
		Duplicates:        duplicateWindow,
	}, heartbeatAge, t.HeartbeatBytes)
}

// events keeps what happened. What is said of a region, as that it is out of reach, is stored whichever region it is
// said of: it never leaves the region that says so.
func (t *Topology) events(own string) want {
	return t.want(natsjs.StreamConfig{
		Name:        StreamEvents,
		Description: "What happened in the region: servers, regions, decisions, sessions, released locks; revocations of all regions",
		Subjects: []string{
			events.Subject{Kind: events.KindServer, Region: own}.Filter(),
			events.Subject{Kind: events.KindRegion}.Filter(),
			events.Subject{Kind: events.KindDecision, Region: own}.Filter(),
			events.Subject{Kind: events.KindSession, Region: own}.Filter(),
			events.Subject{Kind: events.KindLock, Region: own}.Filter(),
			events.Subject{Kind: events.KindRevoked}.Filter(),
		},
		Storage:     t.storage(),
		Compression: natsjs.S2Compression,
		MaxAge:      eventAge,
		MaxBytes:    eventBytes,
		AllowDirect: true,
	}, t.EventAge, t.EventBytes)
}

// views keeps the view updates of all regions, and what the own token services have seen when they decided, so that what
// a decision saw can be had again.
func (t *Topology) views(own string) want {
	return t.want(natsjs.StreamConfig{
		Name:        StreamViews,
		Description: "View updates of all regions, own and received; what the region's decisions saw",
		Subjects: []string{
			events.Subject{Kind: events.KindView}.Filter(),
			events.Subject{Kind: events.KindSight, Region: own}.Filter(),
		},
		Storage:     t.storage(),
		Compression: natsjs.S2Compression,
		MaxAge:      viewAge,
		MaxBytes:    viewBytes,
		AllowDirect: true,
	}, t.ViewAge, t.ViewBytes)
}

// copies keeps the other regions' records of sessions, as they stand there. No subject is bound: all comes by the sources.
// A copy keeps the message TTL of its record. What a record's removal by hand leaves, a marker, is stored like another
// copy: roll-ups are not honoured here. When the stream is full the copies that were written longest ago go first: those
// of sessions whose tokens are too old to be taken over without a copy (V16), so that nothing revoked comes back by it.
func (t *Topology) copies(in []strand) want {
	return t.want(t.copyStream(natsjs.StreamConfig{
		Name:              StreamCopies,
		Description:       "Copies of other regions' sessions: berth.copies.<jurisdiction>.<origin region>.<session>",
		MaxMsgsPerSubject: copiesPerKey,
		MaxBytes:          copyBytes,
	}, in), 0, t.CopyBytes)
}

// idempotencyCopies keeps the other regions' entries as copies keeps their sessions. Who removes a key by hand has its copies
// go, too.
func (t *Topology) idempotencyCopies(in []strand) want {
	return t.want(t.copyStream(natsjs.StreamConfig{
		Name:              StreamIdempotencyCopies,
		Description:       "Copies of other regions' idempotency keys: berth.copies.<jurisdiction>.<origin region>.<hash>",
		MaxMsgsPerSubject: 1,
		MaxBytes:          keptCopyBytes,
	}, in), 0, t.IdempotencyCopyBytes)
}

// copyStream completes c with what streams of copies have in common.
func (t *Topology) copyStream(c natsjs.StreamConfig, in []strand) natsjs.StreamConfig {
	c.Storage, c.MaxAge, c.Discard, c.AllowMsgTTL = t.storage(), copyAge, natsjs.DiscardOld, true
	for _, s := range in {
		c.Sources = append(c.Sources, s.source())
	}
	return c
}

// idempotency keeps what regional servers have begun and replied. It refuses what is new when it is full: to forget what is
// old would be to carry it out again. So would be a roll-up, with which one server could remove the keys of all.
func (t *Topology) idempotency() want {
	w := t.bucket(BucketIdempotency, "What was begun and replied under idempotency keys: <jurisdiction>.<hash>, each kept for a while", func(c *natsjs.StreamConfig) {
		c.AllowMsgTTL, c.AllowRollup = true, false
	})
	w.maxBytes = t.IdempotencyBytes
	w.config.MaxBytes = cmp.Or(t.IdempotencyBytes, keptBytes)
	return w
}

// bucket describes the stream that NATS clients know as a key-value bucket with a history of one. Reads go to the leader
// unless change allows others.
func (t *Topology) bucket(name, description string, change func(*natsjs.StreamConfig)) want {
	c := natsjs.StreamConfig{
		Name:              bucketStream(name),
		Description:       description,
		Subjects:          []string{bucketSubject(name, ">")},
		Storage:           t.storage(),
		MaxMsgsPerSubject: 1,
		MaxBytes:          -1,
		Discard:           natsjs.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
	}
	change(&c)
	return t.want(c, 0, 0)
}

func (t *Topology) storage() natsjs.StorageType {
	if t.Memory {
		return natsjs.MemoryStorage
	}
	return natsjs.FileStorage
}

// want completes c, of which the Topology asks for age and bytes where these are not zero.
func (t *Topology) want(c natsjs.StreamConfig, age time.Duration, bytes int64) want {
	c.Retention = natsjs.LimitsPolicy
	c.Replicas = cmp.Or(t.Replicas, 1)
	c.MaxAge = cmp.Or(age, c.MaxAge)
	c.MaxBytes = cmp.Or(bytes, c.MaxBytes)
	c.MaxMsgsPerSubject = cmp.Or(c.MaxMsgsPerSubject, -1)
	return want{config: c, replicas: t.Replicas, maxAge: age, maxBytes: bytes}
}

// bucketStream returns the stream that holds a bucket, as every NATS client names it.
func bucketStream(bucket string) string { return "KV_" + bucket }

// bucketSubject returns the subject of a key of a bucket.
func bucketSubject(bucket, key string) string { return "$KV." + bucket + "." + key }
