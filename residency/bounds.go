package residency

import (
	"fmt"
	"slices"

	"github.com/berthhq/berth/events"
)

// Bounds is where sessions of an organization may be, and where they should.
type Bounds struct {
	// Allowed are the regions, sorted; nil: all.
	Allowed []string
	// Home and Fallbacks are those of the organization that are allowed.
	Home      string
	Fallbacks []string
}

// Bounds returns those of an organization's sessions of a jurisdiction: sessions keep the one that they were
// started in. It fails if that is not known.
func (j Jurisdictions) Bounds(o Org, jurisdiction string) (Bounds, error) {
	b := Bounds{Allowed: o.Allowed, Home: o.Home, Fallbacks: o.Fallbacks}
	if len(b.Allowed) == 0 {
		b.Allowed = nil
	}
	if jurisdiction == events.GlobalJurisdiction {
		return b, nil
	}
	members := j[jurisdiction]
	if members == nil {
		return Bounds{}, fmt.Errorf("the regions of jurisdiction %s are not known here", jurisdiction)
	}
	outside := func(region string) bool { return !slices.Contains(members, region) }
	switch {
	case !slices.ContainsFunc(members, func(region string) bool { return !o.Allows(region) }):
		b.Allowed = members // as it is for all that Fit lets pass
	default:
		b.Allowed = slices.DeleteFunc(slices.Clone(b.Allowed), outside)
	}
	if b.Home != "" && outside(b.Home) {
		b.Home = ""
	}
	if slices.ContainsFunc(b.Fallbacks, outside) {
		b.Fallbacks = slices.DeleteFunc(slices.Clone(b.Fallbacks), outside)
	}
	return b, nil
}

// Allows reports whether a session may be in a region.
func (b *Bounds) Allows(region string) bool {
	return b.Allowed == nil || slices.Contains(b.Allowed, region)
}

// Order puts the home region and the fallbacks, in their order, before the others, and leaves out what is
// not allowed.
func (b *Bounds) Order(regions []string) []string {
	list := make([]string, 0, len(regions))
	add := func(region string) {
		if b.Allows(region) && slices.Contains(regions, region) && !slices.Contains(list, region) {
			list = append(list, region)
		}
	}
	add(b.Home)
	for _, region := range b.Fallbacks {
		add(region)
	}
	for _, region := range regions {
		add(region)
	}
	return list
}
