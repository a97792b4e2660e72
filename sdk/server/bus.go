package server

import (
	"context"
	"time"
)

// Bus is the connection's core NATS: nothing is stored or acknowledged. Its methods are safe
// for concurrent use.
type Bus interface {
	// Publish hands a message to the connection and does not wait for anybody. While the
	// connection is away it fails at once, and the message is not kept to be sent later: an
	// old heartbeat is worse than none. Closing the connection in good order sends what
	// Publish has taken.
	Publish(ctx context.Context, subject string, data []byte) error
	// Subscribe calls fn for each message on the subject, in order and one at a time, until
	// stop. It returns once the NATS server knows of the subscription, so that what is
	// published afterwards arrives, or with an error, at the latest when ctx ends; ctx does
	// not end the subscription. It survives reconnects. fn does not block.
	Subscribe(ctx context.Context, subject string, fn func(subject string, data []byte)) (stop func(), err error)
	// OnGap calls fn whenever messages of the subscriptions may have been missed and they
	// flow again: after a reconnect, or after some were dropped. fn does not block.
	OnGap(fn func()) (stop func())
}

// Recent reads the events that the region's stream has kept.
//
// Read calls fn, one at a time, for each stored event since a time on any of the subjects,
// and returns nil only after the last that was stored when it was called. An error, ctx's
// among them, means that some may be missing; events may come twice, now or in the next
// call. It waits for no writer.
type Recent interface {
	Read(ctx context.Context, subjects []string, since time.Time, fn func(subject string, data []byte)) error
}

// Caller sends a request to a service and waits for its one reply, until ctx ends. It never
// repeats a request; an error leaves open whether the service did what was asked. It fails
// at once where nobody serves the subject. Header names are in canonical MIME form.
type Caller interface {
	Call(ctx context.Context, subject string, header map[string][]string, data []byte) (map[string][]string, []byte, error)
}
