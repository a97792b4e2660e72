package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthhq/berth/placement"
)

// Difference is a value that two plans do not have in common.
type Difference struct {
	// Field is its name in the document, for a variant behind "<variant>.".
	Field string `json:"field"`
	// From and To are the values in force; empty: there is no such variant.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Diff returns what changes for the sessions from one plan to another, sorted by field. What a document
// leaves out counts as what is in force for it.
func Diff(from, to *Plan) []Difference {
	before, after := from.values(), to.values()
	all := maps.Clone(before)
	maps.Copy(all, after)
	var list []Difference
	for _, field := range slices.Sorted(maps.Keys(all)) {
		if before[field] != after[field] {
			list = append(list, Difference{field, before[field], after[field]})
		}
	}
	return list
}

// values returns what is in force, by field.
func (p *Plan) values() map[string]string {
	all := map[string]string{}
	put := func(prefix string, policy placement.Policy) {
		for field, value := range map[string]string{
			"policy": named(policy), "critical_bound": timed(policy.CriticalBound), "cooldown": timed(policy.Cooldown),
			"return_after": timed(policy.ReturnAfter), "drain_deadline": timed(policy.DrainDeadline), "refresh_interval": timed(policy.RefreshInterval),
			"max_rtt_ms": strconv.FormatFloat(policy.MaxRTTMs, 'f', -1, 64),
		} {
			all[prefix+field] = value
		}
	}
	put("", p.base())
	var order []string
	for i := range p.Variants {
		v := &p.Variants[i]
		order = append(order, v.Name)
		put(v.Name+".", v.of(p.base()))
		all[v.Name+".percent"] = fmt.Sprint(v.Percent)
	}
	all["variants"] = strings.Join(order, " ")
	return all
}

func timed(d time.Duration) string {
	if d == 0 {
		return "default"
	}
	return d.String()
}
