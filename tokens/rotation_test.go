package tokens_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

var errNoLink = errors.New("the region does not answer")

// A keyFleet is the token services of two regions as far as keys go, and the link between them. Its
// steps run in fake time.
type keyFleet struct {
	t       *testing.T
	without keyRule
	regions map[string]*keySite

	mu  sync.Mutex
	cut bool
}

// A keySite is one region of it.
type keySite struct {
	name    string
	service *tokens.Service
	bucket  *keyBucket
	keys    []ed25519.PrivateKey
	signer  kms
	// first is the first key that signed; the region is there since then.
	first string
	since time.Time
}

// A keyRule is a part of V18 that a keyFleet may lack.
type keyRule struct {
	name string
	// noEdges has a region not know whom to wait for, patient its first key wait, too; stern has a
	// token of an unknown key refused for good.
	noEdges, patient, stern bool
}

func (f *keyFleet) link(cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
}

// Call implements tokens.Caller.
func (f *keyFleet) Call(ctx context.Context, subject string, header map[string][]string, data []byte) (map[string][]string, []byte, error) {
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	words := strings.Split(subject, ".")
	method, site := words[len(words)-1], f.regions[words[len(words)-2]]
	if cut || site == nil {
		return nil, nil, errNoLink
	}
	if about, ok := site.service.KeyMethods()[method]; ok {
		answer, err := about.Answer(ctx, data)
		return nil, answer, err
	}
	reply, answer := site.service.Serve(ctx, method, header, data)
	return reply, answer, nil
}

// other returns the region that a region has an edge to.
func (f *keyFleet) other(than *keySite) *keySite {
	for _, s := range f.regions {
		if s != than {
			return s
		}
	}
	return nil
}

