package registry

import (
	"sync"
	"time"
)

// inbox holds what has come and was not folded yet.
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
	at      time.Time
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) message(subject string, data []byte) {
	b.put(item{subject: subject, data: data, at: time.Now()})
}

func (b *inbox) gap() {
	b.mu.Lock()
	b.missed = true
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) put(i item) {
	b.mu.Lock()
	if len(b.items) < maxInbox {
		b.items = append(b.items, i)
	} else {
		b.missed = true
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() (items []item, gap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, gap = b.items, b.missed
	b.items, b.missed = nil, false
	return items, gap
}
