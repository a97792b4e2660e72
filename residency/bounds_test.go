package residency_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

func TestParseJurisdictions(t *testing.T) {
	all, err := residency.ParseJurisdictions([]string{"eu=eu-west-1+eu-central-1", "one=us-east-1"})
	if diff := cmp.Diff(residency.Jurisdictions{"eu": {"eu-central-1", "eu-west-1"}, "one": {"us-east-1"}}, all); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"global", "eu"}, all.Of("eu-west-1")); diff != "" {
		t.Errorf("of a member (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"one"}, all.Foreign("eu-west-1")); diff != "" {
		t.Errorf("foreign (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"global"}, all.Shared("eu-west-1", "us-east-1")); diff != "" {
		t.Errorf("shared (-want +got):\n%s", diff)
	}
	for words, want := range map[string]string{
		"eu":           "it names no region",
		"eu=":          "it names no region",
		"=a":           "want NAME=REGION+REGION",
		"E U=a":        "want NAME=REGION+REGION",
		"global=a":     "the name is taken",
		"local=a":      "the name is taken",
		"eu=a+a":       "a stands twice",
		"eu=a+B":       `region "B"`,
		"eu=a,eu=b":    "eu stands twice",
		"eu=a+b,us=++": `region ""`,
	} {
		if _, err := residency.ParseJurisdictions(strings.Split(words, ",")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", words, err, want)
		}
	}
}

// TestSetRegions: a change is refused that would let a session, or a copy of it, be where it may not be.
func TestSetRegions(t *testing.T) {
	const home = "eu-west-1"
	all, s := line{}, newShelf()
	here, there := all.add(t, home, home, s), all.add(t, "us-east-1", home, newShelf())
	list := func(regions ...string) *[]string { return &regions }
	text := func(s string) *string { return &s }
	for _, c := range []struct {
		name string
		q    residency.SetRequest
		want string
	}{
		{"no jurisdiction", residency.SetRequest{Allowed: list("eu-west-1", "eu-central-1")}, "copied to all regions"},
		{"an unknown one", residency.SetRequest{Allowed: list("eu-west-1"), Jurisdiction: "us"}, "jurisdiction us is not known: give it one of dub (eu-west-1)"},
		{"one with another region", residency.SetRequest{Allowed: list("eu-west-1"), Jurisdiction: "eu"}, "jurisdiction eu holds region eu-central-1, which is not allowed"},
		{"a home outside of it", residency.SetRequest{Home: text("us-east-1"), Jurisdiction: "eu"}, "region us-east-1 is not in jurisdiction eu"},
		{"a home that is not allowed", residency.SetRequest{Allowed: list("eu-west-1"), Home: text("us-east-1"), Jurisdiction: "dub"}, "home us-east-1 is none of the allowed"},
		{"none that fits", residency.SetRequest{Allowed: list("us-east-1")}, "--jurisdictions NAME=us-east-1"},
	} {
		c.q.Org = "acme"
		_, err := there.Set(t.Context(), c.q)
		refusal, ok := errors.AsType[*primary.Refusal](err)
		if !ok || refusal.Code != http.StatusBadRequest || !strings.Contains(refusal.Detail, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if len(s.documents) != 0 {
		t.Fatalf("%d documents were written", len(s.documents))
	}
	q := residency.SetRequest{
		Org: "acme", Allowed: list("eu-west-1", "eu-central-1"), Home: text("eu-west-1"), Fallbacks: list("eu-central-1"), Jurisdiction: "eu", Check: true,
	}
	if reply, err := there.Set(t.Context(), q); err != nil || !reply.Changed || len(s.documents) != 0 {
		t.Fatalf("a change that is only tried: %+v, %v", reply, err)
	}
	q.Check = false
	reply, err := there.Set(t.Context(), q)
	want := residency.Default("acme")
	want.Allowed, want.Home, want.Fallbacks, want.Jurisdiction = []string{"eu-central-1", "eu-west-1"}, "eu-west-1", []string{"eu-central-1"}, "eu"
	if err != nil || !reply.Org.Equal(want) || reply.Before != nil || len(reply.Warnings) != 1 || !strings.Contains(reply.Warnings[0], "in jurisdiction global until they end") {
		t.Errorf("%+v, %v", reply, err)
	}
	// What is not given stays, and what does not fit any more as it was is no matter of another change.
	if reply, err = here.Set(t.Context(), residency.SetRequest{Org: "acme", Takeover: "strict"}); err != nil || reply.Before == nil || len(reply.Warnings) > 0 || !slices.Equal(reply.Org.Allowed, want.Allowed) {
		t.Errorf("%+v, %v", reply, err)
	}
	if reply, err = here.Set(t.Context(), residency.SetRequest{Org: "acme", Home: text(""), Fallbacks: list()}); err != nil || reply.Org.Home != "" || len(reply.Org.Fallbacks) != 0 {
		t.Errorf("%+v, %v", reply, err)
	}
	for _, changed := range []bool{true, false} {
		reply, err := there.Delete(t.Context(), residency.DeleteRequest{Org: "acme"})
		if err != nil || reply.Changed != changed || len(s.documents) != 0 {
			t.Errorf("delete: %+v, %v; %d documents", reply, err, len(s.documents))
		}
	}
	if _, err := here.Delete(t.Context(), residency.DeleteRequest{Org: "A"}); err == nil {
		t.Error("a name that cannot be was deleted")
	}
}

// TestBounds: whatever is set, no session gets bounds beyond what its organization allows nor beyond its jurisdiction.
func TestBounds(t *testing.T) {
	regions := []string{"a", "b", "c", "d"}
	sets := residency.Jurisdictions{"ab": {"a", "b"}, "cd": {"c", "d"}, "abc": {"a", "b", "c"}}
	rapid.Check(t, func(t *rapid.T) {
		o := residency.Default("acme")
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(regions), 0, len(regions), rapid.ID[string])
		o.Allowed, o.Fallbacks = some.Draw(t, "allowed"), some.Draw(t, "fallbacks")
		slices.Sort(o.Allowed)
		o.Home = rapid.SampledFrom([]string{"", "a", "d"}).Draw(t, "home")
		jurisdiction := rapid.SampledFrom([]string{"global", "ab", "cd", "abc", "none"}).Draw(t, "jurisdiction")
		if o.Validate() != nil {
			t.Skip()
		}
		b, err := sets.Bounds(o, jurisdiction)
		if (err != nil) != (jurisdiction == "none") {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		for _, region := range regions {
			if got, want := b.Allows(region), o.Allows(region) && sets.Has(jurisdiction, region); got != want {
				t.Fatalf("region %s: %t, want %t of %+v", region, got, want, b)
			}
		}
		if b.Home != "" && !b.Allows(b.Home) || slices.ContainsFunc(b.Fallbacks, func(r string) bool { return !b.Allows(r) }) {
			t.Fatalf("%+v", b)
		}
		order := b.Order(regions)
		if slices.ContainsFunc(order, func(r string) bool { return !b.Allows(r) }) {
			t.Fatalf("order %v of %+v", order, b)
		}
		if b.Home != "" && order[0] != b.Home {
			t.Fatalf("order %v of %+v", order, b)
		}
	})
}
