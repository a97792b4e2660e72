package jetstream

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// outgoing hands messages to the connection, one goroutine for everybody, each time after all others that can run have
// had their turn: what a busy process publishes in that time leaves together. A message by itself would cost the system
// call, and the wake-ups here and at the server, that a hundred cost. Messages go in the order in which they came.
type outgoing struct {
	nc    *nats.Conn
	queue chan *parcel
	// ended is closed when nobody reads the queue any more.
	ended chan struct{}
	// sending is held while a message is handed over, and handing is whose that is, so that who takes one back knows
	// that nobody reads it.
	sending sync.Mutex
	handing atomic.Pointer[parcel]
}

// parcel is a message on its way to the connection.
type parcel struct {
	// msg is nil once it is being handed over, or was taken back.
	msg atomic.Pointer[nats.Msg]
	// refused is told when the connection does not take it.
	refused func(error)
}

// writeTimeout bounds a write to the connection, and the wait for room in the queue: whoever waits for a record does so
// no longer (recordPatience).
const writeTimeout = 2 * time.Second

// outgoingMost is how many messages wait before who sends more has to wait too, as where NATS takes none for a while.
const outgoingMost = 1024

func newOutgoing(nc *nats.Conn) *outgoing {
	return &outgoing{nc: nc, queue: make(chan *parcel, outgoingMost), ended: make(chan struct{})}
}

// run hands over until ctx ends, and then what is left.
func (o *outgoing) run(ctx context.Context) {
	defer close(o.ended)
	for {
		select {
		case p := <-o.queue:
			runtime.Gosched()
			o.handOver(p)
			o.rest()
		case <-ctx.Done():
			o.rest()
			return
		}
	}
}

// rest hands over what waits.
func (o *outgoing) rest() {
	for {
		select {
		case p := <-o.queue:
			o.handOver(p)
		default:
			return
		}
	}
}

// put takes a message, which stays as it is until it was answered, or taken back.
func (o *outgoing) put(p *parcel) {
	select {
	case <-o.ended:
		o.handOver(p)
		return
	default:
	}
	select {
	case o.queue <- p:
		return
	default:
	}
	full := time.NewTimer(writeTimeout)
	defer full.Stop()
	select {
	case o.queue <- p:
	case <-o.ended:
		o.handOver(p)
	case <-full.C:
		p.refused(errStalled)
	}
}

// errStalled says that NATS has taken nothing for so long that too much waits already.
var errStalled = errors.New("the connection takes no more messages")

func (o *outgoing) handOver(p *parcel) {
	o.sending.Lock()
	defer o.sending.Unlock()
	o.handing.Store(p)
	defer o.handing.Store(nil)
	msg := p.msg.Swap(nil) // once it is answered, the parcel may be another's
	if msg == nil {
		return
	}
	if err := o.nc.PublishMsg(msg); err != nil {
		p.refused(err)
	}
}

// takeBack has a message that was not handed over yet never be, and nobody read it from now on.
func (o *outgoing) takeBack(p *parcel) {
	if p.msg.Swap(nil) != nil || o.handing.Load() != p {
		return // nobody has begun to, or it is done
	}
	o.sending.Lock() // until it is handed over
	defer o.sending.Unlock()
}
