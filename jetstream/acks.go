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
)

// acks publishes and collects acknowledgements of the own domain. A subject that crosses regions is stored, and
// acknowledged, by several: the first answer to arrive may be another region's, and says nothing about this one.
type acks struct {
	nc     *nats.Conn
	domain string
	prefix string

	// mu guards the fields below: each ack that is waited for is in waiting until its Wait has ended.
	mu      sync.Mutex
	last    uint64
	waiting map[string]chan pubAck
}

// pubAck is a stream's answer to a publish.
type pubAck struct {
	Stream   string           `json:"stream"`
	Sequence uint64           `json:"seq"`
	Domain   string           `json:"domain"`
	Error    *natsjs.APIError `json:"error"`
	// nobody says that no stream and no subscriber has the subject.
	nobody bool
}

// ackBacklog is how many answers to one publish are kept until they are read: at most one of each region.
const ackBacklog = 64

func newAcks(nc *nats.Conn, domain string) (*acks, error) {
	a := &acks{nc: nc, domain: domain, prefix: nc.NewInbox() + ".", waiting: map[string]chan pubAck{}}
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
	var ack pubAck
	if len(msg.Data) == 0 {
		ack.nobody = msg.Header.Get("Status") == "503"
	} else if err := json.Unmarshal(msg.Data, &ack); err != nil {
		ack = pubAck{Error: &natsjs.APIError{Description: "unreadable acknowledgement: " + err.Error()}}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.waiting[strings.TrimPrefix(msg.Subject, a.prefix)] <- ack:
	default: // nobody waits any more
	}
}

// ack is an acknowledgement to come.
type ack struct {
	acks  *acks
	token string
	ch    chan pubAck
	// sent is when the message was handed to the connection.
	sent time.Time
	// shared says that other regions' streams may answer too.
	shared bool
}

// publish sends msg and returns what to wait on; each must be waited on.
func (a *acks) publish(msg *nats.Msg, shared bool) (*ack, error) {
	answers := 1
	if shared {
		answers = ackBacklog
	}
	k := &ack{acks: a, ch: make(chan pubAck, answers), sent: time.Now(), shared: shared}
	a.mu.Lock()
	a.last++
	k.token = strconv.FormatUint(a.last, 36)
	a.waiting[k.token] = k.ch
	a.mu.Unlock()
	msg.Reply = a.prefix + k.token
	if err := a.nc.PublishMsg(msg); err != nil {
		k.forget()
		return nil, fmt.Errorf("%w: publish on %s: %w", ErrUnavailable, msg.Subject, err)
	}
	return k, nil
}

func (k *ack) forget() {
	k.acks.mu.Lock()
	defer k.acks.mu.Unlock()
	delete(k.acks.waiting, k.token)
}

// errNobody says that no stream had the subject: nothing was written, it may be tried again.
var errNobody = errors.New("no stream answers")

// wait returns the sequence at which the own domain stored the message. It fails with errNobody, with the stream's own
// *natsjs.APIError, or, after ctx has ended, with ErrUnavailable.
func (k *ack) wait(ctx context.Context) (uint64, error) {
	defer k.forget()
	var refused error
	for {
		select {
		case got := <-k.ch:
			switch {
			case got.nobody:
				return 0, errNobody
			case got.Error != nil && !k.shared:
				return 0, got.Error
			case got.Error != nil:
				refused = got.Error // it does not say whose it is: ours may still come
			case got.Domain == k.acks.domain:
				return got.Sequence, nil
			case !k.shared:
				return 0, fmt.Errorf("stored by %s in domain %q instead of %q", got.Stream, got.Domain, k.acks.domain)
			}
		case <-ctx.Done():
			if refused != nil {
				return 0, refused
			}
			return 0, fmt.Errorf("%w: no acknowledgement: %w", ErrUnavailable, ctx.Err())
		}
	}
}
