package residency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

// line joins registrars of several regions.
type line map[string]*residency.Registrar

func (l line) Call(ctx context.Context, subject string, data []byte) ([]byte, error) {
	for region, r := range l {
		for name, fn := range r.Methods() {
			if residency.Subject(region, name) == subject {
				return fn(ctx, data)
			}
		}
	}
	return nil, errors.New("nobody serves " + subject)
}

func (l line) add(t *testing.T, region, primary string, s *shelf) *residency.Registrar {
	t.Helper()
	f := make(feed)
	d := residency.NewDirectory(f, nil)
	follow(t, d)
	s.mu.Lock()
	f.tell(maps.Clone(s.documents), true)
	s.mu.Unlock()
	r, err := residency.NewRegistrar(residency.RegistrarConfig{
		Region: region, Primary: primary, Directory: d, Store: s, Caller: l,
		Jurisdictions: jurisdictions(),
	})
	if err != nil {
		t.Fatal(err)
	}
	l[region] = r
	return r
}

func jurisdictions() residency.Jurisdictions {
	return residency.Jurisdictions{"eu": {"eu-central-1", "eu-west-1"}, "dub": {"eu-west-1"}}
}

func set(r *residency.Registrar, org string, how residency.Takeover) (residency.Reply, error) {
	return r.Set(context.Background(), residency.SetRequest{Org: org, Takeover: how, By: "ada@desk"})
}

// TestSet: whichever region is asked, the change is made in the primary one, or refused with the reason.
func TestSet(t *testing.T) {
	const home, other = "eu-west-1", "ap-southeast-1"
	all, s := line{}, newShelf()
	here, there := all.add(t, home, home, s), all.add(t, other, home, newShelf())
	reply, err := set(there, "acme", residency.TakeoverStrict)
	if err != nil || !reply.Changed || reply.Region != home || reply.Org.Takeover != residency.TakeoverStrict || reply.Org.ChangedBy != "ada@desk" {
		t.Fatalf("%+v, %v", reply, err)
	}
	if reply, err = set(here, "acme", residency.TakeoverStrict); err != nil || reply.Changed || s.revisions["acme"] != 1 {
		t.Errorf("the same again: %+v, %v, revision %d", reply, err, s.revisions["acme"])
	}
	// Another change in between is not lost, and the own is made after it.
	s.before = func() {
		if _, err := set(here, "acme", residency.TakeoverStrict); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.revisions["acme"]++
		s.mu.Unlock()
	}
	if reply, err = set(here, "acme", residency.TakeoverAvailable); err != nil || !reply.Changed {
		t.Errorf("a change beside another: %+v, %v", reply, err)
	}

	for _, c := range []struct {
		name string
		fn   func() error
		code int
		want string
	}{
		{"a name", func() error { _, err := set(here, "Acme Inc", "strict"); return err }, http.StatusBadRequest, `organization "Acme Inc"`},
		{"a way", func() error { _, err := set(there, "acme", "never"); return err }, http.StatusBadRequest, "want available or strict"},
		{"no primary", func() error {
			_, err := set(line{}.add(t, "us-east-1", "", newShelf()), "acme", "strict")
			return err
		}, http.StatusServiceUnavailable, "--primary-region"},
		{"a primary out of reach", func() error {
			_, err := set(all.add(t, "us-east-1", "us-west-2", newShelf()), "acme", "strict")
			return err
		}, http.StatusServiceUnavailable, "us-west-2, which does not answer us-east-1"},
		{"a primary that is none", func() error {
			_, err := set(all.add(t, "us-east-1", other, newShelf()), "acme", "strict")
			return err
		}, http.StatusConflict, "the same --primary-region everywhere"},
		{"a document of another build", func() error {
			s.documents["future"] = []byte(`{"version":9,"org":"future"}`)
			_, err := set(here, "future", "strict")
			return err
		}, http.StatusConflict, "version 9"},
		{"a store that is down", func() error {
			s.down = errors.New("no leader")
			defer func() { s.down = nil }()
			_, err := set(there, "acme", "strict")
			return err
		}, http.StatusServiceUnavailable, "no leader"},
		{"a request", func() error {
			_, err := here.Methods()[residency.MethodSet](t.Context(), []byte("{"))
			return err
		}, http.StatusBadRequest, "cannot be read"},
	} {
		refusal, ok := errors.AsType[*primary.Refusal](c.fn())
		if !ok || refusal.Code != c.code || !strings.Contains(refusal.Detail, c.want) {
			t.Errorf("%s: %+v, want %d %q", c.name, refusal, c.code, c.want)
		}
	}
}

