package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Timing of the watch over edges.
const (
	// lookEvery is how often each edge is looked at, blindEvery how often while one is out of sight: until its return is
	// noticed, what it has to tell is not waited for. lookTimeout is how long one look may take.
	lookEvery   = 500 * time.Millisecond
	blindEvery  = 200 * time.Millisecond
	lookTimeout = time.Second
	// blindAfter is how long a region stays in sight without an answer. Nobody takes a session over from a region that was
	// silent for less than 5 s.
	blindAfter = 3 * time.Second
	// A source hears something every second while it works. One that has heard nothing for silentAfter, though its origin
	// answers since patience, is set up again, and then given firstKick, doubling up to lastKick: by itself NATS waits for
	// half a minute for an answer that was lost with the link, and for up to two after that.
	silentAfter = 2 * time.Second
	patience    = 400 * time.Millisecond
	firstKick   = 4 * time.Second
	lastKick    = time.Minute
	// steadyFor is how long a source has to work, without that anything comes, to have nothing to come.
	steadyFor = 3 * time.Second
	// fullFrom is the part of the stream's bound from which it is nearly full.
	fullFrom = 0.9
)

// sight is what is known of the strands that come in.
type sight struct {
	// mu guards the fields below, which watchEdges writes.
	mu      sync.Mutex
	strands map[strand]*strandSight
	// fault is why the own stream could not be looked at; nil once it could.
	fault error
	// looked says that it could be, by way of this server.
	looked bool
	server string
}

// strandSight is what is known of one strand.
type strandSight struct {
	// answered is when its origin last answered, or when it was first asked.
	answered time.Time
	// state says what is known: not yet anything, that it cannot be seen, that something is missing, that nothing is.
	state strandState
	// mark is the last message that the origin had when it came into sight: nothing before it is missing once it, or a
	// later one, is stored here. 0: not known yet.
	mark uint64
	// stored is the last message of the origin that was stored here at the last look; since steady the source works and has
	// nothing more to store.
	stored uint64
	steady time.Time
	// Since silent the source has heard nothing though the origin answers; zero: that is not so. Until kick it is not set up
	// again, and then has pause to work.
	silent time.Time
	kick   time.Time
	pause  time.Duration
	// lost says that the origin has fewer messages than are stored here of it, and that this was told.
	lost bool
}

type strandState int

const (
	strandUnknown strandState = iota
	strandUnseen
	strandBehind
	strandCaughtUp
)

// Ready returns nil once nothing is known to be missing of what other regions have to tell (V17): since the start, or since
// an edge came into sight again, everything that it had then has been stored here. Regions that cannot be seen
// are not waited for; whether one can, takes 3 s to tell. The error says what is missing. It needs Run.
func (k *Copies) Ready() error {
	k.sight.mu.Lock()
	defer k.sight.mu.Unlock()
	if !k.sight.looked {
		if k.sight.fault != nil {
			return fmt.Errorf("copies of sessions are not read yet: %w", k.sight.fault)
		}
		return errors.New("copies of sessions are not read yet")
	}
	for s, is := range k.sight.strands {
		switch is.state {
		case strandUnknown:
			return fmt.Errorf("copies of sessions: whether region %s can be seen is not known yet", s.origin)
		case strandBehind:
			return fmt.Errorf("copies of sessions: not all of region %s, jurisdiction %s, have arrived yet", s.origin, s.jurisdiction)
		case strandUnseen, strandCaughtUp:
		}
	}
	return nil
}

// CaughtUp reports whether nothing is known to be missing of what one region has to tell. Unlike Ready it is false where
// that region cannot be seen: its JetStream may be away while everything else there lives.
func (k *Copies) CaughtUp(region string) bool {
	k.sight.mu.Lock()
	defer k.sight.mu.Unlock()
	for s, is := range k.sight.strands {
		if s.origin == region && is.state != strandCaughtUp {
			return false
		}
	}
	return k.sight.looked
}

// watchEdges looks at the edges until ctx ends.
func (k *Copies) watchEdges(ctx context.Context) {
	reached := func() { k.sight.reached(k.conn.nc.ConnectedServerId()) }
	defer k.conn.OnReconnect(reached)()
	reached()
	for {
		k.look(ctx)
		if k.Ready() == nil {
			k.metrics.ready.Set(1)
		} else {
			k.metrics.ready.Set(0)
		}
		if !sleep(ctx, k.sight.pause()) {
			return
		}
	}
}

// pause returns how long to wait for the next look.
func (s *sight) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked && len(s.strands) == 0 {
		return noEdgesWait
	}
	for _, is := range s.strands {
		if is.state == strandUnseen {
			return blindEvery
		}
	}
	return lookEvery
}

// reached is told of the server that is connected to, also after a lost connection has come back. What another one knew
// says nothing of what one that was started anew still has to get.
func (s *sight) reached(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != server {
		s.server, s.looked, s.strands = server, false, nil
	}
}

