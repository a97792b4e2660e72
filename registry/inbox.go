package registry

import (
	"sync"
	"time"
)

// maxInbox bounds the messages that wait to be folded.
const maxInbox = 200_000

// inbox holds what has come and was not folded yet. It never blocks.
type inbox struct {
	wake chan struct{}

	// mu guards items and missed: at most maxInbox items wait; what does not fit is dropped
	// and counts as a gap, which is read again from the stream.
	mu     sync.Mutex
	items  []item
	missed bool
}

// item is a message or an event, and when it came.
type item struct {
	event   Event
	subject string
	data    []byte
	// stored says that the message was read from a stream.
	stored bool
	at     time.Time
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) live(subject string, data []byte) {
	b.put(item{subject: subject, data: data, at: time.Now()})
}

func (b *inbox) stored(subject string, data []byte) {
	b.put(item{subject: subject, data: data, stored: true, at: time.Now()})
}

func (b *inbox) learned(e Event) { b.put(item{event: e, at: time.Now()}) }

func (b *inbox) gap() {
	b.mu.Lock()
	b.missed = true
	b.mu.Unlock()
	signal(b.wake)
}

func (b *inbox) put(i item) {
	b.mu.Lock()
	if len(b.items) < maxInbox {
		b.items = append(b.items, i)
	} else {
		b.missed = true
	}
	b.mu.Unlock()
	signal(b.wake)
}

// take empties the inbox.
func (b *inbox) take() (items []item, gap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, gap = b.items, b.missed
	b.items, b.missed = nil, false
	return items, gap
}
