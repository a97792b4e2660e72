package events_test

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
)

// asyncapi is the part of the description that this test reads.
type asyncapi struct {
	Version    string `yaml:"asyncapi"`
	Channels   map[string]channel
	Operations map[string]any
	Components struct {
		Messages map[string]struct {
			Payload ref
		}
		Schemas map[string]schema
	}
}

type channel struct {
	Address    string
	Parameters map[string]any
	Messages   map[string]ref
}

type ref struct {
	Ref string `yaml:"$ref"`
}

type schema struct {
	Ref                  string `yaml:"$ref"`
	Type                 string
	Format               string
	Enum                 []string
	Required             []string
	Properties           map[string]schema
	Items                *schema
	AdditionalProperties *schema `yaml:"additionalProperties"`
}

func readAsyncAPI(t *testing.T) asyncapi {
	t.Helper()
	data, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc asyncapi
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

const schemas = "#/components/schemas/"

var braces = regexp.MustCompile(`\{([a-z]+)\}`)

// TestDescribesEverySubject: each kind has its channel, on the subject that Go publishes on,
// and a message of the type that Go decodes there.
func TestDescribesEverySubject(t *testing.T) {
	doc := readAsyncAPI(t)
	if doc.Version != "3.0.0" {
		t.Errorf("asyncapi %s", doc.Version)
	}
	var names, wanted []string
	for _, k := range kinds {
		wanted = append(wanted, string(k))
	}
	for name := range doc.Channels {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Sort(wanted)
	if diff := cmp.Diff(wanted, names); diff != "" {
		t.Fatalf("channels (-kinds +described):\n%s", diff)
	}
	for name, c := range doc.Channels {
		kind := events.Kind(name)
		if got, want := braces.ReplaceAllString(c.Address, "*"), (events.Subject{Kind: kind}).Filter(); got != want {
			t.Errorf("channel %s is %s, want %s", name, got, want)
		}
		var inAddress []string
		for _, m := range braces.FindAllStringSubmatch(c.Address, -1) {
			inAddress = append(inAddress, m[1])
		}
		slices.Sort(inAddress)
		if diff := cmp.Diff(inAddress, slices.Sorted(maps.Keys(c.Parameters))); diff != "" {
			t.Errorf("parameters of %s (-address +described):\n%s", name, diff)
		}
		if kind == events.KindRPC {
			continue
		}
		want := reflect.TypeOf(examples()[name]).Elem().Name()
		if got := c.Messages[name].Ref; got != "#/components/messages/"+want {
			t.Errorf("message of %s is %s, want %s", name, got, want)
		}
		if got := doc.Components.Messages[want].Payload.Ref; got != schemas+want {
			t.Errorf("payload of %s is %s, want %s", name, got, want)
		}
		if _, ok := doc.Operations[name]; !ok {
			t.Errorf("nobody sends on %s", name)
		}
	}
}

// TestDescribesEveryField walks the Go types beside the schemas: the same fields, types and
// optional ones, and no schema that no type needs.
func TestDescribesEveryField(t *testing.T) {
	doc := readAsyncAPI(t)
	seen := map[string]bool{}
	for _, e := range examples() {
		describes(t, &doc, reflect.TypeOf(e).Elem(), schema{Ref: schemas + reflect.TypeOf(e).Elem().Name()}, seen)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(doc.Components.Schemas))); diff != "" {
		t.Errorf("schemas (-types +described):\n%s", diff)
	}
	states := []string{
		string(events.StateUp), string(events.StateSuspect), string(events.StateDown), string(events.StateDraining), string(events.StateLeft),
	}
	if diff := cmp.Diff(states, doc.Components.Schemas["State"].Enum); diff != "" {
		t.Errorf("states (-Go +described):\n%s", diff)
	}
	happenings := []string{
		events.SessionCreated, events.SessionRefreshed, events.SessionMoved, events.SessionTakenOver,
		events.SessionRevoked, events.SessionReused, events.SessionConflict, events.SessionUnrotated,
	}
	if diff := cmp.Diff(happenings, doc.Components.Schemas["Session"].Properties["kind"].Enum); diff != "" {
		t.Errorf("kinds of session event (-Go +described):\n%s", diff)
	}
}

// describes fails the test unless s describes the type.
func describes(t *testing.T, doc *asyncapi, goType reflect.Type, s schema, seen map[string]bool) {
	t.Helper()
	if goType.Kind() == reflect.Pointer {
		goType = goType.Elem()
	}
	if name, ok := strings.CutPrefix(s.Ref, schemas); ok {
		if goType.Name() != name {
			t.Errorf("%s is described as %s", goType, name)
		}
		if seen[name] {
			return
		}
		seen[name] = true
		if s, ok = doc.Components.Schemas[name]; !ok {
			t.Errorf("no schema %s", name)
			return
		}
	}
	switch kind := goType.Kind(); {
	case goType == reflect.TypeFor[time.Time]():
		expect(t, goType, s.Type+" "+s.Format, "string date-time")
	case kind == reflect.Struct:
		expect(t, goType, s.Type, "object")
		describesFields(t, doc, goType, s, seen)
	case kind == reflect.Slice && s.Items != nil:
		expect(t, goType, s.Type, "array")
		describes(t, doc, goType.Elem(), *s.Items, seen)
	case kind == reflect.Map && s.AdditionalProperties != nil:
		expect(t, goType, s.Type, "object")
		describes(t, doc, goType.Elem(), *s.AdditionalProperties, seen)
	default:
		expect(t, goType, s.Type, map[reflect.Kind]string{
			reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number",
			reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint64: "integer",
		}[kind])
	}
}

func describesFields(t *testing.T, doc *asyncapi, goType reflect.Type, s schema, seen map[string]bool) {
	t.Helper()
	var names, required []string
	for field := range goType.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
		if options == "" {
			required = append(required, name)
		}
		property, ok := s.Properties[name]
		if !ok {
			t.Errorf("%s: field %s is not described", goType, name)
			continue
		}
		describes(t, doc, field.Type, property, seen)
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(s.Properties))); diff != "" {
		t.Errorf("%s: properties (-fields +described):\n%s", goType, diff)
	}
	if diff := cmp.Diff(required, s.Required); diff != "" {
		t.Errorf("%s: required (-fields +described):\n%s", goType, diff)
	}
}

func expect(t *testing.T, goType reflect.Type, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is described as %q, want %q", goType, got, want)
	}
}