// look finds out how things are with the own stream and with each strand.
func (k *Copies) look(ctx context.Context) {
	info, err := k.conn.copiesInfo(ctx, StreamCopies)
	if err != nil {
		k.sight.mu.Lock()
		k.sight.fault = err
		k.sight.mu.Unlock()
		return
	}
	in := strandsOf(k.conn.region, info.Config.Sources)
	if before := k.incoming.Swap(&in); before != nil {
		for _, s := range *before {
			if !slices.ContainsFunc(in, func(other strand) bool { return other.origin == s.origin }) {
				k.metrics.lag.DeleteLabelValues(s.origin)
			}
		}
	}
	k.measure(ctx, info, in)
	seen := make([]originState, len(in))
	var wg sync.WaitGroup
	for i, s := range in {
		wg.Go(func() { seen[i] = k.conn.originOf(ctx, s) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	k.judge(ctx, info, in, seen)
}

// measure sets the metrics, and tells when the stream is nearly full.
func (k *Copies) measure(ctx context.Context, info *natsjs.StreamInfo, in []strand) {
	now := time.Now()
	if k.began.IsZero() {
		k.began = now
	}
	for _, lag := range k.beats.lags(in, now) {
		if !lag.Known {
			lag.Behind = now.Sub(k.began)
		}
		k.metrics.lag.WithLabelValues(lag.Region).Set(lag.Behind.Seconds())
	}
	k.metrics.bytes.Set(float64(info.State.Bytes))
	full := 0.0
	if info.Config.MaxBytes > 0 {
		full = float64(info.State.Bytes) / float64(info.Config.MaxBytes)
	}
	k.metrics.full.Set(full)
	before := k.nearlyFull
	k.nearlyFull = full >= fullFrom
	if k.nearlyFull && !before {
		k.log.LogAttrs(ctx, slog.LevelError, "copies of sessions fill their stream: soon the oldest are dropped, and those sessions cannot be taken over; raise its max_bytes",
			slog.String("stream", StreamCopies), slog.Uint64("bytes", info.State.Bytes), slog.Int64("max_bytes", info.Config.MaxBytes))
	}
}

// originState is what an origin says of its sessions.
type originState struct {
	// err is why nothing is known.
	err error
	// last is the last message of its bucket of sessions.
	last uint64
}

// errNoSessions says that the origin answers, and has never had a session.
var errNoSessions = errors.New("the region has no bucket " + BucketSessions + " yet")

// originOf asks the origin's JetStream, which answers without a word of any session.
func (c *Conn) originOf(ctx context.Context, s strand) originState {
	ctx, cancel := within(ctx, lookTimeout)
	defer cancel()
	msg, err := c.askAbroad(ctx, s.api()+".STREAM.INFO."+bucketStream(s.bucket))
	if err != nil {
		return originState{err: err}
	}
	var reply struct {
		Error *natsjs.APIError `json:"error"`
		State struct {
			Last uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return originState{err: fmt.Errorf("read reply: %w", err)}
	}
	switch {
	case reply.Error != nil && reply.Error.ErrorCode == natsjs.JSErrCodeStreamNotFound:
		return originState{err: errNoSessions}
	case reply.Error != nil:
		return originState{err: reply.Error}
	}
	return originState{last: reply.State.Last}
}

// judge notes what a look has shown, and sets up again what is silent.
func (k *Copies) judge(ctx context.Context, info *natsjs.StreamInfo, in []strand, seen []originState) {
	now := time.Now()
	var silent []strand
	k.sight.mu.Lock()
	before := k.sight.strands
	k.sight.strands, k.sight.looked, k.sight.fault = map[strand]*strandSight{}, true, nil
	for i, s := range in {
		is := before[s]
		if is == nil {
			is = &strandSight{answered: now, pause: firstKick}
		}
		k.sight.strands[s] = is
		source := sourceOf(k.conn.region, info, s)
		was, lost := is.state, is.lost
		is.see(seen[i], source, now)
		if is.quiet(seen[i], source, now) {
			silent = append(silent, s)
		}
		if was != is.state {
			k.tell(ctx, s, is.state, seen[i].err)
		}
		if is.lost && !lost {
			k.log.LogAttrs(ctx, slog.LevelError, "a region has lost sessions that are copied here: what it writes next is not copied until it has written as much again; "+
				"take its edge away and add it again to copy all anew", slog.String("origin", s.origin), slog.String("jurisdiction", s.jurisdiction),
				slog.Uint64("lost", is.stored-seen[i].last))
		}
	}
	k.sight.mu.Unlock()
	for _, s := range silent {
		k.kick(ctx, s)
	}
}

// sourceOf returns what the stream says of the source of a strand.
func sourceOf(own string, info *natsjs.StreamInfo, s strand) *natsjs.StreamSourceInfo {
	for _, source := range info.Sources {
		if other, ok := strandOf(own, source.Name, source.External, source.SubjectTransforms); ok && other == s {
			return source
		}
	}
	return &natsjs.StreamSourceInfo{Active: -1}
}

// works reports whether a source hears its consumer.
func works(source *natsjs.StreamSourceInfo) bool {
	return source.Error == nil && source.Active >= 0 && source.Active < silentAfter
}

// see takes what the origin says, and what the own stream said of the source before that.
func (is *strandSight) see(origin originState, source *natsjs.StreamSourceInfo, now time.Time) {
	if !works(source) || source.Lag > 0 || source.Seq != is.stored {
		is.steady = now
	}
	is.stored = source.Seq
	if origin.err != nil {
		if now.Sub(is.answered) >= blindAfter || errors.Is(origin.err, errNoSessions) {
			is.state, is.mark = strandUnseen, 0
		}
		return
	}
	away := now.Sub(is.answered) >= blindAfter // also if it is this process that was away, and did not ask
	is.answered = now
	is.lost = origin.last < is.stored
	if is.state == strandCaughtUp && !away {
		return
	}
	if is.state != strandBehind {
		is.state, is.mark, is.steady = strandBehind, origin.last, now
	}
	// The last message may be of another jurisdiction, and does not come then: the next beat does, if one is written there.
	if is.stored >= is.mark || now.Sub(is.steady) >= steadyFor {
		is.state = strandCaughtUp
	}
}

// quiet reports whether the source has to be set up again.
func (is *strandSight) quiet(origin originState, source *natsjs.StreamSourceInfo, now time.Time) bool {
	if works(source) {
		is.pause = firstKick
	}
	if origin.err != nil || works(source) {
		is.silent = time.Time{}
		return false
	}
	if is.silent.IsZero() {
		is.silent = now
	}
	if now.Sub(is.silent) < patience || now.Before(is.kick) {
		return false
	}
	is.silent, is.kick = time.Time{}, now.Add(is.pause)
	is.pause = min(2*is.pause, lastKick)
	return true
}

// tell logs a change of what is known of a strand.
func (k *Copies) tell(ctx context.Context, s strand, state strandState, err error) {
	attrs := []slog.Attr{slog.String("origin", s.origin), slog.String("jurisdiction", s.jurisdiction)}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	switch state {
	case strandUnseen:
		level := slog.LevelWarn
		if errors.Is(err, errNoSessions) {
			level = slog.LevelInfo // it is about to be set up
		}
		k.log.LogAttrs(ctx, level, "region is out of sight: no copies of its sessions arrive", attrs...)
	case strandBehind:
		k.log.LogAttrs(ctx, slog.LevelInfo, "region is in sight: copies of its sessions are being fetched", attrs...)
	case strandCaughtUp:
		k.log.LogAttrs(ctx, slog.LevelInfo, "copies of a region's sessions are complete", attrs...)
	case strandUnknown:
	}
}

// kick takes a source out of the stream and puts it back, upon which NATS asks for its consumer at once. It goes on where
// it was: what is stored says how far that is.
func (k *Copies) kick(ctx context.Context, s strand) {
	err := k.conn.restartSource(ctx, s)
	if err != nil {
		k.log.LogAttrs(ctx, slog.LevelWarn, "silent source of copies could not be set up again",
			slog.String("origin", s.origin), slog.String("error", err.Error()))
		return
	}
	k.metrics.kicks.WithLabelValues(s.origin).Inc()
	k.log.LogAttrs(ctx, slog.LevelInfo, "source of copies was silent and is set up again",
		slog.String("origin", s.origin), slog.String("jurisdiction", s.jurisdiction))
}

func (c *Conn) restartSource(ctx context.Context, s strand) error {
	stream := StreamCopies
	if s.bucket == BucketIdempotency {
		stream = StreamIdempotencyCopies
	}
	return c.restartSources(ctx, stream, func(source *natsjs.StreamSource) bool {
		other, ok := strandOf(c.region, source.Name, source.External, source.SubjectTransforms)
		return ok && other == s
	})
}

// restartSources does so with the sources of a stream that match.
func (c *Conn) restartSources(ctx context.Context, name string, match func(*natsjs.StreamSource) bool) error {
	ctx, cancel := within(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", name, err)
	}
	config := stream.CachedInfo().Config
	all := config.Sources
	config.Sources = slices.DeleteFunc(slices.Clone(all), match)
	if len(config.Sources) == len(all) {
		return nil // it is no edge any more
	}
	_, err = c.js.UpdateStream(ctx, config)
	config.Sources = all
	back := c.retry(ctx, func() error { _, err := c.js.UpdateStream(ctx, config); return err })
	if err := errors.Join(err, back); err != nil {
		return fmt.Errorf("update stream %s: %w", name, err)
	}
	return nil
}
