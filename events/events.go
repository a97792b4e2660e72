// Package events promises the wire: every message that berth's services exchange over NATS,
// the subjects they travel on, and what counts as a well-formed one.
//
// Payloads are JSON that a person can read in `nats sub 'berth.v1.>'`. Fields are added,
// never repurposed; unknown fields are ignored; a message that does not parse, or whose
// subject and payload disagree, is counted and skipped by its reader, never fatal.
package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/events/wire"
)

// Version is the wire version that this build writes into every event.
//
// A reader accepts any version from 1 to its own and skips (and counts) higher ones, so
// readers are upgraded before writers. Its history:
//
//	1  2026-11: heartbeat, server, region, view, decision, session, lock, revoked, report.
const Version = 1

// MaxSize is the largest payload, in bytes, that a reader decodes. A view update is split
// into parts well below it (MaxViewPart).
const MaxSize = 1 << 20

// MaxHeartbeat is the largest heartbeat or load report, in bytes, that a registry reads.
const MaxHeartbeat = 64 << 10

// MaxViewPart is the size, in bytes, that one part of a full view update stays below.
const MaxViewPart = 256 << 10

// Faults of a message. Readers count by them and go on.
var (
	// ErrMalformed says that a payload is not JSON of the expected shape, is too large,
	// holds a value out of range, or contradicts its subject.
	ErrMalformed = errors.New("malformed event")
	// ErrUnknown says that the subject, or the payload's version, is of a kind that this
	// build does not know.
	ErrUnknown = errors.New("unknown event")
)

// Event is one message: what it says, and the subject it says it on.
type Event interface {
	// Subject returns the subject that the event is published on.
	Subject() Subject
	// check returns ErrMalformed or ErrUnknown, wrapped with what is wrong.
	check() error
}

// Encode returns e as JSON. It fails with ErrMalformed on an event that Decode would
// refuse, so that a fault shows at its writer.
func Encode(e Event) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	data, err := marshal(e)
	if err != nil {
		return nil, malformed("%s: %v", e.Subject(), err)
	}
	if err := checkSize(e.Subject(), data); err != nil {
		return nil, err
	}
	return data, nil
}

// marshal returns e as encoding/json does.
func marshal(e Event) ([]byte, error) {
	if e, ok := e.(written); ok {
		w := wire.NewWriter(make([]byte, 0, writtenRoom))
		e.write(&w)
		return w.Bytes()
	}
	return json.Marshal(e)
}

// Decode parses the payload that arrived on subject. It fails with ErrUnknown for a kind or
// version that this build does not know and with ErrMalformed for anything else amiss; the
// event it returns otherwise is one of *Heartbeat, *LoadReport, *ServerState, *RegionState,
// *ViewUpdate, *Sight, *Decision, *Session, *LockReleased, *Revoked and *Report.
func Decode(subject string, data []byte) (Event, error) {
	s, err := ParseSubject(subject)
	if err != nil {
		return nil, err
	}
	if err := checkSize(s, data); err != nil {
		return nil, err
	}
	e := s.Kind.zero()
	if e == nil {
		return nil, fmt.Errorf("%w: no event travels on %s", ErrUnknown, s)
	}
	if err := json.Unmarshal(data, e); err != nil {
		return nil, malformed("%s: %v", s, err)
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("decode %s: %w", s, err)
	}
	if got := e.Subject(); got != s {
		return nil, faulty(FaultForged, "payload of %s arrived on %s", got, s)
	}
	return e, nil
}

// zero returns an empty event of the kind, nil for kinds that carry none.
func (k Kind) zero() Event {
	switch k {
	case KindHeartbeat:
		return new(Heartbeat)
	case KindLoad:
		return new(LoadReport)
	case KindServer:
		return new(ServerState)
	case KindRegion:
		return new(RegionState)
	case KindView:
		return new(ViewUpdate)
	case KindSight:
		return new(Sight)
	case KindDecision:
		return new(Decision)
	case KindSession:
		return new(Session)
	case KindLock:
		return new(LockReleased)
	case KindRevoked:
		return new(Revoked)
	case KindReport:
		return new(Report)
	case KindDemand:
		return new(Demand)
	default:
		return nil
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// checkSize fails on a payload that is larger than its kind may be.
func checkSize(s Subject, data []byte) error {
	limit := MaxSize
	if s.Kind == KindHeartbeat || s.Kind == KindLoad {
		limit = MaxHeartbeat
	}
	if len(data) > limit {
		return faulty(FaultTooLarge, "%s: %d bytes, at most %d are read", s, len(data), limit)
	}
	return nil
}

// checkHeader checks what every event carries.
func checkHeader(version int, at time.Time) error {
	switch {
	case version < 1:
		return malformed("version %d", version)
	case version > Version:
		return fmt.Errorf("%w: version %d, this build reads up to %d", ErrUnknown, version, Version)
	case at.IsZero():
		return malformed("no time in field at")
	}
	return nil
}

// checkTokens fails unless every value can stand as one token of a subject.
func checkTokens(fields ...[2]string) error {
	for _, f := range fields {
		if !ValidToken(f[1]) {
			return malformed("%s %q: want 1 to %d of a-z 0-9 - _", f[0], f[1], MaxToken)
		}
	}
	return nil
}
