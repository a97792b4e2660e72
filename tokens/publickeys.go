package tokens

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/berthhq/berth/tokens/api"
)

// ErrKeyChanged says that a document of a KeyBucket was not written, for another came first.
var ErrKeyChanged = errors.New("key changed meanwhile")

// KeyBucket is the region's bucket of public keys: under each key id one JWKS document, of that
// key and what happened to it.
//
// Get returns what the last acknowledged Put wrote, never an older replica's state, with a
// revision; nil and 0 where there is nothing. Put writes a document if the revision is still the
// id's last; on ErrKeyChanged nothing was written, on any other error that is unknown. Neither
// retries. Watch calls fn for all documents that there are (complete), then for those that
// change, one call at a time, and again for all after the connection was away; a document that is
// gone is nil. It returns with ctx's error. All are safe for concurrent use.
type KeyBucket interface {
	Get(ctx context.Context, kid string) (document []byte, revision uint64, err error)
	Put(ctx context.Context, kid string, document []byte, revision uint64) error
	Watch(ctx context.Context, fn func(documents map[string][]byte, complete bool)) error
}

// Bounds of what one region can make this service remember. Keys that are not to be used any more
// count for little, for they are only names.
const (
	maxRegionKeys  = 64
	maxRegionLives = 1024
)

// publicKeys knows the public keys of every region and what happened to them. Its own go into the
// region's bucket; those of another region are asked of that region alone, so that none can pass
// off its key as another's, and kept in the bucket too, where regional servers find them.
type publicKeys struct {
	cfg     *Config
	log     *slog.Logger
	signer  atomic.Pointer[Signer]
	known   atomic.Pointer[knownKeys]
	waiting atomic.Pointer[KeyWait]
	// published says that the own keys are in the bucket.
	published atomic.Bool
	ask       singleflight.Group
	// kick has the exchange go on at once.
	kick chan struct{}

	// mu guards what follows, and orders the changes of known.
	mu sync.Mutex
	// keys and lives are all that is known, by key id; kept is what of it the bucket holds.
	keys  map[string]ed25519.PublicKey
	lives map[string]api.KeyLife
	kept  map[string]keptKey
	// holds are the keys whose private halves the signer has.
	holds map[string]bool
	// complete says that the bucket was read.
	complete bool
	// asked is when a region was last asked for an unknown key.
	asked map[string]time.Time
	// words are what other regions said that they know of the own keys.
	words map[string]edgeWord
	// warned is when a rotation that waits was last warned of, fault the last fault of the signer.
	warned time.Time
	fault  string
}

// keptKey is what a document of the bucket says of the key that it stands under.
type keptKey struct {
	life api.KeyLife
	key  bool
}

// knownKeys is all that is known of keys at one time. It is immutable.
type knownKeys struct {
	// set holds the keys that verify, and what happened to them and to those that do no more.
	set *api.KeySet
	// lines are the regions' histories.
	lines map[string]keyLine
	// holds are the keys that can be signed with here.
	holds    map[string]bool
	complete bool
}

func newPublicKeys(c *Config, log *slog.Logger) *publicKeys {
	p := &publicKeys{
		cfg: c, log: log, kick: make(chan struct{}, 1),
		keys: make(map[string]ed25519.PublicKey), lives: make(map[string]api.KeyLife), kept: make(map[string]keptKey),
		asked: make(map[string]time.Time), words: make(map[string]edgeWord),
	}
	p.known.Store(&knownKeys{set: api.NewKeySet(nil)})
	return p
}

// key returns a public key by its id.
func (p *publicKeys) key(kid string) (ed25519.PublicKey, bool) { return p.known.Load().set.Key(kid) }

// retired reports whether a key was known and is not to be used any more.
func (p *publicKeys) retired(kid string) bool { return p.known.Load().set.Retired(kid) }

// own returns the history of the region's own keys.
func (p *publicKeys) own() keyLine { return p.known.Load().lines[p.cfg.Region] }

// setOwn makes the signer's keys known.
func (p *publicKeys) setOwn(s Signer) {
	p.signer.Store(&s)
	p.published.Store(false)
	p.held(time.Now())
	p.wake()
}

