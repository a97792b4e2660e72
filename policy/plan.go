// Package policy says by which policy each session is placed: what an operator writes, checks and
// changes on a running fleet.
//
// A plan is a policy for all sessions and, where that is to be tried against others, variants for
// shares of them.
package policy

import (
	"cmp"
	_ "embed"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/placement/document"
)

// Version is the version of the documents that this build reads.
const Version = 1

// Bounds of a plan.
const (
	// MaxSize is the most bytes of a document.
	MaxSize     = 64 << 10
	maxVariants = 20
)

// Schema is the JSON Schema (draft 2020-12) of a plan.
//
//go:embed schema.json
var Schema []byte

// Plan is a policy, and variants of it for shares of the sessions. The zero Plan is valid: the default
// policy for all.
type Plan struct {
	Version int `yaml:"version"`
	Policy  `yaml:",inline"`
	// Variants take their shares of the sessions in their order; the policy above has the rest.
	Variants []Variant `yaml:"variants"`
}

// Policy is what stands in a document of a placement.Policy. A field that is not there has its
// default, in a variant the value of the plan.
type Policy struct {
	Policy          *string   `yaml:"policy"`
	CriticalBound   *duration `yaml:"critical_bound"`
	Cooldown        *duration `yaml:"cooldown"`
	ReturnAfter     *duration `yaml:"return_after"`
	DrainDeadline   *duration `yaml:"drain_deadline"`
	RefreshInterval *duration `yaml:"refresh_interval"`
	MaxRTTMs        *float64  `yaml:"max_rtt_ms"`
}

// Variant is another policy for a share of the sessions.
type Variant struct {
	// Name stands in the decision events of its sessions.
	Name string `yaml:"name"`
	// Percent is its share of the sessions, above 0 and at most 100.
	Percent float64 `yaml:"percent"`
	Policy  `yaml:",inline"`
}

// Named returns the plan by which a policy places all sessions; empty: the default policy.
func Named(policy string) Plan {
	return Plan{Version: Version, Policy: Policy{Policy: &policy}}
}

// Parse reads a plan in YAML or JSON. An error names the line where it can, and else the field.
func Parse(data []byte) (Plan, error) {
	if len(data) > MaxSize {
		return Plan{}, fmt.Errorf("read policy: %d bytes: want at most %d", len(data), MaxSize)
	}
	var p Plan
	if err := document.Read(data, &p); err != nil {
		return Plan{}, fmt.Errorf("read policy: %w", err)
	}
	if field, err := p.fault(); err != nil {
		if line := document.Line(data, field); line > 0 {
			err = fmt.Errorf("line %d: %w", line, err)
		}
		return Plan{}, fmt.Errorf("read policy: %w", err)
	}
	return p, nil
}

var variantName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// fault returns the first fault of the plan, and the path of its field.
func (p *Plan) fault() (field string, err error) {
	if p.Version != Version {
		return "$.version", fmt.Errorf("version %d: want %d", p.Version, Version)
	}
	if field, err := p.Policy.fault(); err != nil {
		return "$." + field, err
	}
	if len(p.Variants) > maxVariants {
		return "$.variants", fmt.Errorf("variants: %d: want at most %d", len(p.Variants), maxVariants)
	}
	seen, sum := map[string]bool{}, 0.0
	for i := range p.Variants {
		v := &p.Variants[i]
		if field, err := v.fault(); err != nil {
			return fmt.Sprintf("$.variants[%d].%s", i, field), fmt.Errorf("variant %d: %w", i+1, err)
		}
		if seen[v.Name] {
			return fmt.Sprintf("$.variants[%d].name", i), fmt.Errorf("variant %d: name %s: want each once", i+1, v.Name)
		}
		seen[v.Name] = true
		if sum += v.Percent; sum > 100 {
			return fmt.Sprintf("$.variants[%d].percent", i), fmt.Errorf("variants: %v %% together: want at most 100", sum)
		}
	}
	return "", nil
}

