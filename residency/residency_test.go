package residency_test

import (
	"context"
	"errors"
	"fmt"
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

func ExampleDefault() {
	fmt.Println(residency.Default("acme").Takeover)
	// Output: available
}
