package sessions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berthhq/berth/sessions"
)

// A fault is what goes wrong at one access to the store.
type fault string

const (
	sound           fault = ""
	notWritten      fault = "not written and errored"
	wroteButErrored fault = "wrote but errored"
	lostReply       fault = "wrote, then the caller's context ended"
	landsLate       fault = "errored, the write may land later"
	conflicts       fault = "refused as if another had come first"
	crashedBefore   fault = "the service crashed before the write"
	crashedBetween  fault = "the service crashed between write and reply"
	swallowed       fault = "acknowledged and never written" // breaks the promise: for mutants only
)

// writeFaults are the faults that a write may meet; a read meets the first.
var writeFaults = []fault{notWritten, wroteButErrored, lostReply, landsLate, conflicts, crashedBefore, crashedBetween}

var errCrashed = errors.New("the process has crashed")

// memory is a sessions.Store that keeps its promise, and whose every access can be made to
// go wrong. Records are kept encoded, as in a bucket.
type memory struct {
	// fault is asked what goes wrong at an access, with the record about to be written or
	// nil; it may wait. wrote is told of a write done. Nil: nothing goes wrong, nobody is told.
	fault func(ctx context.Context, rec *sessions.Record) fault
	wrote func(prev *sessions.Record, rec sessions.Record)
	// end ends the context of a caller whose reply is lost.
	end func(ctx context.Context)
	// gone reports whether a caller has died, who writes no more. Nil: nobody has.
	gone func(ctx context.Context) bool

	mu      sync.Mutex
	entries map[sessions.Key][]entry // all that was ever written, the last counts
	rev     sessions.Revision
	late    []sent
	puts    int // writes asked for, done or not
	// now tells the time, for contact: when the last access began that was answered. Nil: that is
	// not known, and the leader has never proved itself.
	now     func() time.Time
	contact time.Time
}

type entry struct {
	rec  sessions.Record
	data []byte
	rev  sessions.Revision
}

// A sent write is under way. One that is late was answered with an error before.
type sent struct {
	rec  sessions.Record
	data []byte
	rev  sessions.Revision
}

var _ sessions.Store = (*memory)(nil)

// Contact implements sessions.Store.
func (m *memory) Contact() time.Time { return m.contact }

// reach returns what notes that an access which begins now was answered.
func (m *memory) reach() (answered func()) {
	if m.now == nil {
		return func() {}
	}
	at := m.now()
	return func() { m.contact = at }
}

func newMemory() *memory { return &memory{entries: map[sessions.Key][]entry{}} }

func (m *memory) ask(ctx context.Context, rec *sessions.Record) fault {
	if m.fault == nil {
		return sound
	}
	return m.fault(ctx, rec)
}

// Get implements sessions.Store.
func (m *memory) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	answered := m.reach()
	switch m.ask(ctx, nil) {
	case sound:
	case crashedBefore, crashedBetween:
		return sessions.Record{}, 0, errCrashed
	default:
		return sessions.Record{}, 0, fmt.Errorf("get: %w", sessions.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return sessions.Record{}, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	answered()
	list := m.entries[key]
	if len(list) == 0 {
		return sessions.Record{}, 0, sessions.ErrNotFound
	}
	last := list[len(list)-1]
	rec, err := sessions.DecodeRecord(last.data)
	if err != nil {
		return sessions.Record{}, 0, err
	}
	return *rec, last.rev, nil
}

// last returns the record that counts, nil if there is none. The caller holds mu.
func (m *memory) last(key sessions.Key) (*sessions.Record, sessions.Revision) {
	list := m.entries[key]
	if len(list) == 0 {
		return nil, 0
	}
	last := list[len(list)-1]
	return &last.rec, last.rev
}

// A pending is a write whose caller does something else. What is to go wrong does so when it is waited for.
type pending struct {
	m        *memory
	w        sent
	data     []byte // the caller's
	answered func()
}

// Begin implements sessions.Store.
func (m *memory) Begin(rec *sessions.Record, data []byte, rev sessions.Revision) sessions.Pending {
	return &pending{m, sent{*rec, bytes.Clone(data), rev}, data, m.reach()}
}

// Wait implements sessions.Pending.
func (p *pending) Wait(ctx context.Context) (sessions.Revision, error) {
	m := p.m
	f := m.ask(ctx, &p.w.rec)
	if !bytes.Equal(p.data, p.w.data) {
		panic("a record was changed while it was being written")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.gone != nil && m.gone(ctx) {
		return 0, errCrashed
	}
	switch f {
	case crashedBefore:
		return 0, errCrashed
	case notWritten:
		return 0, fmt.Errorf("write: %w", sessions.ErrUnavailable)
	case landsLate:
		m.late = append(m.late, p.w)
		return 0, fmt.Errorf("write: %w", sessions.ErrUnavailable)
	case conflicts:
		return 0, sessions.ErrConflict
	case swallowed:
		return p.w.rev, nil
	case sound, wroteButErrored, lostReply, crashedBetween, lostRequest, lostAnswer, doubled, calleeDies:
	}
	if err := ctx.Err(); err != nil { // nobody waits for it, and it is under way
		m.late = append(m.late, p.w)
		return 0, err
	}
	next, err := m.write(p.w)
	if err != nil {
		p.answered()
		return 0, err
	}
	switch f {
	case crashedBetween:
		return 0, errCrashed
	case wroteButErrored:
		return 0, fmt.Errorf("write: %w", sessions.ErrUnavailable)
	case lostReply:
		m.end(ctx)
		return 0, ctx.Err()
	case sound, notWritten, landsLate, conflicts, crashedBefore, swallowed, lostRequest, lostAnswer, doubled, calleeDies:
	}
	p.answered()
	return next, nil
}

// write is the compare-and-swap. The caller holds mu.
func (m *memory) write(w sent) (sessions.Revision, error) {
	key := w.rec.Key()
	prev, last := m.last(key)
	if last != w.rev {
		return 0, sessions.ErrConflict
	}
	m.rev++
	m.entries[key] = append(m.entries[key], entry{w.rec, w.data, m.rev})
	if m.wrote != nil {
		m.wrote(prev, w.rec)
	}
	return m.rev, nil
}

// settle lets the oldest late write reach the store, where it may still be the next, or loses
// it. There may be none.
func (m *memory) settle(land bool) (some bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.late) == 0 {
		return false
	}
	if l := m.late[0]; land {
		_, _ = m.write(l) // nobody waits for the answer
	}
	m.late = m.late[1:]
	return true
}

// loseTail takes back the last n acknowledged writes of a key but for the first, and returns them.
func (m *memory) loseTail(key sessions.Key, n int) (lost []sessions.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.entries[key]
	keep := max(1, len(list)-n)
	for _, e := range list[keep:] {
		lost = append(lost, e.rec)
	}
	m.entries[key] = list[:keep]
	return lost
}

// forget loses all late writes.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = nil
}

// peek returns the record that counts, whatever goes wrong for others.
func (m *memory) peek(key sessions.Key) *sessions.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, _ := m.last(key)
	return rec
}

// took reports whether the last record was made out of nothing.
func (m *memory) took(key sessions.Key) bool { return len(m.entries[key]) == 1 }