func (v *Variant) fault() (field string, err error) {
	switch {
	case !variantName.MatchString(v.Name):
		return "name", fmt.Errorf("name %q: want at most 32 of a-z, 0-9 and, between them, -", v.Name)
	case !(v.Percent > 0 && v.Percent <= 100):
		return "percent", fmt.Errorf("percent %v: want more than 0, at most 100", v.Percent)
	}
	return v.Policy.fault()
}

// fault returns the first fault of a policy, whose fields are right or wrong each by itself.
func (p *Policy) fault() (field string, err error) {
	for _, one := range []struct {
		field string
		set   Policy
	}{
		{"policy", Policy{Policy: p.Policy}},
		{"critical_bound", Policy{CriticalBound: p.CriticalBound}},
		{"cooldown", Policy{Cooldown: p.Cooldown}},
		{"return_after", Policy{ReturnAfter: p.ReturnAfter}},
		{"drain_deadline", Policy{DrainDeadline: p.DrainDeadline}},
		{"refresh_interval", Policy{RefreshInterval: p.RefreshInterval}},
		{"max_rtt_ms", Policy{MaxRTTMs: p.MaxRTTMs}},
	} {
		if err := one.set.over(placement.Policy{}).Validate(); err != nil {
			return one.field, err
		}
	}
	return "", nil
}

// For returns the policy by which a session is placed, whose Variant is its own. It is the same at each
// of its decisions: which sessions a variant has changes only with its percent and with those before it.
func (p *Plan) For(session string) placement.Policy {
	base := p.base()
	if len(p.Variants) == 0 {
		return base
	}
	at := 100 * placement.Lot(session, lotOfVariants)
	for i := range p.Variants {
		v := &p.Variants[i]
		if at < v.Percent {
			return v.of(base)
		}
		at -= v.Percent
	}
	return base
}

// of returns the variant's policy, where the plan's is base.
func (v *Variant) of(base placement.Policy) placement.Policy {
	own := v.over(base)
	own.Variant = v.Name
	return own
}

// lotOfVariants stands where a region's name does in a session's lot: none is called so.
const lotOfVariants = "%variants"

func (p *Plan) base() placement.Policy { return p.over(placement.Policy{}) }

// over returns the policy with what the document says in place.
func (p *Policy) over(base placement.Policy) placement.Policy {
	put(&base.Name, p.Policy)
	put(&base.CriticalBound, (*time.Duration)(p.CriticalBound))
	put(&base.Cooldown, (*time.Duration)(p.Cooldown))
	put(&base.ReturnAfter, (*time.Duration)(p.ReturnAfter))
	put(&base.DrainDeadline, (*time.Duration)(p.DrainDeadline))
	put(&base.RefreshInterval, (*time.Duration)(p.RefreshInterval))
	put(&base.MaxRTTMs, p.MaxRTTMs)
	return base
}

// duration is written as 90s, 10m or 1h30m.
type duration time.Duration

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (d *duration) UnmarshalYAML(n ast.Node) error {
	text, ok := n.(*ast.StringNode)
	if !ok {
		return fmt.Errorf("line %d: %s: want a time such as 90s or 10m", n.GetToken().Position.Line, n)
	}
	t, err := time.ParseDuration(text.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q: want a time such as 90s or 10m", n.GetToken().Position.Line, text.Value)
	}
	*d = duration(t)
	return nil
}

func put[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// String returns the plan in a line: its policy, and its variants with theirs.
func (p *Plan) String() string {
	var text strings.Builder
	text.WriteString(named(p.base()))
	for i := range p.Variants {
		v := &p.Variants[i]
		fmt.Fprintf(&text, "; %s %v%% %s", v.Name, v.Percent, named(v.of(p.base())))
	}
	return text.String()
}

func named(p placement.Policy) string { return cmp.Or(p.Name, placement.PolicyDefault) }
