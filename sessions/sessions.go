// Package sessions decides what becomes of a session: which of its refresh tokens is honoured,
// which answer is repeated, which one ends it, and that every change is one compare-and-swap
// on the record of the region that owns it.
//
// The core is pure: Judge and the Record's methods take values and return values. Owner is
// the thin loop around them that reads, judges, writes and, where the outcome of a write is
// unknown, reads and judges again. The rules are numbered V1 to V18; each comment names the
// one that acts there.
package sessions

import (
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// RecordVersion is the version of Record that this build writes. Its history:
//
//	1  2026-11: one owner region; moves are single writes of the owner.
//	2  2026-11: moves between regions: the states moving, prepared and moved, source, intent,
//	   refused, taken and abandoned. A build that knows only version 1 answers 503 for these records.
//
// A field that a build may do without needs no new version: one that does not know it drops it when it
// writes the record. Since 2: measured, home.
const RecordVersion = 2

// Window is how long the answer to a redeemed token is repeated to those who lost it, and
// how long an older token counts as a slow tab (V1, V2).
const Window = 30 * time.Second

// Keep is how long a record outlives its session's absolute end (V8).
const Keep = 5 * time.Minute

// Stamp is a refresh token's place in its session's line: tokens are ordered by epoch, then
// by generation, never by generation alone (V9).
type Stamp struct {
	Epoch events.Epoch `json:"epoch"`
	Gen   uint64       `json:"gen"`
}

// Compare returns -1, 0 or +1 as s is below, equal to or above o.
func (s Stamp) Compare(o Stamp) int {
	if c := s.Epoch.Compare(o.Epoch); c != 0 {
		return c
	}
	switch {
	case s.Gen < o.Gen:
		return -1
	case s.Gen > o.Gen:
		return 1
	default:
		return 0
	}
}

// Less reports whether s is below o.
func (s Stamp) Less(o Stamp) bool { return s.Compare(o) < 0 }

// IsZero reports whether s names no token.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// String returns "number.region/generation".
func (s Stamp) String() string {
	return fmt.Sprintf("%d.%s/%d", s.Epoch.Number, s.Epoch.Region, s.Gen)
}

// State is what a region's record of a session says.
type State string

// The states of a record; a region without one has never had to do with the session.
const (
	// StateActive is a session that this region owns.
	StateActive State = "active"
	// StateMoving is one that it owns and is handing over: its Intent says where to.
	StateMoving State = "moving"
	// StatePrepared is one that it will own once its owner, the Source, has committed.
	StatePrepared State = "prepared"
	// StateMoved is one that the region of the record's epoch owns.
	StateMoved State = "moved"
	// StateRevoked is absorbing: it beats every epoch (V8).
	StateRevoked State = "revoked"
)

// Key names a session's record: <jurisdiction>.<session>.
type Key struct {
	Jurisdiction, Session string
}

// String returns the key as it stands in the bucket.
func (k Key) String() string { return k.Jurisdiction + "." + k.Session }

// Record is all that the owner region knows of a session: the value of its key in
// berth_sessions. From it every token of the last answer can be made again, byte for byte.
type Record struct {
	Version int    `json:"version"`
	Session string `json:"session"`
	// Epoch and Gen are the place of the current refresh token, Hash its SHA-256 in
	// base64url.
	Epoch events.Epoch `json:"epoch"`
	Gen   uint64       `json:"gen"`
	Hash  string       `json:"hash"`
	// Parent is the token last redeemed; zero before the first refresh.
	Parent Stamp `json:"parent,omitzero"`
	// MintedAt is when the current token was made.
	MintedAt time.Time `json:"minted_at"`
	// Grace is the oldest token that counts as a slow tab's within Window (V2).
	Grace Stamp `json:"grace"`
	// Dead is the successor that a supersede outside Window has voided; zero: none.
	Dead  Stamp `json:"dead,omitzero"`
	State State `json:"state"`
	// Server is the lock.
	Server string `json:"server"`
	// Op names the write that made this record. A handover has one for all that belongs to it:
	// the destination's records carry it until the destination writes of its own accord.
	Op     string `json:"op"`
	Answer Answer `json:"answer"`
	// Intent is the handover under way, nil in every state but moving.
	Intent *Intent `json:"intent,omitempty"`
	// Source is the region that owned the session when it was handed over to this one, empty
	// if it never was.
	Source string `json:"source,omitempty"`
	// Refused is the highest epoch that this region has promised never to prepare (V6).
	Refused events.Epoch `json:"refused,omitzero"`
	// Taken are the last tokens known of the regions that the session was taken from without
	// their consent, one of each: what such a region has made beyond it is a fork.
	Taken []Stamp `json:"taken,omitempty"`
	// Abandoned is the last token known of a line that was given up when the session was taken
	// over by a token of a later one: whoever made that line can tell whether the two forked.
	Abandoned Stamp `json:"abandoned,omitzero"`
	// CriticalSince is when the critical task in progress was first claimed; zero: none.
	CriticalSince time.Time `json:"critical_since,omitzero"`
	// MovedAt is when the session last moved; a login is no move.
	MovedAt time.Time `json:"moved_at,omitzero"`
	// Home is the region that load or a failure has sent the session away from, until it is back or has followed
	// its client elsewhere; empty: none has.
	Home     string `json:"home,omitempty"`
	Bookmark string `json:"bookmark,omitempty"`
	// Measured are the times to regions that the client measured last; nil: none that still count.
	Measured *Measured `json:"measured,omitempty"`

	Subject      string         `json:"subject"`
	ClientID     string         `json:"client_id"`
	Org          string         `json:"org,omitempty"`
	Scope        string         `json:"scope,omitempty"`
	Claims       map[string]any `json:"claims,omitempty"`
	Jurisdiction string         `json:"jurisdiction"`
	StartedAt    time.Time      `json:"started_at"`
	// ExpiresAt is the absolute end, which no refresh extends.
	ExpiresAt time.Time `json:"expires_at"`
}

// Answer is what the client was last told; with the record it makes the same tokens again.
type Answer struct {
	// Decision is "stay" or "move", Reason why.
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	// From is the server the session left, on a move.
	From events.Home `json:"from,omitzero"`
	// Server, Region, URL and AuthURL are where the session is.
	Server    string     `json:"server"`
	Region    string     `json:"region"`
	URL       string     `json:"url"`
	AuthURL   string     `json:"auth_url"`
	Fallbacks []Fallback `json:"fallbacks"`
	// KID is the key that signs the tokens.
	KID string `json:"kid"`
	// The times that stand in the tokens, whole seconds.
	IssuedAt   time.Time `json:"issued_at"`
	AccessExp  time.Time `json:"access_exp"`
	RefreshExp time.Time `json:"refresh_exp"`
}

// Fallback is another way in.
type Fallback struct {
	Region string `json:"region"`
	URL    string `json:"url"`
}

// Home returns the place that the answer names.
func (a Answer) Home() events.Home {
	return events.Home{Server: a.Server, Region: a.Region, URL: a.URL}
}

// Key returns the key that the record is kept under.
func (r *Record) Key() Key { return Key{r.Jurisdiction, r.Session} }

// Current returns the stamp of the current refresh token.
func (r *Record) Current() Stamp { return Stamp{r.Epoch, r.Gen} }

// Fresh reports whether the current token is so young that its answer is repeated.
func (r *Record) Fresh(now time.Time) bool { return now.Sub(r.MintedAt) < Window }

// Start returns the first record of a session: epoch (1, region), generation 1. The caller
// fills in the tokens' hash.
func Start(r Record, region string, a Answer, op string, now time.Time) Record {
	r.Version = RecordVersion
	r.Epoch = events.Epoch{Number: 1, Region: region}
	r.Gen = 1
	r.Grace = r.Current()
	r.State = StateActive
	r.MintedAt = now
	r.Server, r.Answer, r.Op = a.Server, a, op
	return r
}

// Revoke returns the record of the session's end. It is kept to the absolute end, and no
// later change leaves it (V8).
func (r Record) Revoke(op string) Record {
	r.State = StateRevoked
	r.Op = op
	return r
}
