package tokens

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Ledger reads the region's records in the order of their last writes.
//
// Scan calls fn, one at a time, for each record of a jurisdiction, or of AllJurisdictions, from the position from on
// (0: the first), until fn says false. It returns the position to go on from, 0 once all were
// read. A record that is written meanwhile comes again, at the end, so that who goes on to 0
// misses none of those that were there at the beginning. It holds few records at a time. End
// returns the position of the newest write. Both wait for no writer, and end with ctx; their
// errors are sessions.ErrUnavailable. What a record says may be over by then: what is decided
// on it is settled by the record's owner.
type Ledger interface {
	Scan(ctx context.Context, jurisdiction string, from uint64, fn func(Entry) bool) (next uint64, err error)
	End(ctx context.Context) (uint64, error)
}

// AllJurisdictions stands for any jurisdiction.
const AllJurisdictions = "*"

// Entry is one record as a Ledger reads it.
type Entry struct {
	// Key is <jurisdiction>.<session>; At is the position of its last write, Written when that was.
	Key     string
	At      uint64
	Written time.Time
	Record  sessions.Record
	// Fault says that the value is no record. It is for this one alone.
	Fault error
}

// SessionFilter says which sessions are meant: those that fit all that is set.
type SessionFilter struct {
	Subject string `json:"subject,omitempty"`
	Org     string `json:"org,omitempty"`
	// Server is the lock.
	Server string `json:"server,omitempty"`
	// Region owns the session, or is that of its server.
	Region string         `json:"region,omitempty"`
	State  sessions.State `json:"state,omitempty"`
}

// matches reports whether the filter means a record.
func (f *SessionFilter) matches(r *sessions.Record) bool {
	return (f.Subject == "" || f.Subject == r.Subject) &&
		(f.Org == "" || f.Org == r.Org) &&
		(f.Server == "" || f.Server == r.Server) &&
		(f.Region == "" || f.Region == r.Epoch.Region || f.Region == r.Answer.Region) &&
		(f.State == "" || f.State == r.State)
}

// Validate returns the first fault: a value that no record can have.
func (f *SessionFilter) Validate() error {
	if len(f.Subject) > maxSubject {
		return wrong("subject", fmt.Sprintf("want at most %d bytes", maxSubject))
	}
	for _, name := range [][2]string{{"org", f.Org}, {"server", f.Server}, {"region", f.Region}, {"state", string(f.State)}} {
		if name[1] != "" && !events.ValidToken(name[1]) {
			return wrong(name[0], fmt.Sprintf("want 1 to %d of a-z 0-9 - _", events.MaxToken))
		}
	}
	return nil
}

// wrong is an error that names a field of the request.
func wrong(field, message string) error {
	return invalid(api.FieldError{Location: "body." + field, Message: message})
}

// cursor is where a walk through the records goes on. Callers hand it back as they got it.
type cursor struct {
	// next is the position to go on from. What was written after until, the end when the walk
	// began, may be the walk's own doing.
	next, until uint64
}

// String returns the cursor for the caller, empty once all was read.
func (c cursor) String() string {
	if c.next == 0 {
		return ""
	}
	return fmt.Sprintf("1.%d.%d", c.next, c.until)
}

func parseCursor(s string) (c cursor, err error) {
	if s == "" {
		return c, nil
	}
	if parts := strings.Split(s, "."); len(parts) == 3 && parts[0] == "1" {
		var faults [2]error
		c.next, faults[0] = strconv.ParseUint(parts[1], 10, 64)
		c.until, faults[1] = strconv.ParseUint(parts[2], 10, 64)
		if faults == [2]error{} && c.next > 0 {
			return c, nil
		}
	}
	return cursor{}, wrong("cursor", "want the cursor of the answer before, as it was")
}
