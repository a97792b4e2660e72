package residency

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/berthhq/berth/events"
)

// Jurisdictions are named sets of regions, each sorted. The jurisdiction of all regions,
// events.GlobalJurisdiction, is none of them. They are the same in all regions, and never changed.
type Jurisdictions map[string][]string

// ParseJurisdictions reads jurisdictions as an operator writes them, each as NAME=REGION+REGION….
func ParseJurisdictions(words []string) (Jurisdictions, error) {
	all := Jurisdictions{}
	for _, word := range words {
		name, list, _ := strings.Cut(word, "=")
		regions := strings.Split(list, "+")
		switch {
		case !events.ValidToken(name):
			return nil, fmt.Errorf("jurisdiction %q: want NAME=REGION+REGION, names of 1 to %d of a-z 0-9 - _", word, events.MaxToken)
		case name == events.GlobalJurisdiction || name == events.LocalJurisdiction:
			return nil, fmt.Errorf("jurisdiction %s: the name is taken", name)
		case list == "":
			return nil, fmt.Errorf("jurisdiction %s: it names no region: want %s=REGION+REGION", name, name)
		case all[name] != nil:
			return nil, fmt.Errorf("jurisdiction %s stands twice", name)
		}
		if err := checkRegions("jurisdiction "+name, regions); err != nil {
			return nil, err
		}
		slices.Sort(regions)
		all[name] = regions
	}
	return all, nil
}

// Has reports whether a region is in a jurisdiction. One that is not known has no region.
func (j Jurisdictions) Has(name, region string) bool {
	return name == events.GlobalJurisdiction || slices.Contains(j[name], region)
}

// Known reports whether the regions of a jurisdiction are known.
func (j Jurisdictions) Known(name string) bool {
	return name == events.GlobalJurisdiction || j[name] != nil
}

// Of returns the jurisdictions that a region is in, events.GlobalJurisdiction first.
func (j Jurisdictions) Of(region string) []string {
	list := []string{events.GlobalJurisdiction}
	for _, name := range slices.Sorted(maps.Keys(j)) {
		if slices.Contains(j[name], region) {
			list = append(list, name)
		}
	}
	return list
}

// Shared returns the jurisdictions that both regions are in.
func (j Jurisdictions) Shared(a, b string) []string {
	return slices.DeleteFunc(j.Of(a), func(name string) bool { return !j.Has(name, b) })
}

// Foreign returns the jurisdictions that a region is not in, sorted.
func (j Jurisdictions) Foreign(region string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(j)) {
		if !slices.Contains(j[name], region) {
			list = append(list, name)
		}
	}
	return list
}

// Fit returns why an organization cannot have its jurisdiction, nil if it can: a jurisdiction is known and
// holds allowed regions alone. Of the global one nobody knows that, but where all are allowed.
func (j Jurisdictions) Fit(o Org) error {
	switch {
	case !j.Known(o.Jurisdiction):
		return fmt.Errorf("organization %s: jurisdiction %s is not known: %s", o.Org, o.Jurisdiction, j.choice(o))
	case len(o.Allowed) == 0:
		return j.placed(o)
	case o.Jurisdiction == events.GlobalJurisdiction:
		return fmt.Errorf("organization %s: sessions of jurisdiction %s are copied to all regions, and only %s are allowed: %s",
			o.Org, o.Jurisdiction, strings.Join(o.Allowed, ","), j.choice(o))
	}
	for _, region := range j[o.Jurisdiction] {
		if !o.Allows(region) {
			return fmt.Errorf("organization %s: jurisdiction %s holds region %s, which is not allowed: %s", o.Org, o.Jurisdiction, region, j.choice(o))
		}
	}
	return j.placed(o)
}

// placed returns which region of an organization its jurisdiction lacks, nil if none.
func (j Jurisdictions) placed(o Org) error {
	for _, region := range append([]string{o.Home}, o.Fallbacks...) {
		if region != "" && !j.Has(o.Jurisdiction, region) {
			return fmt.Errorf("organization %s: region %s is not in jurisdiction %s", o.Org, region, o.Jurisdiction)
		}
	}
	return nil
}

// choice says which jurisdictions an organization could have.
func (j Jurisdictions) choice(o Org) string {
	var fit []string
	for _, name := range slices.Sorted(maps.Keys(j)) {
		if !slices.ContainsFunc(j[name], func(region string) bool { return !o.Allows(region) }) {
			fit = append(fit, name+" ("+strings.Join(j[name], ",")+")")
		}
	}
	if len(fit) == 0 {
		return "no jurisdiction fits; define one at all token services (--jurisdictions NAME=" + strings.Join(orAny(o.Allowed), "+") + ")"
	}
	return "give it one of " + strings.Join(fit, ", ")
}

func orAny(regions []string) []string {
	if len(regions) == 0 {
		return []string{"REGION", "REGION"}
	}
	return regions
}