func TestGetAndList(t *testing.T) {
	s := newShelf()
	s.documents["acme"] = document(t, "acme", residency.TakeoverStrict)
	s.documents["broken"] = []byte(`{"version":9,"org":"broken"}`)
	r := line{}.add(t, "ap-southeast-1", "eu-west-1", s)
	ask := func(method string, q any) (reply residency.Reply, err error) {
		data, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if data, err = r.Methods()[method](t.Context(), data); err == nil {
			err = json.Unmarshal(data, &reply)
		}
		return reply, err
	}
	reply, err := ask(residency.MethodList, struct{}{})
	want := residency.Reply{Region: "ap-southeast-1", Primary: "eu-west-1", AgeMS: reply.AgeMS, Jurisdictions: jurisdictions()}
	acme := residency.Default("acme")
	acme.Takeover = residency.TakeoverStrict
	want.Orgs = []residency.Org{acme}
	want.Warnings = []string{"organization broken: version 9, this build knows up to version 2"}
	if diff := cmp.Diff(want, reply); diff != "" || err != nil || reply.AgeMS < 0 {
		t.Errorf("list (-want +got):\n%s%v", diff, err)
	}
	if reply, err = ask(residency.MethodGet, residency.GetRequest{Org: "nobody"}); err != nil || reply.Set || !cmp.Equal(*reply.Org, residency.Default("nobody")) {
		t.Errorf("an organization of which nothing is set: %+v, %v", reply, err)
	}
	if _, err = ask(residency.MethodGet, residency.GetRequest{Org: "broken"}); err == nil {
		t.Error("a document that cannot be read was shown")
	}
	if _, err = ask(residency.MethodGet, residency.GetRequest{Org: "a b"}); err == nil {
		t.Error("a name that cannot be was looked up")
	}
}

// TestListPages follows pages to the end: all are listed once, by name, those that cannot be used with
// the reason, and each page is a message of NATS.
func TestListPages(t *testing.T) {
	s, want, broken := newShelf(), []string{}, []string{}
	for i := range 2500 {
		name := fmt.Sprintf("org-%04d", i)
		switch {
		case i%100 == 7: // a document that says a lot
			s.documents[name] = []byte(`{"version":1,"org":"` + name + `","takeover":"` + strings.Repeat(`\u0001`, 10_000) + `"}`)
			broken = append(broken, name)
		case i < 100:
			o := residency.Default(name)
			o.ChangedBy = strings.Repeat("\x01", 10_000)
			data, err := residency.Encode(o)
			if err != nil {
				t.Fatal(err)
			}
			s.documents[name] = data
			want = append(want, name)
		default:
			s.documents[name] = document(t, name, residency.TakeoverStrict)
			want = append(want, name)
		}
	}
	r := line{}.add(t, "ap-southeast-1", "eu-west-1", s)
	for _, limit := range []int{0, 999, 7} {
		var got, warned []string
		pages := 0
		for q, more := (residency.ListRequest{Limit: limit}), true; more; pages++ {
			reply, err := r.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := json.Marshal(reply); err != nil || len(data) > 1<<20-10_000 || limit > 0 && len(reply.Orgs) > limit {
				t.Fatalf("a page of %d, %d bytes, %v", len(reply.Orgs), len(data), err)
			}
			for _, o := range reply.Orgs {
				got = append(got, o.Org)
			}
			for _, w := range reply.Warnings {
				warned = append(warned, strings.TrimPrefix(strings.Split(w, ":")[0], "organization "))
			}
			q.After, more = reply.Next, reply.Next != ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("limit %d: (-want +got):\n%s", limit, diff)
		}
		if diff := cmp.Diff(broken, warned); diff != "" {
			t.Errorf("limit %d: warnings (-want +got):\n%s", limit, diff)
		}
		if limit == 0 && pages < 8 {
			t.Errorf("6 MB came in %d pages", pages)
		}
	}
	for _, limit := range []int{-1, 1001} {
		if _, err := r.List(t.Context(), residency.ListRequest{Limit: limit}); err == nil {
			t.Errorf("a page of %d was given", limit)
		}
	}
}
