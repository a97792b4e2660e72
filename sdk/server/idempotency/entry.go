package idempotency

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"time"
)

// EntryVersion is the version of Entry that this build writes. Its history:
//
//	1  2026-11: begun, done, lost and void.
const EntryVersion = 1

// State is what is known of a request.
type State string

// The states of an entry.
const (
	// StateBegun is a request whose handler may be running, or may have run before its process died.
	StateBegun State = "begun"
	// StateDone is one that was answered with the entry's Reply.
	StateDone State = "done"
	// StateLost is one whose handler has ended, and whose reply nobody knows any more.
	StateLost State = "lost"
	// StateVoid is one that has had no effect: a retry runs.
	StateVoid State = "void"
)

// Owner is the process that serves a request.
type Owner struct {
	Region string `json:"region"`
	Server string `json:"server"`
	// Member is the process among several behind one URL; empty: there is just one.
	Member string `json:"member,omitempty"`
	// Boot names the start of the process.
	Boot string `json:"boot"`
}

// Scope says whose a key is: two holders never see each other's replies, even if their keys are equal.
type Scope struct {
	// Jurisdiction is where the entry may be copied to: to the fallback regions inside it.
	Jurisdiction string
	// Holder is who has chosen the key, a session or a subject. It is hashed and not stored.
	Holder string
}

// Key names an entry.
type Key struct {
	Jurisdiction string
	// Hash is a hash of the holder and of what the client has chosen, in base64url.
	Hash string
}

// String returns the key as it stands in the bucket: <jurisdiction>.<hash>.
func (k Key) String() string { return k.Jurisdiction + "." + k.Hash }

// KeyOf returns the name of a holder's key.
func KeyOf(s Scope, text string) Key {
	return Key{Jurisdiction: s.Jurisdiction, Hash: digest([]byte(s.Holder), []byte(text))}
}

// digest returns a SHA-256 in base64url of parts, none of which can take bytes from the next.
func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Reply is what the client was answered.
type Reply struct {
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
	Body   []byte      `json:"body,omitempty"`
}

// Entry is all that is known of a key.
type Entry struct {
	Version int   `json:"version"`
	State   State `json:"state"`
	// Op names this execution, so that a write whose acknowledgement was lost is recognised.
	Op    string `json:"op"`
	Owner Owner  `json:"owner"`
	// Fingerprint is a hash of the request.
	Fingerprint string    `json:"fingerprint"`
	BegunAt     time.Time `json:"begun_at"`
	// Deadline is until when the request counts as in flight, unless its process is known to have died.
	Deadline time.Time `json:"deadline"`
	// ExpiresAt is when the key is forgotten.
	ExpiresAt time.Time `json:"expires_at"`
	// Reply is what was answered, with StateDone.
	Reply *Reply `json:"reply,omitempty"`
	// Why says how the reply was lost, with StateLost.
	Why string `json:"why,omitempty"`
}

// Revision names one write of an entry; 0: there is none.
type Revision uint64

// Faults that a Store reports.
var (
	// ErrNotFound says that there is no entry.
	ErrNotFound = errors.New("no such idempotency key")
	// ErrConflict says that the entry is not at the expected revision: nothing was written.
	ErrConflict = errors.New("the idempotency key was written by another")
	// ErrUnavailable says that the store did not answer in time. Whether a write was applied is unknown: it may be, even
	// later.
	ErrUnavailable = errors.New("the store of idempotency keys is unavailable")
)

// Store keeps the entries of a region, each until its ExpiresAt. Every server of the region has the same.
//
// Get returns the newest entry, whatever replicas lag behind, or ErrNotFound. Put writes an entry if its revision is
// still the one expected, 0 meaning that there must be none, and returns the new revision; of several that expect the same,
// one succeeds. When it returns nil the entry is durable: it outlives the death of any process. Its errors are ErrConflict
// and ErrUnavailable. Neither tries again after a conflict. Both end with ctx, and are safe for concurrent use.
type Store interface {
	Get(ctx context.Context, key Key) (Entry, Revision, error)
	Put(ctx context.Context, key Key, e Entry, expected Revision) (Revision, error)
}

// Copies reads what the stores of other regions held of a key when that was last copied here, at most one entry of each. It
// asks no other region. Its error says that copies may be missing. It ends with ctx and is safe for concurrent use.
type Copies interface {
	Copies(ctx context.Context, key Key) ([]Entry, error)
}
