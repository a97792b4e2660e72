package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/policy"
)

const whole = `
version: 1
policy: spread
critical_bound: 20m
cooldown: 5m
drain_deadline: 15m
refresh_interval: 1m
max_rtt_ms: 180
variants:
  - name: prices
    percent: 10
    policy: spread+prices
  - name: far
    percent: 2.5
    max_rtt_ms: 0
`

func TestParse(t *testing.T) {
	p, err := policy.Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	base := placement.Policy{
		Name: placement.PolicySpread, CriticalBound: 20 * time.Minute, Cooldown: 5 * time.Minute,
		DrainDeadline: 15 * time.Minute, RefreshInterval: time.Minute, MaxRTTMs: 180,
	}
	prices, far := base, base
	prices.Name, prices.Variant = placement.PolicySpreadPrices, "prices"
	far.MaxRTTMs, far.Variant = 0, "far"
	want := map[string]placement.Policy{"": base, "prices": prices, "far": far}
	got := map[string]placement.Policy{}
	share := map[string]int{}
	const all = 100_000
	for i := range all {
		policy := p.For(fmt.Sprint("session-", i))
		got[policy.Variant] = policy
		share[policy.Variant]++
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, percent := range map[string]float64{"prices": 10, "far": 2.5, "": 87.5} {
		if got := 100 * float64(share[name]) / all; math.Abs(got-percent) > 0.5 {
			t.Errorf("variant %q has %.2f %% of the sessions, want %v", name, got, percent)
		}
	}
}

// TestShares: who was in a variant stays in it while its share grows, and a plan of no words is the
// default.
func TestShares(t *testing.T) {
	variant := func(percent float64, session string) string {
		p := policy.Plan{Version: policy.Version, Variants: []policy.Variant{{Name: "new", Percent: percent}}}
		return p.For(session).Variant
	}
	for i := range 1000 {
		session := fmt.Sprint("session-", i)
		if variant(10, session) == "new" && variant(20, session) != "new" {
			t.Fatalf("%s left the variant as that grew", session)
		}
		if variant(100, session) != "new" {
			t.Fatalf("%s is not in the variant of all", session)
		}
	}
	p, err := policy.Parse([]byte("version: 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.For("s"); got != (placement.Policy{}) {
		t.Errorf("%+v, want the default", got)
	}
}

func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "there is none",
		"policy: spread":                  "version 0: want 1",
		"\nversion: 2":                    "line 2: version 2: want 1",
		"version: 1\npolicy: sprad":       `line 2: policy "sprad": want literal,`,
		"version: 1\ncooldwn: 5m":         "line 2: unknown field",
		"version: 1\ncooldown: 5 minutes": `line 2: "5 minutes": want a time`,
		"version: 1\ncooldown: 5":         "line 2: 5: want a time",
		"version: 1\ncooldown: -5m":       "line 2: cooldown -5m0s: want 0",
		"version: 1\nmax_rtt_ms: .nan":    "line 2: max RTT NaN",
		"version: 1\nversion: 1":          "line 2:",
		"version: 1\n---\nversion: 1":     "one document",
		"version: [1":                     "line 1:",
		"version: 1\nvariants:\n- {name: A b, percent: 10}":                                  `line 3: variant 1: name "A b"`,
		"version: 1\nvariants:\n- {percent: 10}":                                             `line 3: variant 1: name ""`,
		"version: 1\nvariants:\n- {name: a}":                                                 "line 3: variant 1: percent 0: want more than 0",
		"version: 1\nvariants:\n- name: a\n  percent: .nan":                                  "line 4: variant 1: percent NaN",
		"version: 1\nvariants:\n- {name: a, percent: 1}\n- {name: a, percent: 1}":            "line 4: variant 2: name a: want each once",
		"version: 1\nvariants:\n- {name: a, percent: 60}\n- {name: b, percent: 41}":          "line 4: variants: 101 % together",
		"version: 1\nvariants:\n- {name: a, percent: 1}\n- {name: b, percent: 1, policy: x}": `line 4: variant 2: policy "x"`,
		"version: 1\nvariants: [" + strings.Repeat("{name: a, percent: 1},", 21) + "]":       "line 2: variants: 21: want at most 20",
		"version: 1\n# " + strings.Repeat("x", policy.MaxSize):                               "want at most",
	} {
		_, err := policy.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want %q in it", text, err, want)
		}
	}
}

// TestSchema: the schema has the fields that are read, and the policies that there are.
func TestSchema(t *testing.T) {
	var schema struct {
		Properties map[string]any `json:"properties"`
		Defs       struct {
			Policy struct {
				Properties map[string]struct {
					Enum []string `json:"enum"`
				} `json:"properties"`
			} `json:"policy"`
			Variant struct {
				Properties map[string]any `json:"properties"`
			} `json:"variant"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(policy.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	fields := func(of any) (names []string) {
		typ := reflect.TypeOf(of)
		for field := range typ.Fields() {
			if name := field.Tag.Get("yaml"); !strings.HasPrefix(name, ",") {
				names = append(names, name)
			}
		}
		return slices.Sorted(slices.Values(names))
	}
	for what, pair := range map[string][2][]string{
		"policy":  {fields(policy.Policy{}), slices.Sorted(maps.Keys(schema.Defs.Policy.Properties))},
		"variant": {fields(policy.Variant{}), slices.Sorted(maps.Keys(schema.Defs.Variant.Properties))},
		"plan":    {fields(policy.Plan{}), slices.Sorted(maps.Keys(schema.Properties))},
		"names":   {placement.Policies(), schema.Defs.Policy.Properties["policy"].Enum},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s (-read +schema):\n%s", what, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"version": 1, "policy": "literal"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		if err != nil {
			return
		}
		for _, session := range []string{"", "a", "b"} {
			if policy := p.For(session); policy.Validate() != nil {
				t.Errorf("session %q has a policy that is none: %+v", session, policy)
			}
		}
	})
}
