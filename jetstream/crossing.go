package jetstream

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/berthhq/berth/events"
)

// crossing waits for answers from other regions: on inboxes of the jurisdiction that the question is of, so that an
// answer goes to no region outside of it. What is asked inside a region is answered on the connection's own inboxes,
// which no leaf connection lets through (events.LeafDenials).
type crossing struct {
	nc *nats.Conn
	// own sets this connection's inboxes apart from others'; empty: it has no name.
	own string

	// mu guards inboxes, by their jurisdiction.
	mu      sync.Mutex
	inboxes map[string]*inbox
}

// inbox takes the answers of one jurisdiction.
type inbox struct {
	prefix string
	// mu guards waiting: who waits for which answer.
	mu      sync.Mutex
	waiting map[string]chan *nats.Msg
}

// of returns the inbox of a jurisdiction, which stays until the connection ends.
func (c *crossing) of(jurisdiction string) (*inbox, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in := c.inboxes[jurisdiction]; in != nil {
		return in, nil
	}
	in := &inbox{prefix: c.prefix(jurisdiction) + nuid.Next() + ".", waiting: map[string]chan *nats.Msg{}}
	sub, err := c.nc.Subscribe(in.prefix+"*", in.arrived)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	c.inboxes[jurisdiction] = in
	return in, nil
}

// prefix returns what the connection's inboxes of a jurisdiction begin with.
func (c *crossing) prefix(jurisdiction string) string {
	if c.own == "" {
		return events.Inbox(jurisdiction) + "."
	}
	return events.Inbox(jurisdiction) + "." + c.own + "."
}

func (in *inbox) arrived(msg *nats.Msg) {
	id := msg.Subject[min(len(in.prefix), len(msg.Subject)):]
	in.mu.Lock()
	ch := in.waiting[id]
	delete(in.waiting, id)
	in.mu.Unlock()
	if ch != nil {
		ch <- msg // it has room for the one
	}
}

// request sends msg and waits for the answer until ctx ends.
func (c *crossing) request(ctx context.Context, jurisdiction string, msg *nats.Msg) (*nats.Msg, error) {
	in, err := c.of(jurisdiction)
	if err != nil {
		return nil, err
	}
	id, ch := nuid.Next(), make(chan *nats.Msg, 1)
	in.mu.Lock()
	in.waiting[id] = ch
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		delete(in.waiting, id)
		in.mu.Unlock()
	}()
	msg.Reply = in.prefix + id
	if err := c.nc.PublishMsg(msg); err != nil {
		return nil, err
	}
	select {
	case answer := <-ch:
		if len(answer.Data) == 0 && answer.Header.Get("Status") == noResponders {
			return nil, nats.ErrNoResponders
		}
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// elsewhere returns the jurisdiction of a request whose answer comes from another region, empty if it comes from this one.
func (c *Conn) elsewhere(subject string) string {
	s, err := events.ParseSubject(subject)
	if err != nil || s.Kind != events.KindRPC || s.Region == c.region {
		return ""
	}
	return s.Jurisdiction
}

// request asks whoever serves the subject of msg.
func (c *Conn) request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	if j := c.elsewhere(msg.Subject); j != "" {
		return c.crossing.request(ctx, j, msg)
	}
	return c.nc.RequestMsgWithContext(ctx, msg)
}

// askAbroad asks the JetStream of another region.
func (c *Conn) askAbroad(ctx context.Context, subject string) (*nats.Msg, error) {
	return c.crossing.request(ctx, events.GlobalJurisdiction, &nats.Msg{Subject: subject})
}
