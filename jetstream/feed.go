package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// feed is one gapless reading of a stream: from where it is opened to its first fault.
//
// It is a push consumer read by hand, not one of the NATS client's: those keep the idle heartbeats to themselves, which
// are the proof that silence means nothing has changed, and take 10 to 20 s to notice that a consumer is gone.
type feed struct {
	conn *Conn
	sub  *nats.Subscription
	// stream and consumer name what is read.
	stream, consumer string
	// msgs is what arrives. It holds more than the server sends ahead; should it overflow, the gap is noticed.
	msgs chan *nats.Msg
	// read counts the messages that were taken.
	read uint64
	// due is how many there were when the feed was opened.
	due uint64
}

const (
	// feedBacklog is how many messages a feed holds.
	feedBacklog = 32 << 10
	// feedInactive is how long NATS keeps a consumer that nobody listens to.
	feedInactive = 5 * time.Second
)

// errGap says that messages are missing or out of order.
var errGap = errors.New("messages are missing")

// openFeed starts reading stream as cfg's filter and delivery policy say.
func (c *Conn) openFeed(ctx context.Context, stream string, heartbeat time.Duration, cfg natsjs.ConsumerConfig) (*feed, error) {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	f := &feed{conn: c, stream: stream, consumer: "feed-" + nuid.Next(), msgs: make(chan *nats.Msg, feedBacklog)}
	inbox := c.nc.NewInbox()
	var err error
	if f.sub, err = c.nc.ChanSubscribe(inbox, f.msgs); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	cfg.Name = f.consumer
	cfg.DeliverSubject = inbox
	cfg.AckPolicy = natsjs.AckNonePolicy
	cfg.FlowControl = true
	cfg.IdleHeartbeat = heartbeat
	cfg.InactiveThreshold = feedInactive
	cfg.MemoryStorage = true
	cfg.Replicas = 1
	consumer, err := c.js.CreatePushConsumer(ctx, stream, cfg)
	if err != nil {
		_ = f.sub.Unsubscribe()
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	info := consumer.CachedInfo()
	f.due = info.NumPending + info.Delivered.Consumer
	return f, nil
}

// close ends the reading. The consumer goes at once where there is a connection, else by itself.
func (f *feed) close() {
	_ = f.sub.Unsubscribe()
	if !f.conn.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = f.conn.js.DeleteConsumer(ctx, f.stream, f.consumer)
}

// abandon ends the reading after a fault: NATS removes the consumer by itself, and asking for it would only delay.
func (f *feed) abandon() { _ = f.sub.Unsubscribe() }

// readOn hands what arrives to take until the first fault, or until wake, which it reports as nil.
func (f *feed) readOn(ctx context.Context, wake <-chan struct{}, heartbeat time.Duration, take func(*nats.Msg) error) error {
	// Two heartbeats that stay away mean that the consumer, or the way to it, is gone.
	limit := heartbeat*5/2 + 50*time.Millisecond
	silence := time.NewTimer(limit)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
			return nil
		case <-silence.C:
			return fmt.Errorf("read stream %s: no heartbeat for %v", f.stream, limit)
		case msg := <-f.msgs:
			if err := take(msg); err != nil {
				return err
			}
			silence.Reset(limit)
		}
	}
}

// The waits between attempts to read what cannot be read, doubling.
const (
	watchFirstRetry = 50 * time.Millisecond
	watchLastRetry  = 2 * time.Second
)

