package registry

import (
	"context"
	"time"
)

// Bus carries messages between services. Subscribe calls fn for each message, one at a time
// and in order, until stop; fn must not block. Messages may be lost while the connection is
// away or when fn lags; OnGap tells of it. Publish sends a message at once and returns when it
// is stored in the own domain, where one of the region's streams binds its subject, or with
// an error, at the latest when ctx ends; subscribers may have it then all the same, or twice.
// All are safe for concurrent use.
type Bus interface {
	Publish(ctx context.Context, subject string, data []byte) error
	Subscribe(ctx context.Context, subject string, fn func(subject string, data []byte)) (stop func(), err error)
	// OnGap calls fn whenever messages of the subscriptions may have been missed and they
	// flow again: after a reconnect, or after some were dropped. fn must not block.
	OnGap(fn func()) (stop func())
}

// Heartbeats reads what the region's heartbeat stream has kept. CatchUp calls fn with the
// last heartbeat on each subject, through a named consumer that operators can list, and
// returns nil after the last that was there when it was called; an error means that some may
// be missing. fn is called by one goroutine at a time. A registry calls it once at a time: at
// the start and after each gap.
type Heartbeats interface {
	CatchUp(ctx context.Context, fn func(subject string, data []byte)) error
}

// Disconnects tells which processes of servers NATS has lost. Watch calls fn with the server
// and the boot of each connection that ends, one call at a time, until stop; fn must not
// block. It may call for connections that return at once, and miss some: silence tells in the
// end. It must call only if that connection's user may publish that server's heartbeat, for
// anybody else could have others taken for dead.
type Disconnects interface {
	Watch(ctx context.Context, fn func(server, boot string)) (stop func(), err error)
}

// Store is the bucket berth_servers of the own region.
//
// Load returns every key. Begin starts to write a value, if the key's revision is still the one
// given (0: the key does not exist), and returns at once; end returns the new revision, and has
// to be called. It fails with ErrFenced, wrapped, if somebody else has written. An empty value
// removes the key. Any other error leaves open whether it was written. Load and end end with
// ctx. Begin is called for many keys before their ends, for each key once at a time.
type Store interface {
	Load(ctx context.Context) ([]Entry, error)
	Begin(key string, value []byte, revision uint64) (end func(ctx context.Context) (uint64, error))
}

// Entry is a key of a bucket as of a revision.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
	// Deleted says that the key is gone: there is no Value.
	Deleted bool
}

// Watcher follows a bucket. Watch calls apply with every key at first (complete: what is not
// among the entries does not exist), then with each change, one call at a time, and whatever
// happens to the connection the last call leaves apply knowing what the bucket holds. proof
// tells apply's owner when all was last known to be current. Watch returns with ctx.
type Watcher interface {
	Watch(ctx context.Context, bucket string, apply func(entries []Entry, complete bool), proof func(at time.Time)) error
}
