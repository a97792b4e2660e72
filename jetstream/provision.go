package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Provision makes the region's streams and buckets, and brings those that exist to what t asks for. Any number of
// services may do so at once. What NATS cannot change, such as the storage, is refused with an error that names stream
// and field, and everything else is left as it is. While JetStream has no leader it tries again until ctx ends.
//
// A lone NATS node that is started anew has lost what it held in memory; the connection makes it again when it comes back.
func (c *Conn) Provision(ctx context.Context, t Topology) error {
	if err := t.Validate(); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	if c.region == "" {
		return errors.New("provision: this NATS has no JetStream domain, which has to be the region's name")
	}
	for _, w := range t.streams(c.region) {
		if err := c.ensureWithRetries(ctx, w); err != nil {
			return fmt.Errorf("provision %s: %w", c.region, err)
		}
	}
	if err := c.provisionEdges(ctx, &t); err != nil {
		return fmt.Errorf("provision %s: %w", c.region, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topology = &t
	return nil
}

func (c *Conn) ensureWithRetries(ctx context.Context, w want) error {
	return c.retry(ctx, func() error { return c.ensure(ctx, w) })
}

// retry calls make until it succeeds, or fails for good, or ctx ends.
func (c *Conn) retry(ctx context.Context, make func() error) error {
	scarce := 0
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := make()
		if isScarce(err) && scarce < scarceRetries {
			scarce++
		} else if err == nil || !transient(err) || ctx.Err() != nil {
			return err
		}
		pause := wait/2 + rand.N(wait/2)
		c.log.LogAttrs(ctx, slog.LevelWarn, "jetstream is not ready, will try again",
			slog.String("error", err.Error()), slog.Duration("retry_in", pause))
		if !sleep(ctx, pause) {
			return err
		}
	}
}

// JetStream's error codes for what passes: no meta leader, not the leader, no peer yet, a store just being removed.
const (
	codeNoPeers      = 10005
	codeUnavailable  = 10008
	codeNotLeader    = 10009
	codeCreateFailed = 10049
	codeOffline      = 10118
)

// Codes for too little memory or storage. While another service makes the same stream, what it reserves counts twice for
// a moment, so such an answer is believed only when it is repeated.
const (
	codeFewResources = 10023
	codeFewMemory    = 10028
	codeFewStorage   = 10047
	scarceRetries    = 4
)

// isScarce reports whether NATS says that it has too little memory or storage.
func isScarce(err error) bool {
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return false
	}
	return api.ErrorCode == codeFewResources || api.ErrorCode == codeFewMemory || api.ErrorCode == codeFewStorage
}

// transient reports whether trying again may help by itself.
func transient(err error) bool {
	for _, passing := range []error{
		context.DeadlineExceeded, nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		natsjs.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeNoPeers, codeUnavailable, codeNotLeader, codeCreateFailed, codeOffline:
		return true
	default:
		return false
	}
}

// ensure makes one stream, or updates it where it differs.
func (c *Conn) ensure(ctx context.Context, w want) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	name := w.config.Name
	s, err := c.js.Stream(ctx, name)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		_, err = c.js.CreateStream(ctx, w.config)
		if err == nil {
			c.log.LogAttrs(ctx, slog.LevelInfo, "stream is made", slog.String("stream", name))
			return nil
		}
		if !errors.Is(err, natsjs.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("create stream %s (storage: %v, max_bytes: %d, num_replicas: %d): %w",
				name, w.config.Storage, w.config.MaxBytes, w.config.Replicas, err)
		}
		s, err = c.js.Stream(ctx, name) // another service was faster
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", name, err)
	}
	config, changes := w.reconcile(c.region, s.CachedInfo().Config)
	if len(changes) == 0 {
		return nil
	}
	what := strings.Join(changes, ", ")
	if _, err := c.js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("update stream %s (%s): %w", name, what, err)
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "stream is changed", slog.String("stream", name), slog.String("changes", what))
	return nil
}

// reconcile returns the configuration that have must become, and each change as "field: old → new". What want does not
// speak of, such as placement, stays.
func (w *want) reconcile(own string, have natsjs.StreamConfig) (natsjs.StreamConfig, []string) {
	var changes []string
	c := w.config
	set(&changes, "description", &have.Description, c.Description)
	if !w.foreignOrigins && !slices.Equal(slices.Sorted(slices.Values(have.Subjects)), slices.Sorted(slices.Values(c.Subjects))) {
		changes = append(changes, fmt.Sprintf("subjects: %v → %v", have.Subjects, c.Subjects))
		have.Subjects = c.Subjects
	}
	if len(c.Sources) > 0 || w.ownOrigins {
		old, now := describeSources(own, have.Sources), describeSources(own, c.Sources)
		if !slices.Equal(old, now) {
			changes = append(changes, fmt.Sprintf("sources: %v → %v", old, now))
			have.Sources = c.Sources
		}
	}
	set(&changes, "storage", &have.Storage, c.Storage)
	set(&changes, "retention", &have.Retention, c.Retention)
	set(&changes, "discard", &have.Discard, c.Discard)
	set(&changes, "max_msgs_per_subject", &have.MaxMsgsPerSubject, c.MaxMsgsPerSubject)
	set(&changes, "compression", &have.Compression, c.Compression)
	set(&changes, "no_ack", &have.NoAck, c.NoAck)
	set(&changes, "allow_direct", &have.AllowDirect, c.AllowDirect)
	set(&changes, "allow_rollup_hdrs", &have.AllowRollup, c.AllowRollup)
	set(&changes, "deny_delete", &have.DenyDelete, c.DenyDelete)
	set(&changes, "allow_msg_ttl", &have.AllowMsgTTL, c.AllowMsgTTL)
	set(&changes, "subject_delete_marker_ttl", &have.SubjectDeleteMarkerTTL, c.SubjectDeleteMarkerTTL)
	if w.replicas != 0 {
		set(&changes, "num_replicas", &have.Replicas, w.replicas)
	}
	if w.maxAge != 0 {
		set(&changes, "max_age", &have.MaxAge, w.maxAge)
	}
	if w.maxBytes != 0 {
		set(&changes, "max_bytes", &have.MaxBytes, w.maxBytes)
	}
	return have, changes
}

// set makes *have equal to want and notes that as a change.
func set[T comparable](changes *[]string, field string, have *T, want T) {
	if *have == want {
		return
	}
	*changes = append(*changes, fmt.Sprintf("%s: %v → %v", field, *have, want))
	*have = want
}
