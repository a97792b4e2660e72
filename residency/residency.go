// Package residency says what holds for an organization: how its sessions are taken over when a region
// is out of reach.
//
// Each organization is one document. It is changed in one region, the primary, by compare-and-swap, and
// every region goes by a copy of all documents (Directory), which it has while the primary is out of
// reach, too. An organization without a document is like every other: Default.
package residency

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// OrgVersion is the version of Org that this build writes. Its history:
//
//	1  2026-11: takeover.
const OrgVersion = 1

// MaxOrg bounds a document in bytes.
const MaxOrg = 64 << 10

// Takeover says who may go on with the sessions of a region that is out of reach.
type Takeover string

// The ways of takeover.
const (
	// TakeoverAvailable lets a fallback region go on within seconds, while a region that is only cut off
	// serves on: whoever reaches both is served twice until the heal.
	TakeoverAvailable Takeover = "available"
	// TakeoverStrict never has two regions serve a session: a region that is cut off stops, and a
	// fallback waits until it must have (sessions.Lease).
	TakeoverStrict Takeover = "strict"
)

// Valid reports whether t is one of the ways.
func (t Takeover) Valid() bool { return t == TakeoverAvailable || t == TakeoverStrict }

// Org is what holds for an organization: the value of its name in berth_orgs.
type Org struct {
	Version int    `json:"version"`
	Org     string `json:"org"`
	// Takeover is TakeoverAvailable unless set.
	Takeover Takeover `json:"takeover"`
	// ChangedAt and ChangedBy are of the last change.
	ChangedAt time.Time `json:"changed_at,omitzero"`
	ChangedBy string    `json:"changed_by,omitempty"`
}

// Default returns what holds for an organization of which nothing is set.
func Default(name string) Org {
	return Org{Version: OrgVersion, Org: name, Takeover: TakeoverAvailable}
}

// Validate returns the first fault.
func (o Org) Validate() error {
	switch {
	case !events.ValidToken(o.Org):
		return fmt.Errorf("organization %q: want 1 to %d of a-z 0-9 - _", o.Org, events.MaxToken)
	case o.Version != OrgVersion:
		return fmt.Errorf("organization %s: version %d, this build knows version %d", o.Org, o.Version, OrgVersion)
	case !o.Takeover.Valid():
		return fmt.Errorf("organization %s: takeover %q: want %s or %s", o.Org, o.Takeover, TakeoverAvailable, TakeoverStrict)
	}
	return nil
}

// Encode returns the document of a valid organization.
func Encode(o Org) ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(o)
}

// Decode reads the document that stands under a name. What it says and this build does not know might
// forbid what the build is about to do, so an unknown field or version is an error.
func Decode(name string, data []byte) (Org, error) {
	if len(data) > MaxOrg {
		return Org{}, fmt.Errorf("organization %s: %d bytes, at most %d are read", name, len(data), MaxOrg)
	}
	o := Default(name)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return Org{}, fmt.Errorf("organization %s: %w", name, err)
	}
	if d.More() {
		return Org{}, fmt.Errorf("organization %s: %w", name, errors.New("more than one document"))
	}
	if o.Org != name {
		return Org{}, fmt.Errorf("organization %s: the document is of %q", name, o.Org)
	}
	return o, o.Validate()
}