// openKeyFleet starts two regions that know of one another and have never met: their link is cut.
func openKeyFleet(t *testing.T, without keyRule, connect func(...func(*jetstream.Config)) *jetstream.Conn) *keyFleet {
	t.Helper()
	f := &keyFleet{t: t, without: without, regions: map[string]*keySite{}, cut: true}
	view := &fleet{t: t}
	view.set(server("eu-west-1-a", dublin, "http://127.0.0.1:1"), server("ap-southeast-1-a", singapore, "http://127.0.0.1:1"))
	conns := map[string]*jetstream.Conn{dublin: connect(), singapore: jetstreamtest.Apart(t)()}
	for _, name := range []string{dublin, singapore} {
		conn := conns[name]
		s := &keySite{name: name, keys: []ed25519.PrivateKey{newKey(t)}, since: time.Now()}
		s.bucket = &keyBucket{conn.Keys(), func(ctx context.Context, kid string, document []byte) error { return f.refuse(ctx, s, kid, document) }}
		f.load(s)
		edges := func() []string { return []string{dublin, singapore} }
		if without.noEdges {
			edges = func() []string { return nil }
		}
		var err error
		s.service, err = tokens.New(tokens.Config{
			Region: name, Issuer: issuer, Keys: &s.signer, View: view.view.Load, Keyshare: s.bucket, Caller: f, Edges: edges,
			Store: conn.Records(), Ledger: conn.Records(), Bus: conn, Recent: conn.Regional(), Prober: registry.NewProber(registry.ProberConfig{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		if without.stern {
			s.service.RefuseUnknown()
		}
		f.regions[name] = s
	}
	return f
}

// load gives a region's signer its private keys.
func (f *keyFleet) load(s *keySite) {
	f.t.Helper()
	ring, err := tokens.NewKeyring(s.name, s.keys...)
	if err != nil {
		f.t.Fatal(err)
	}
	s.signer.ring.Store(ring)
}

// refuse has a first key wait until the other region knows it, where that is the rule.
func (f *keyFleet) refuse(ctx context.Context, s *keySite, kid string, document []byte) error {
	set, err := api.ParseKeySet(document)
	if life, _ := set.Life(kid); f.without.patient && err == nil && !life.Signs.IsZero() && !f.other(s).bucket.holds(ctx, kid) {
		return errNoLink
	}
	return nil
}

// check returns what of V18 is broken now.
func (f *keyFleet) check() error {
	for _, s := range f.regions {
		now, other := time.Now(), f.other(s)
		kid, err := s.service.SigningKey(now)
		switch {
		case err != nil && now.Sub(s.since) < time.Second:
			continue
		case err != nil:
			return fmt.Errorf("V18: %s is there for %s, and no key signs: %w", s.name, now.Sub(s.since), err)
		case s.first == "":
			s.first = kid
		case kid != s.first && !other.bucket.holds(f.t.Context(), kid):
			return fmt.Errorf("V18: %s signs in %s, and %s does not know it", kid, s.name, other.name)
		}
		for _, key := range s.keys {
			if tokens.KeyID(s.name, key.Public().(ed25519.PublicKey)) != kid {
				continue
			}
			err := other.service.Admit(f.t.Context(), signed(f.t, key, kid, refreshClaims(now)))
			if refusal := new(api.Error); errors.As(err, &refusal) && refusal.Code.Status() == http.StatusUnauthorized {
				return fmt.Errorf("V18: a token of %s by %s is refused in %s for good: %w", s.name, kid, other.name, err)
			}
			if err != nil && other.bucket.holds(f.t.Context(), kid) {
				return fmt.Errorf("V18: a token of %s by %s, which %s knows: %w", s.name, kid, other.name, err)
			}
		}
	}
	return nil
}

// A keyBucket is a region's bucket of public keys that refuses what refuse does.
type keyBucket struct {
	tokens.KeyBucket
	refuse func(ctx context.Context, kid string, document []byte) error
}

// holds reports whether the key itself is there.
func (b *keyBucket) holds(ctx context.Context, kid string) bool {
	document, _, err := b.Get(ctx, kid)
	if err != nil {
		return false
	}
	set, err := api.ParseKeySet(document)
	if err != nil {
		return false
	}
	_, ok := set.Key(kid)
	return ok
}

// Put implements tokens.KeyBucket.
func (b *keyBucket) Put(ctx context.Context, kid string, document []byte, revision uint64) error {
	if err := b.refuse(ctx, kid, document); err != nil {
		return err
	}
	return b.KeyBucket.Put(ctx, kid, document, revision)
}

// A keyTurn is one step of a schedule, and how long what it has done lasts.
type keyTurn struct {
	name  string
	do    func(f *keyFleet)
	lasts time.Duration
}

// rotates is the schedule of V18: two regions begin out of each other's reach, meet, lose one another,
// and a new key is made known in one of them meanwhile.
var rotates = []keyTurn{
	{"both begin, out of each other's reach", func(*keyFleet) {}, 20 * time.Second},
	{"they meet", func(f *keyFleet) { f.link(false) }, time.Minute},
	{"they lose one another", func(f *keyFleet) { f.link(true) }, 10 * time.Second},
	{"one is to sign by a new key", func(f *keyFleet) { f.renew(dublin) }, time.Minute},
	{"they meet again", func(f *keyFleet) { f.link(false) }, time.Minute},
}

// renew gives a region another key and asks that it sign.
func (f *keyFleet) renew(name string) {
	f.t.Helper()
	s, key := f.regions[name], newKey(f.t)
	s.keys = append(s.keys, key)
	f.load(s)
	time.Sleep(2 * time.Second) // it is published
	to, err := json.Marshal(tokens.RotateRequest{To: tokens.KeyID(name, key.Public().(ed25519.PublicKey))})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := s.service.KeyMethods()[tokens.MethodKeysRotate].Answer(f.t.Context(), to); err != nil {
		f.t.Errorf("rotate: %v", err)
	}
}

// playKeys takes the turns and returns what they break first.
func playKeys(t *testing.T, f *keyFleet, turns []keyTurn) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, s := range f.regions {
		running.Go(func() {
			if err := s.service.RunKeys(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for i, turn := range turns {
		turn.do(f)
		for until := time.Now().Add(turn.lasts); time.Now().Before(until); time.Sleep(250 * time.Millisecond) {
			if err := f.check(); err != nil {
				return fmt.Errorf("turn %d (%s): %w", i, turn.name, err)
			}
		}
	}
	if kid, err := f.regions[dublin].service.SigningKey(time.Now()); err != nil || kid == f.regions[dublin].first {
		return fmt.Errorf("V18: the new key does not sign, though all know it: %q, %w", kid, err)
	}
	return nil
}

// TestKeyBeforeItsFirstSignature: a public key reaches every edge before its first signature; a
// region's very first key signs at once, and meanwhile an unknown one is no reason to log anybody out
// (V18). The schedule breaks that with any part of the rule missing.
func TestKeyBeforeItsFirstSignature(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, without := range []keyRule{
		{},
		{name: "a new key waits for nobody", noEdges: true},
		{name: "a region's first key waits, too", patient: true},
		{name: "a token of an unknown key is refused for good", stern: true},
	} {
		t.Run(cmp.Or(without.name, "with the rule"), func(t *testing.T) {
			jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
				switch err := playKeys(t, openKeyFleet(t, without, connect), rotates); {
				case without.name == "" && err != nil:
					t.Error(err)
				case without.name != "" && err == nil:
					t.Error("the schedule breaks nothing")
				case err != nil:
					t.Logf("V18, %s: the schedule of a rotation breaks %v", without.name, err)
				}
			})
		})
	}
}