// held makes the keys known that the signer holds now. What it holds under another id than theirs
// is left out: it is another region's, or the signer is faulty.
func (p *publicKeys) held(now time.Time) {
	held, holds := (*p.signer.Load()).Public(), map[string]bool{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for kid, key := range held {
		if KeyID(p.cfg.Region, key) == kid {
			holds[kid], p.keys[kid] = true, key
		}
	}
	p.holds = holds
	p.renew(now)
}

// wake has the exchange go on at once.
func (p *publicKeys) wake() { notify(p.kick) }

// vouches reports whether what this service has signed by a key is good without verification: the
// key still verifies, and it is still the service's.
func (p *publicKeys) vouches(kid string) bool {
	k := p.known.Load()
	_, verifies := k.set.Key(kid)
	return verifies && k.holds[kid]
}

// signing returns the key that signs new tokens. Until the bucket is known, a Keyring answers for
// itself: which of its keys signs was settled when it was made.
func (p *publicKeys) signing(now time.Time) (string, error) {
	signer := *p.signer.Load()
	line := p.own()
	ring, fixed := signer.(*Keyring)
	kid := line.signing(now)
	switch {
	case kid == "" && fixed && !line.begun():
		return ring.Signing(), nil
	case kid == "" && !p.known.Load().complete:
		return "", errors.New("which key signs is not known yet")
	case kid == "" && !line.begun():
		return "", errors.New("no key signs yet")
	case kid == "":
		return "", errors.New("no key signs: the last one was revoked; make another with: berth keys rotate")
	}
	if !p.known.Load().holds[kid] {
		return "", fmt.Errorf("key %s signs in region %s, and %s does not hold it; copy the key file of a token service that does, or see: docs/keys.md",
			kid, p.cfg.Region, place(signer))
	}
	return kid, nil
}

// place says where a signer's keys are.
func place(s Signer) string {
	if f, ok := s.(*KeyFile); ok {
		return f.Path()
	}
	return "this service"
}

// Sign signs what the record of a session says once more: by a key that was retired not long ago
// if need be, by a revoked one never. It makes publicKeys the Signer of the mint.
func (p *publicKeys) Sign(kid string, data []byte) ([]byte, error) {
	if !p.own().maySign(kid, time.Now()) {
		return nil, fmt.Errorf("key %s is retired and signs no more", kid)
	}
	return (*p.signer.Load()).Sign(kid, data)
}

// learn adds what a document says of one region's keys: of one of them alone, or all if kid is
// empty. What is said of others, and keys under an id that is not theirs, are left out and
// counted.
func (p *publicKeys) learn(document []byte, region, kid string, now time.Time) (skipped int, err error) {
	set, err := api.ParseKeySet(document)
	if err != nil {
		return 0, err
	}
	fits := func(id string) bool {
		return keyRegion(id) == region && (kid == "" || id == kid) && len(id) <= api.MaxKeyID
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range set.IDs() {
		key, _ := set.Key(id)
		_, known := p.keys[id]
		switch {
		case !fits(id) || KeyID(region, key) != id || !known && count(p.keys, region) >= maxRegionKeys:
			skipped++
		default:
			p.keys[id] = key
		}
	}
	for _, id := range set.Lives() {
		life, _ := set.Life(id)
		_, known := p.lives[id]
		if !fits(id) || !known && count(p.lives, region) >= maxRegionLives {
			skipped++
			continue
		}
		p.lives[id] = p.lives[id].Merge(life)
	}
	p.renew(now)
	return skipped, nil
}

// moment returns a time as it stands in a document.
func moment(now time.Time) time.Time { return now.UTC().Truncate(time.Millisecond) }

// count returns how many ids of a map are of a region.
func count[V any](ids map[string]V, region string) int {
	n := 0
	for kid := range ids {
		if keyRegion(kid) == region {
			n++
		}
	}
	return n
}

// renew makes known what is known as of now. The caller holds mu.
func (p *publicKeys) renew(now time.Time) {
	k := &knownKeys{lines: p.histories(now), holds: p.holds, complete: p.complete}
	keys, lives := map[string]ed25519.PublicKey{}, map[string]api.KeyLife{}
	for kid, key := range p.keys {
		if k.lines[keyRegion(kid)].verifies(kid, now) {
			keys[kid] = key
		} else {
			delete(p.keys, kid) // it is only a name from now on
		}
	}
	for _, line := range k.lines {
		for kid, life := range line {
			if life != (api.KeyLife{}) {
				lives[kid] = life
			}
		}
	}
	k.set = api.NewKeySetOf(keys, lives)
	p.known.Store(k)
}

// histories returns what happened to the keys of each region. A life without its key counts only
// if it says that the key is over: else any word in the bucket could name a key that signs, and
// none has. The caller holds mu.
func (p *publicKeys) histories(now time.Time) map[string]keyLine {
	all, lines := map[string]keyLine{}, map[string]keyLine{}
	add := func(to map[string]keyLine, kid string, life api.KeyLife) {
		region := keyRegion(kid)
		if to[region] == nil {
			to[region] = keyLine{}
		}
		to[region][kid] = life
	}
	for kid, life := range p.lives {
		add(all, kid, life)
	}
	for kid := range p.keys {
		add(lines, kid, p.lives[kid])
	}
	for kid, life := range p.lives {
		if p.keys[kid] == nil && !all[keyRegion(kid)].verifies(kid, now) {
			add(lines, kid, life)
		}
	}
	return lines
}

// document returns what is to stand in the bucket under a key id, given that this happened to it.
// The caller holds mu.
func (p *publicKeys) document(kid string, life api.KeyLife, now time.Time) ([]byte, keptKey, error) {
	line := maps.Clone(p.known.Load().lines[keyRegion(kid)])
	if line == nil {
		line = keyLine{}
	}
	line[kid] = life
	keys := map[string]ed25519.PublicKey{}
	key, has := p.keys[kid]
	if has = has && line.verifies(kid, now); has {
		keys[kid] = key
	}
	lives := map[string]api.KeyLife{}
	if life != (api.KeyLife{}) {
		lives[kid] = life
	}
	data, err := api.NewKeySetOf(keys, lives).MarshalJSON()
	return data, keptKey{life, has}, err
}

// take hears what the bucket holds.
func (p *publicKeys) take(ctx context.Context, documents map[string][]byte, complete bool) {
	now := time.Now()
	kept := make(map[string]keptKey, len(documents))
	for kid, document := range documents {
		if document == nil {
			continue
		}
		skipped, err := p.learn(document, keyRegion(kid), kid, now)
		set, parseErr := api.ParseKeySet(document)
		if err = errors.Join(err, parseErr); err == nil && skipped > 0 {
			err = fmt.Errorf("%d entries are of other keys, not sound, or too many", skipped)
		}
		if err != nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "public key skipped", slog.String("kid", kid), slog.String("error", err.Error()))
			continue
		}
		life, _ := set.Life(kid)
		_, has := set.Key(kid)
		kept[kid] = keptKey{life, has}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for kid := range documents {
		delete(p.kept, kid)
	}
	if complete {
		clear(p.kept)
		p.complete = true
	}
	maps.Copy(p.kept, kept)
	p.renew(now)
	p.wake()
}

// keyAttempts bounds how often a change of a key is tried again because another came first.
const keyAttempts = 8

// change changes what happened to a key, by one compare-and-swap on its document; the change may
// be asked for more than once. What the bucket and this service know is merged by the way. If that
// leaves the document as it is, nothing is written.
func (p *publicKeys) change(ctx context.Context, kid string, fn func(life *api.KeyLife)) error {
	err := ErrKeyChanged
	for range keyAttempts {
		if err = p.tryChange(ctx, kid, fn); !errors.Is(err, ErrKeyChanged) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("change key %s: %w", kid, err)
	}
	return nil
}

func (p *publicKeys) tryChange(ctx context.Context, kid string, fn func(life *api.KeyLife)) error {
	ctx, cancel := context.WithTimeout(ctx, keyAskTimeout)
	defer cancel()
	have, revision, err := p.cfg.Keyshare.Get(ctx, kid)
	if err != nil {
		return err
	}
	var found keptKey
	// What cannot be read is written anew: who can name the key by its id has it.
	if set, err := api.ParseKeySet(have); have != nil && err == nil {
		key, has := set.Key(kid)
		found.key = has && KeyID(keyRegion(kid), key) == kid
		found.life, _ = set.Life(kid)
	}
	now := time.Now()
	p.mu.Lock()
	life := found.life.Merge(p.lives[kid])
	fn(&life)
	document, next, err := p.document(kid, life, now)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if have == nil || found.key != next.key || !found.life.Equal(life) {
		if err := p.cfg.Keyshare.Put(ctx, kid, document, revision); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lives[kid], p.kept[kid] = life, next
	p.renew(now)
	return nil
}

// store writes to the bucket what it lacks of what is known of a region's keys, all regions' if
// region is empty. The own keys are published by that.
func (p *publicKeys) store(ctx context.Context, region string) error {
	now := time.Now()
	p.mu.Lock()
	var lacking []string
	known := maps.Clone(p.lives)
	for kid := range p.keys {
		known[kid] = p.lives[kid]
	}
	for kid, life := range known {
		at := keyRegion(kid)
		if region != "" && region != at {
			continue
		}
		_, want, err := p.document(kid, life, now)
		have, ok := p.kept[kid]
		fresh := at == p.cfg.Region && life.Published.IsZero() && want.key
		if err == nil && (!ok && (want.key || life != (api.KeyLife{})) || ok && (have.key != want.key || !have.life.Equal(life)) || fresh) {
			lacking = append(lacking, kid)
		}
	}
	p.mu.Unlock()
	var errs []error
	for _, kid := range lacking {
		errs = append(errs, p.change(ctx, kid, func(life *api.KeyLife) {
			if keyRegion(kid) == p.cfg.Region && life.Published.IsZero() {
				life.Published = moment(now)
			}
		}))
	}
	return errors.Join(errs...)
}
