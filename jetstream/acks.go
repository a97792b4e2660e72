package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events/wire"
)

// acks publishes and collects acknowledgements of the own domain. A subject that crosses regions is stored, and
// acknowledged, by several: the first answer to arrive may be another region's, and says nothing about this one.
type acks struct {
	outgoing *outgoing
	domain   string
	prefix   string

	// mu guards the fields below: each ack that is waited for is in waiting until its Wait has ended.
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan pubAck

	timers sync.Pool // of *time.Timer, all of them stopped
	acks   sync.Pool // of *ack that are waited for no more, of messages that one stream alone stores
}

// pubAck is a stream's answer to a publish.
type pubAck struct {
	Stream   string           `json:"stream"`
	Sequence uint64           `json:"seq"`
	Domain   string           `json:"domain"`
	Error    *natsjs.APIError `json:"error"`
	// refused says why the connection has not taken the message.
	refused error
	// nobody says that no stream and no subscriber has the subject.
	nobody bool
}

// ackBacklog is how many answers to one publish are kept until they are read: at most one of each region.
const ackBacklog = 64

func newAcks(nc *nats.Conn, domain string) (*acks, error) {
	a := &acks{outgoing: newOutgoing(nc), domain: domain, prefix: nc.NewInbox() + ".", waiting: map[uint64]chan pubAck{}}
	sub, err := nc.Subscribe(a.prefix+"*", a.arrived)
	if err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	return a, nil
}

// arrived hands an answer to the one who waits for it.
func (a *acks) arrived(msg *nats.Msg) {
	number, err := strconv.ParseUint(strings.TrimPrefix(msg.Subject, a.prefix), 36, 64)
	if err != nil {
		return
	}
	a.tell(number, a.read(msg))
}

// tell hands what became of a message to the one who waits for it.
func (a *acks) tell(number uint64, ack pubAck) {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.waiting[number] <- ack:
	default: // nobody waits any more
	}
}

// read returns what an answer says.
func (a *acks) read(msg *nats.Msg) (ack pubAck) {
	switch {
	case len(msg.Data) == 0:
		ack.nobody = msg.Header.Get("Status") == "503"
	case ack.scan(msg.Data, a.domain):
	default:
		if err := json.Unmarshal(msg.Data, &ack); err != nil {
			ack = pubAck{Error: &natsjs.APIError{Description: "unreadable acknowledgement: " + err.Error()}}
		}
	}
	return ack
}

// scan reads that a message was stored, and reports whether that is all that data says; ack is
// empty if not. The domain is mostly the own.
func (k *pubAck) scan(data []byte, own string) bool {
	s := wire.Scan(data)
	var stream []byte
	s.Object(func(key []byte) int {
		switch string(key) {
		case "stream":
			stream = s.Text()
			return 0
		case "seq":
			k.Sequence = s.Natural()
			return 1
		case "domain":
			k.Domain = s.Keep(own)
			return 2
		default:
			return wire.Unknown
		}
	})
	if !s.End() {
		*k = pubAck{}
		return false
	}
	if k.Domain != own { // or nobody asks for the stream
		k.Stream = string(stream)
	}
	return true
}

// release lets another message have the ack. The caller uses it no more.
func (k *ack) release() {
	if k.shared || k.givenUp {
		return
	}
	select {
	case <-k.ch: // it came too late
	default:
	}
	k.acks.acks.Put(k)
}

// ack is an acknowledgement to come.
type ack struct {
	acks   *acks
	parcel parcel
	number uint64
	ch     chan pubAck
	// sent is when the message began its way.
	sent time.Time
	// shared says that other regions' streams may answer too; givenUp that an answer may come yet that nobody waits for.
	shared, givenUp bool
}

// publish sends msg, whose data stays as it is until the waiting has ended, and returns what to wait on; each must be
// waited on.
func (a *acks) publish(msg *nats.Msg, shared bool) *ack {
	k := a.ack(shared)
	a.mu.Lock()
	a.last++
	k.number = a.last
	a.waiting[k.number] = k.ch
	a.mu.Unlock()
	msg.Reply = a.prefix + strconv.FormatUint(k.number, 36)
	k.parcel.msg.Store(msg)
	a.outgoing.put(&k.parcel)
	return k
}

// ack returns one that nothing is published for yet.
func (a *acks) ack(shared bool) *ack {
	if shared {
		return a.newAck(ackBacklog, true)
	}
	k, ok := a.acks.Get().(*ack)
	if !ok {
		return a.newAck(1, false)
	}
	k.sent = time.Now()
	return k
}

func (a *acks) newAck(backlog int, shared bool) *ack {
	k := &ack{acks: a, ch: make(chan pubAck, backlog), sent: time.Now(), shared: shared}
	k.parcel.refused = func(err error) { a.tell(k.number, pubAck{refused: err}) }
	return k
}

// forget ends the waiting: no answer comes any more.
func (k *ack) forget() {
	k.acks.mu.Lock()
	defer k.acks.mu.Unlock()
	delete(k.acks.waiting, k.number)
}

// errNobody says that no stream had the subject: nothing was written, it may be tried again.
var errNobody = errors.New("no stream answers")

// wait returns the sequence at which the own domain stored the message. It fails with errNobody, with the stream's own
// *natsjs.APIError, or, after ctx has ended or the limit has passed, with ErrUnavailable.
func (k *ack) wait(ctx context.Context, limit time.Duration) (uint64, error) {
	defer k.forget()
	end := time.Now().Add(limit)
	var refused error
	for {
		got, err := k.next(ctx, end)
		switch {
		case err != nil:
			return 0, k.giveUp(err, refused)
		case got.nobody:
			return 0, errNobody
		case got.refused != nil:
			return 0, fmt.Errorf("%w: not sent: %w", ErrUnavailable, got.refused)
		case got.Error != nil && !k.shared:
			return 0, got.Error
		case got.Error != nil:
			refused = got.Error // it does not say whose it is: ours may still come
		case got.Domain == k.acks.domain:
			return got.Sequence, nil
		case !k.shared:
			return 0, fmt.Errorf("stored by %s in domain %q instead of %q", got.Stream, got.Domain, k.acks.domain)
		}
	}
}

// next returns the next answer, or why none has come.
func (k *ack) next(ctx context.Context, end time.Time) (pubAck, error) {
	select {
	case got := <-k.ch: // as mostly, where many are waited for one after the other
		return got, nil
	default:
	}
	timer, ok := k.acks.timers.Get().(*time.Timer)
	if ok {
		timer.Reset(time.Until(end))
	} else {
		timer = time.NewTimer(time.Until(end))
	}
	defer func() {
		timer.Stop()
		k.acks.timers.Put(timer)
	}()
	select {
	case got := <-k.ch:
		return got, nil
	case <-ctx.Done():
		return pubAck{}, ctx.Err()
	case <-timer.C:
		return pubAck{}, context.DeadlineExceeded
	}
}

// giveUp ends the waiting for an acknowledgement that has not come, and returns that fault, refused if somebody's was no.
func (k *ack) giveUp(why, refused error) error {
	k.acks.outgoing.takeBack(&k.parcel)
	k.givenUp = true
	if refused != nil {
		return refused
	}
	return fmt.Errorf("%w: no acknowledgement: %w", ErrUnavailable, why)
}
