package residency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

// TestDecode: what a document says that this build does not know is never passed over.
func TestDecode(t *testing.T) {
	for data, want := range map[string]string{
		`{"version":1,"org":"acme","takeover":"strict"}`: "",
		`{"version":1,"org":"acme"}`:                     "",
		`{"version":2,"org":"acme"}`:                     "",
		`{"version":3,"org":"acme"}`:                     "version 3",
		`{"version":1,"org":"acme","allowed":["a"]}`:     "a document of version 1 names no regions",
		`{"version":2,"org":"acme","allowed":["a","b"],"home":"a","fallbacks":["b"],"jurisdiction":"eu"}`: "",
		`{"version":2,"org":"acme","allowed":["b","a"]}`:                                                  "another order",
		`{"version":2,"org":"acme","allowed":["a","a"]}`:                                                  "a stands twice",
		`{"version":2,"org":"acme","allowed":["A"]}`:                                                      `region "A"`,
		`{"version":2,"org":"acme","allowed":["a"],"home":"b"}`:                                           "home b is none of the allowed regions: a",
		`{"version":2,"org":"acme","home":"B"}`:                                                           `home "B"`,
		`{"version":2,"org":"acme","allowed":["a"],"fallbacks":["b"]}`:                                    "fallback b is none of the allowed regions: a",
		`{"version":2,"org":"acme","home":"a","fallbacks":["a"]}`:                                         "fallback a is the home region itself",
		`{"version":2,"org":"acme","fallbacks":["a","a"]}`:                                                "a stands twice",
		`{"version":2,"org":"acme","jurisdiction":"E U"}`:                                                 `jurisdiction "E U"`,
		`{"version":2,"org":"acme","allowed":[` + regionsOf(65) + `]}`:                                    "65 regions, at most 64",
		`{"version":1,"org":"zenith"}`:                                                                    `the document is of "zenith"`,
		`{"version":1,"org":"acme","takeover":"never"}`:                                                   `takeover "never": want available or strict`,
		`{"version":1,"org":"acme","regions_allowed":[]}`:                                                 "regions_allowed",
		`{"version":1,"org":"acme"} {}`:                                                                   "more than one document",
		`{"version":1,`:                                                                                   "unexpected EOF",
		`{"version":1,"org":"acme","changed_by":"` + strings.Repeat("x", 65536) + `"}`:                    "at most",
	} {
		o, err := residency.Decode("acme", []byte(data))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "acme")) {
			t.Errorf("%.80s: %+v, %v; want %q", data, o, err, want)
		}
	}
	o := residency.Default("acme")
	o.Takeover, o.ChangedAt, o.ChangedBy = residency.TakeoverStrict, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), "ada@desk"
	data, err := residency.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	const golden = `{"version":2,"org":"acme","takeover":"strict","jurisdiction":"global","changed_at":"2026-11-01T12:00:00Z","changed_by":"ada@desk"}`
	if string(data) != golden {
		t.Errorf("encoded as %s", data)
	}
	if again, err := residency.Decode("acme", data); err != nil || !cmp.Equal(again, o) {
		t.Errorf("read again as %+v, %v", again, err)
	}
	if _, err := residency.Encode(residency.Default("No Name")); err == nil {
		t.Error("a name that cannot be a key was encoded")
	}
}

