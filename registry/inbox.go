package registry

import (
	"sync"
	"time"
)

// maxInbox bounds the messages that wait to be folded, maxInboxBytes what is in them.
const (
	maxInbox      = 200_000
	maxInboxBytes = 256 << 20
)

// inbox holds what has come and was not folded yet. It never blocks.
type inbox struct {
	wake chan struct{}

	// mu guards the fields below. At most maxInbox items of maxInboxBytes wait; what does not fit is dropped and
	// counts as a gap, which is read again from the stream. spare is room for the next ones.
	mu           sync.Mutex
	items, spare []item
	bytes        int
	missed       bool
}

// maxSpare is how many items are given room for good.
const maxSpare = 1 << 13

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

// put adds an item. One who waits is woken by the first.
func (b *inbox) put(i item) {
	b.mu.Lock()
	wake := len(b.items) == 0
	if len(b.items) < maxInbox && b.bytes < maxInboxBytes || needed(i.event) {
		b.items = append(b.items, i)
		b.bytes += len(i.data)
	} else {
		b.missed = true
	}
	b.mu.Unlock()
	if wake {
		signal(b.wake)
	}
}

// needed reports whether an event comes once and never again: there is always room for it.
func needed(e Event) bool {
	switch e.(type) {
	case Elected, WishesSeen:
		return true
	}
	return false
}

// take empties the inbox. What it returns is to be given back.
func (b *inbox) take() (items []item, gap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, gap = b.items, b.missed
	b.items, b.missed, b.spare, b.bytes = b.spare, false, nil, 0
	return items, gap
}

// give gives back what was taken.
func (b *inbox) give(items []item) {
	if cap(items) == 0 || cap(items) > maxSpare {
		return
	}
	clear(items)
	b.mu.Lock()
	b.spare = items[:0]
	b.mu.Unlock()
}