// keepReading calls follow until ctx ends, which is no error, or the connection is closed for good. follow reads until a
// fault, or until wake, after a reconnect, which it reports as nil; opened says that reading had begun. what names, in the
// log, what is read.
func (c *Conn) keepReading(ctx context.Context, what slog.Attr, follow func(ctx context.Context, wake <-chan struct{}) (opened bool, err error)) error {
	wake := make(chan struct{}, 1)
	defer c.OnReconnect(func() { signal(wake) })()
	wait := watchFirstRetry
	for {
		opened, err := follow(ctx, wake)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, nats.ErrConnectionClosed):
			return err
		case err == nil: // the connection has come back: read on at once
			wait = watchFirstRetry
			continue
		case opened:
			wait = watchFirstRetry
		}
		pause := wait/2 + rand.N(wait/2)
		c.log.LogAttrs(ctx, slog.LevelWarn, "watch is interrupted, will read on",
			what, slog.String("error", err.Error()), slog.Duration("retry_in", pause))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-wake:
		case <-ctx.Done():
		}
		t.Stop()
		wait = min(2*wait, watchLastRetry)
	}
}

// take returns what msg says of the stream's message that it carries, and nil for an idle heartbeat, which proves that
// everything was read. It fails if something is missing, or the consumer is gone.
func (f *feed) take(msg *nats.Msg) (*nats.MsgMetadata, error) {
	if _, some, err := f.step(msg); !some {
		return nil, err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", f.stream, err)
	}
	return meta, nil
}

// step is take for who needs no more than the position; some says that there is one.
func (f *feed) step(msg *nats.Msg) (at position, some bool, err error) {
	if len(msg.Header) > 0 && len(msg.Data) == 0 {
		if status := msg.Header.Get("Status"); status != "" {
			return at, false, f.control(msg, status)
		}
	}
	at, some = positionOf(msg.Reply)
	if !some {
		return at, false, fmt.Errorf("read stream %s: %w", f.stream, nats.ErrNotJSMessage)
	}
	f.read++
	if at.consumer != f.read {
		return at, false, fmt.Errorf("read stream %s: %w: got number %d, not %d", f.stream, errGap, at.consumer, f.read)
	}
	return at, true, nil
}

// position is where a message stands: its numbers in the stream and in the consumer, and how many are to come.
type position struct{ stream, consumer, pending uint64 }

// Tokens of the reply subject of a consumer's message: $JS.ACK, then the domain and the account's hash where the server
// is new enough, then stream, consumer, deliveries and the numbers.
const (
	ackPrefix    = "$JS.ACK."
	ackTokens    = 9
	ackTokensNew = 11
	ackNumbers   = 5
)

// positionOf reads the reply subject of a message.
func positionOf(reply string) (at position, ok bool) {
	if !strings.HasPrefix(reply, ackPrefix) {
		return at, false
	}
	skip := ackNumbers
	switch n := strings.Count(reply, ".") + 1; {
	case n >= ackTokensNew:
		skip += 2
	case n != ackTokens:
		return at, false
	}
	for range skip {
		_, reply, _ = strings.Cut(reply, ".")
	}
	var numbers [4]uint64 // the third is the time
	for i := range numbers {
		var token string
		var err error
		token, reply, _ = strings.Cut(reply, ".")
		if numbers[i], err = strconv.ParseUint(token, 10, 64); err != nil {
			return at, false
		}
	}
	return position{stream: numbers[0], consumer: numbers[1], pending: numbers[3]}, true
}

// control handles a message of the consumer itself.
func (f *feed) control(msg *nats.Msg, status string) error {
	if status != "100" {
		return fmt.Errorf("read stream %s: %s %s", f.stream, status, msg.Header.Get("Description"))
	}
	// Flow control: the server goes on once it sees that what it sent before has been read.
	for _, reply := range []string{msg.Reply, msg.Header.Get("Nats-Consumer-Stalled")} {
		if reply != "" {
			if err := f.conn.nc.Publish(reply, nil); err != nil {
				return fmt.Errorf("read stream %s: %w", f.stream, err)
			}
		}
	}
	if last := msg.Header.Get("Nats-Last-Consumer"); last != "" && last != strconv.FormatUint(f.read, 10) {
		return fmt.Errorf("read stream %s: %w: read %d of %s", f.stream, errGap, f.read, last)
	}
	return nil
}

// idle reports whether msg is an idle heartbeat.
func idle(msg *nats.Msg) bool { return msg.Header.Get("Nats-Last-Consumer") != "" }