// regionsOf returns the names of n regions as they stand in a list of JSON.
func regionsOf(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%q", fmt.Sprintf("r-%03d", i))
	}
	return strings.Join(names, ",")
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"version":1,"org":"acme","takeover":"strict"}`)
	f.Add(`{"version":2,"org":"acme","allowed":["a","b"],"home":"a","fallbacks":["b"],"jurisdiction":"eu"}`)
	f.Fuzz(func(t *testing.T, data string) {
		o, err := residency.Decode("acme", []byte(data))
		if err != nil {
			return
		}
		encoded, err := residency.Encode(o)
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", o, err)
		}
		if again, err := residency.Decode("acme", encoded); err != nil || !again.ChangedAt.Equal(o.ChangedAt) || !again.Equal(o) {
			t.Errorf("%+v became %+v, %v", o, again, err)
		}
	})
}

// shelf holds documents, and hands them to whoever watches.
type shelf struct {
	mu        sync.Mutex
	documents map[string][]byte
	revisions map[string]uint64
	// before runs before the next Put, once.
	before func()
	down   error
}

func newShelf() *shelf { return &shelf{documents: map[string][]byte{}, revisions: map[string]uint64{}} }

func (s *shelf) Get(_ context.Context, name string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents[name], s.revisions[name], s.down
}

func (s *shelf) Put(_ context.Context, name string, document []byte, revision uint64) error {
	if fn := s.before; fn != nil {
		s.before = nil
		fn()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	if s.revisions[name] != revision {
		return primary.ErrConflict
	}
	s.documents[name] = document
	s.revisions[name]++
	return nil
}

func (s *shelf) Delete(_ context.Context, name string, revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	if s.revisions[name] != revision {
		return primary.ErrConflict
	}
	delete(s.documents, name)
	s.revisions[name] = 0
	return nil
}

// feed is a watch that a test drives.
type feed chan func(fn func(map[string][]byte, bool), proof func(time.Time))

func (f feed) Watch(ctx context.Context, fn func(map[string][]byte, bool), proof func(time.Time)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case do := <-f:
			do(fn, proof)
		}
	}
}

// tell hands documents over and waits until they have been taken.
func (f feed) tell(documents map[string][]byte, complete bool) {
	done := make(chan struct{})
	f <- func(fn func(map[string][]byte, bool), proof func(time.Time)) {
		fn(documents, complete)
		proof(time.Now())
		close(done)
	}
	<-done
}

func follow(t *testing.T, d *residency.Directory) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func document(t *testing.T, name string, how residency.Takeover) []byte {
	t.Helper()
	o := residency.Default(name)
	o.Takeover = how
	data, err := residency.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDirectory(t *testing.T) {
	f := make(feed)
	d := residency.NewDirectory(f, nil)
	if _, err := d.Org("acme"); !errors.Is(err, residency.ErrNotLoaded) || !d.Current().IsZero() {
		t.Errorf("before anything was read: %v", err)
	}
	if _, err := d.List(""); !errors.Is(err, residency.ErrNotLoaded) {
		t.Errorf("before anything was read: %v", err)
	}
	follow(t, d)
	f.tell(map[string][]byte{"early": document(t, "early", residency.TakeoverStrict)}, false)
	if err := d.Ready(); err == nil {
		t.Error("a part was taken for the whole")
	}
	f.tell(map[string][]byte{
		"acme": document(t, "acme", residency.TakeoverStrict), "zenith": document(t, "zenith", residency.TakeoverAvailable),
		"future": []byte(`{"version":9,"org":"future"}`),
	}, true)
	expect := func(name string, want residency.Takeover, fault bool) {
		t.Helper()
		o, err := d.Org(name)
		if (err != nil) != fault || !fault && (o.Takeover != want || o.Org != name) {
			t.Errorf("%s is %+v, %v", name, o, err)
		}
	}
	expect("acme", residency.TakeoverStrict, false)
	expect("zenith", residency.TakeoverAvailable, false)
	expect("nobody", residency.TakeoverAvailable, false)
	expect("future", "", true)
	f.tell(map[string][]byte{"acme": document(t, "acme", residency.TakeoverAvailable), "future": document(t, "future", residency.TakeoverStrict)}, false)
	expect("acme", residency.TakeoverAvailable, false)
	expect("future", residency.TakeoverStrict, false)
	f.tell(map[string][]byte{"future": nil}, false)
	expect("future", residency.TakeoverAvailable, false)
	listed := func(after string) (names []string) {
		t.Helper()
		list, err := d.List(after)
		if err != nil {
			t.Fatal(err)
		}
		for e := range list {
			if e.Fault != nil || e.Org.Org != e.Name {
				t.Errorf("%+v", e)
			}
			names = append(names, e.Name)
		}
		return names
	}
	if diff := cmp.Diff([]string{"acme", "zenith"}, listed("")); diff != "" || d.Ready() != nil || d.Current().IsZero() {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if got := listed("acme"); len(got) != 1 || got[0] != "zenith" {
		t.Errorf("after acme: %v", got)
	}
	if _, set, err := d.Lookup("acme"); err != nil || !set {
		t.Errorf("acme: set %t, %v", set, err)
	}
	if o, set, err := d.Lookup("nobody"); err != nil || set || !cmp.Equal(o, residency.Default("nobody")) {
		t.Errorf("nobody: %+v, set %t, %v", o, set, err)
	}
	f.tell(map[string][]byte{"zenith": document(t, "zenith", residency.TakeoverStrict)}, true)
	if got := listed(""); len(got) != 1 {
		t.Errorf("what is gone is still listed: %v", got)
	}
}

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

func ExampleDefault() {
	fmt.Println(residency.Default("acme").Takeover)
	// Output: available
}
