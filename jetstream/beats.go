package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/sessions"
)

// Beats are times that a region writes among its own sessions, so that they travel as sessions do: how late they come is
// how late sessions come. The token services write them, and not the registry: they may write that bucket anyway, and
// nobody else needs to.
const (
	beatEvery = 2 * time.Second
	// beatOverdue is the age from which a beat says that the next one is late.
	beatOverdue = 5 * time.Second
	// beatTTL ends the beats of a region or jurisdiction that has gone.
	beatTTL = 24 * time.Hour
)

// beat is what a beat's key holds.
type beat struct {
	At      time.Time `json:"at"`
	Service string    `json:"service,omitempty"`
}

// writeBeats writes one for each jurisdiction that copies leave in, until ctx ends. Any number of token services of a
// region may do so: each beat is true.
func (k *Copies) writeBeats(ctx context.Context) {
	for {
		if err := k.writeBeat(ctx); err != nil && ctx.Err() == nil {
			k.log.LogAttrs(ctx, slog.LevelInfo, "beat is not written", slog.String("error", err.Error()))
		}
		if !sleep(ctx, beatEvery) {
			return
		}
	}
}

func (k *Copies) writeBeat(ctx context.Context) error {
	ctx, cancel := within(ctx, beatEvery)
	defer cancel()
	in, err := k.strands(ctx)
	if err != nil {
		return err
	}
	var written []string
	for _, s := range in { // who gives us its sessions gets ours
		if slices.Contains(written, s.jurisdiction) {
			continue
		}
		written = append(written, s.jurisdiction)
		data, err := json.Marshal(beat{At: time.Now().UTC(), Service: k.cfg.Service})
		if err != nil {
			return err
		}
		key := sessions.BeatKey(s.jurisdiction)
		ack := k.conn.acks.publish(&nats.Msg{Subject: bucketSubject(BucketSessions, key.String()), Header: putHeader(beatTTL), Data: data}, false)
		_, err = ack.wait(ctx, beatEvery)
		ack.release()
		if err != nil {
			return fmt.Errorf("write %s to %s: %w", key, BucketSessions, err)
		}
	}
	return nil
}

// hearBeats notes the beats of others until ctx ends.
func (k *Copies) hearBeats(ctx context.Context) error {
	f := &copyFeed{conn: k.conn, filter: beatFilter(), begin: natsjs.DeliverLastPerSubjectPolicy, each: k.beats.note}
	if err := k.conn.keepReading(ctx, slog.String("stream", StreamCopies), f.follow); err != nil {
		return fmt.Errorf("hear beats: %w", err)
	}
	return nil
}

// beatFilter returns what beats are stored on, whatever their jurisdiction and origin.
func beatFilter() string { return copySubject("*", "*", sessions.BeatKey("").Session) }

// Lag is how far what has arrived of a region's sessions is behind.
type Lag struct {
	Region string
	// Known is false of a region from which no beat has come within a day.
	Known bool
	// Behind is the age of the newest beat when it was stored here or, once the next one is overdue, its age now. It has
	// the skew between the clocks of the token service that wrote the beat and of this region's NATS in it, and in the
	// second case this machine's; where they make it negative it is 0.
	Behind time.Duration
}

// arrivals are the newest beats that have come.
type arrivals struct {
	// mu guards the map: the newest beat of each origin and jurisdiction.
	mu     sync.Mutex
	newest map[[2]string]arrival
}

// arrival is a beat and when NATS stored it here.
type arrival struct{ at, stored time.Time }

// note keeps a beat if it is one and the newest.
func (a *arrivals) note(msg *nats.Msg, meta *nats.MsgMetadata) {
	key, origin, ok := parseCopySubject(msg.Subject)
	var b beat
	if !ok || removes(msg.Header) || json.Unmarshal(msg.Data, &b) != nil || b.At.IsZero() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.newest == nil {
		a.newest = map[[2]string]arrival{}
	}
	a.newest[[2]string{origin, key.Jurisdiction}] = arrival{b.At, meta.Timestamp}
}

// lags returns how far each origin of the strands is behind, in the jurisdiction that is furthest, sorted by region.
func (a *arrivals) lags(in []strand, now time.Time) []Lag {
	a.mu.Lock()
	defer a.mu.Unlock()
	byRegion := map[string]Lag{}
	for _, s := range in {
		got, ok := a.newest[[2]string{s.origin, s.jurisdiction}]
		lag, before := byRegion[s.origin]
		if !before {
			lag = Lag{Region: s.origin, Known: true}
		}
		lag.Known = lag.Known && ok
		if ok {
			lag.Behind = max(lag.Behind, got.behind(now))
		}
		byRegion[s.origin] = lag
	}
	list := make([]Lag, 0, len(byRegion))
	for _, lag := range byRegion {
		list = append(list, lag)
	}
	slices.SortFunc(list, func(a, b Lag) int { return strings.Compare(a.Region, b.Region) })
	return list
}

func (a arrival) behind(now time.Time) time.Duration {
	if now.Sub(a.stored) > beatOverdue {
		return max(0, now.Sub(a.at))
	}
	return max(0, a.stored.Sub(a.at))
}

// Lags returns how far behind this region is of each that it has an edge to, sorted by region. It needs Run.
func (k *Copies) Lags() []Lag {
	in := k.incoming.Load()
	if in == nil {
		return nil
	}
	return k.beats.lags(*in, time.Now())
}

// CopyLags reads once, from the stream alone, what Lags returns.
func (c *Conn) CopyLags(ctx context.Context) ([]Lag, error) {
	info, err := c.copiesInfo(ctx, StreamCopies)
	if err != nil || len(info.Config.Sources) == 0 {
		return nil, err
	}
	var beats arrivals
	err = c.read(ctx, StreamCopies, natsjs.ConsumerConfig{
		FilterSubject: beatFilter(),
		DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
	}, beats.note)
	if err != nil {
		return nil, fmt.Errorf("read beats: %w", err)
	}
	return beats.lags(strandsOf(c.region, info.Config.Sources), time.Now()), nil
}
