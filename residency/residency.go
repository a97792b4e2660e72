// Package residency says what holds for an organization: in which regions its sessions may be, which of
// them is their home, and how they are taken over when a region is out of reach.
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
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// OrgVersion is the version of Org that this build writes. Its history:
//
//	1  2026-11: takeover.
//	2  2026-11: allowed, home, fallbacks, jurisdiction. Version 1 is read on: all regions are allowed.
const OrgVersion = 2

// MaxOrg bounds a document in bytes.
const MaxOrg = 64 << 10

// MaxRegions bounds each list of regions in a document.
const MaxRegions = 64

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
	// Allowed are the regions where sessions may be, sorted, each once. Empty: all.
	Allowed []string `json:"allowed,omitempty"`
	// Home is where sessions are while it can take them, wherever their clients are. Empty: what is
	// closest counts.
	Home string `json:"home,omitempty"`
	// Fallbacks are other regions, those first that are to stand in first.
	Fallbacks []string `json:"fallbacks,omitempty"`
	// Jurisdiction is the set of regions that sessions, and copies of them, never leave:
	// events.GlobalJurisdiction, all regions, unless set.
	Jurisdiction string `json:"jurisdiction,omitempty"`
	// ChangedAt and ChangedBy are of the last change.
	ChangedAt time.Time `json:"changed_at,omitzero"`
	ChangedBy string    `json:"changed_by,omitempty"`
}

// Default returns what holds for an organization of which nothing is set.
func Default(name string) Org {
	return Org{Version: OrgVersion, Org: name, Takeover: TakeoverAvailable, Jurisdiction: events.GlobalJurisdiction}
}

// Validate returns the first fault.
func (o Org) Validate() error {
	switch {
	case !events.ValidToken(o.Org):
		return fmt.Errorf("organization %q: want 1 to %d of a-z 0-9 - _", o.Org, events.MaxToken)
	case o.Version != OrgVersion:
		return fmt.Errorf("organization %s: version %d, this build knows up to version %d", o.Org, o.Version, OrgVersion)
	case !o.Takeover.Valid():
		return fmt.Errorf("organization %s: takeover %q: want %s or %s", o.Org, o.Takeover, TakeoverAvailable, TakeoverStrict)
	case !events.ValidToken(o.Jurisdiction):
		return fmt.Errorf("organization %s: jurisdiction %q: want 1 to %d of a-z 0-9 - _", o.Org, o.Jurisdiction, events.MaxToken)
	}
	if err := o.validateRegions(); err != nil {
		return fmt.Errorf("organization %s: %w", o.Org, err)
	}
	return nil
}

func (o Org) validateRegions() error {
	if err := checkRegions("allowed", o.Allowed); err != nil {
		return err
	}
	if !slices.IsSorted(o.Allowed) {
		return fmt.Errorf("allowed: %s stand in another order than that of their names", strings.Join(o.Allowed, ","))
	}
	if o.Home != "" && !events.ValidToken(o.Home) {
		return fmt.Errorf("home %q: want 1 to %d of a-z 0-9 - _", o.Home, events.MaxToken)
	}
	if err := checkRegions("fallbacks", o.Fallbacks); err != nil {
		return err
	}
	if o.Home != "" && !o.Allows(o.Home) {
		return fmt.Errorf("home %s is none of the allowed regions: %s", o.Home, strings.Join(o.Allowed, ","))
	}
	for _, region := range o.Fallbacks {
		if region == o.Home {
			return fmt.Errorf("fallback %s is the home region itself", region)
		}
		if !o.Allows(region) {
			return fmt.Errorf("fallback %s is none of the allowed regions: %s", region, strings.Join(o.Allowed, ","))
		}
	}
	return nil
}

// checkRegions returns the first fault of a list of regions.
func checkRegions(field string, regions []string) error {
	if len(regions) > MaxRegions {
		return fmt.Errorf("%s: %d regions, at most %d", field, len(regions), MaxRegions)
	}
	for i, region := range regions {
		switch {
		case !events.ValidToken(region):
			return fmt.Errorf("%s: region %q: want 1 to %d of a-z 0-9 - _", field, region, events.MaxToken)
		case slices.Contains(regions[:i], region):
			return fmt.Errorf("%s: region %s stands twice", field, region)
		}
	}
	return nil
}

// Allows reports whether sessions may be in a region, as far as Allowed says.
func (o Org) Allows(region string) bool {
	return len(o.Allowed) == 0 || slices.Contains(o.Allowed, region)
}

// Equal reports whether the same holds for both, whoever set it.
func (o Org) Equal(p Org) bool {
	return o.Org == p.Org && o.Takeover == p.Takeover && o.Home == p.Home && o.Jurisdiction == p.Jurisdiction &&
		slices.Equal(o.Allowed, p.Allowed) && slices.Equal(o.Fallbacks, p.Fallbacks)
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
	if o.Version == 1 {
		if len(o.Allowed) > 0 || o.Home != "" || len(o.Fallbacks) > 0 || o.Jurisdiction != events.GlobalJurisdiction {
			return Org{}, fmt.Errorf("organization %s: a document of version 1 names no regions", name)
		}
		o.Version = OrgVersion
	}
	return o, o.Validate()
}
