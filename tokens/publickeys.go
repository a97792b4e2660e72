package tokens

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// KeyBucket is the region's bucket of public keys: one JWKS document of one key under each
// key id.
//
// Put stores a document under a key id; storing the same again is no fault. Watch calls fn
// for every document that is there and then for each that comes, one at a time, and again
// for all after the connection was away; it returns with ctx's error. Both are safe for
// concurrent use.
type KeyBucket interface {
	Put(ctx context.Context, kid string, document []byte) error
	Watch(ctx context.Context, fn func(kid string, document []byte)) error
}

// Times of the exchange of keys with other regions.
const (
	keyExchange     = 30 * time.Second
	keyRetry        = time.Second
	keyAskTimeout   = 2 * time.Second
	unknownKeyPause = time.Second
)

// publicKeys knows the public keys of every region. Its own go into the region's bucket;
// those of another region are asked of that region alone, so that none can pass off its key
// as another's, and kept in the bucket too, where regional servers find them.
type publicKeys struct {
	cfg *Config
	log *slog.Logger
	set atomic.Pointer[api.KeySet]
	// published says that the own keys are in the bucket.
	published atomic.Bool
	ask       singleflight.Group

	// mu guards all: every known key by id, and the keyring's.
	mu  sync.Mutex
	all map[string]ed25519.PublicKey
	own map[string]ed25519.PublicKey
	// asked is when a region was last asked for an unknown key.
	asked map[string]time.Time
}

func newPublicKeys(c *Config, log *slog.Logger) *publicKeys {
	return &publicKeys{cfg: c, log: log, all: make(map[string]ed25519.PublicKey), asked: make(map[string]time.Time)}
}

// key returns a public key by its id.
func (p *publicKeys) key(kid string) (ed25519.PublicKey, bool) { return p.set.Load().Key(kid) }

// setOwn makes the keyring's keys known.
func (p *publicKeys) setOwn(k *Keyring) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own = k.Public()
	maps.Copy(p.all, p.own)
	p.published.Store(false)
	p.set.Store(api.NewKeySet(p.all))
}

// learn adds a document that the bucket or a region gave. Keys of another region than only
// names, if it is not empty, are left out.
func (p *publicKeys) learn(document []byte, only string) error {
	set, err := api.ParseKeySet(document)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kid := range set.IDs() {
		key, _ := set.Key(kid)
		if _, known := p.all[kid]; !known && (only == "" || keyRegion(kid) == only) {
			p.all[kid] = key
		}
	}
	p.set.Store(api.NewKeySet(p.all))
	return nil
}

func (p *publicKeys) ready() error {
	if !p.published.Load() {
		return errors.New("the signing key is not published yet")
	}
	return nil
}

// run publishes the own keys, follows the bucket and asks the other regions, until ctx ends.
func (p *publicKeys) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.cfg.Keyshare.Watch(ctx, func(kid string, document []byte) {
			if err := p.learn(document, keyRegion(kid)); err != nil {
				p.log.LogAttrs(ctx, slog.LevelWarn, "public key skipped",
					slog.String("kid", kid), slog.String("error", err.Error()))
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch public keys: %w", err)
	})
	g.Go(func() error { p.exchange(ctx); return nil })
	return g.Wait()
}

// exchange publishes the own keys and asks the other regions for theirs: each second those
// of which nothing is known yet, all of them every keyExchange.
func (p *publicKeys) exchange(ctx context.Context) {
	tick := time.NewTicker(keyRetry)
	defer tick.Stop()
	var asked time.Time
	for {
		now := time.Now()
		all := now.Sub(asked) >= keyExchange
		if all || !p.published.Load() {
			p.published.Store(p.publish(ctx))
		}
		if p.askView(ctx, all) && all {
			asked = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// publish stores the own keys; it reports whether all are stored.
func (p *publicKeys) publish(ctx context.Context) bool {
	p.mu.Lock()
	own := maps.Clone(p.own)
	p.mu.Unlock()
	for kid, key := range own {
		if err := p.store(ctx, kid, key); err != nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "public key not published",
				slog.String("kid", kid), slog.String("error", err.Error()))
			return false
		}
	}
	return true
}

func (p *publicKeys) store(ctx context.Context, kid string, key ed25519.PublicKey) error {
	document, err := api.NewKeySet(map[string]ed25519.PublicKey{kid: key}).MarshalJSON()
	if err != nil {
		return err
	}
	return p.cfg.Keyshare.Put(ctx, kid, document)
}

// askView asks other regions of the view for their keys: all of them, or those of which no
// key is known. It reports whether there is a view and every region that was asked answered.
func (p *publicKeys) askView(ctx context.Context, all bool) bool {
	view := p.cfg.View()
	if view == nil {
		return false
	}
	answered := true
	for _, r := range view.Regions {
		if r.Name == p.cfg.Region || (!all && p.knows(r.Name)) {
			continue
		}
		if err := p.askRegion(ctx, r.Name); err != nil {
			answered = false
		}
	}
	return answered
}

// knows reports whether any key of a region is known.
func (p *publicKeys) knows(region string) bool {
	for _, kid := range p.set.Load().IDs() {
		if keyRegion(kid) == region {
			return true
		}
	}
	return false
}

// askRegion asks one region for its keys and stores those that are new here.
func (p *publicKeys) askRegion(ctx context.Context, region string) error {
	_, err, _ := p.ask.Do(region, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, keyAskTimeout)
		defer cancel()
		subject := events.Subject{
			Kind: events.KindRPC, Service: "tokens", Jurisdiction: events.GlobalJurisdiction,
			Region: region, Method: api.MethodJWKS,
		}
		_, document, err := p.cfg.Caller.Call(ctx, subject.String(), http.Header{}, nil)
		if err != nil {
			return nil, fmt.Errorf("ask region %s for its keys: %w", region, err)
		}
		before := p.set.Load()
		if err := p.learn(document, region); err != nil {
			return nil, err
		}
		for _, kid := range p.set.Load().IDs() {
			if _, known := before.Key(kid); !known {
				key, _ := p.key(kid)
				if err := p.store(ctx, kid, key); err != nil {
					return nil, err
				}
			}
		}
		return nil, nil
	})
	return err
}

// fetch asks the region that an unknown key id names, at most once a second. It reports
// whether the key is known now.
func (p *publicKeys) fetch(ctx context.Context, kid string, now time.Time) bool {
	region := keyRegion(kid)
	if region == p.cfg.Region || !events.ValidToken(region) || !p.inView(region) {
		return false
	}
	p.mu.Lock()
	pause := now.Sub(p.asked[region]) < unknownKeyPause
	if !pause {
		p.asked[region] = now
	}
	p.mu.Unlock()
	if !pause {
		// The answer is for all who wait, so the end of the first one's request does not end it.
		_ = p.askRegion(context.WithoutCancel(ctx), region) // what matters is whether the key is known afterwards
	}
	_, known := p.key(kid)
	return known
}

// inView bounds what a forged key id can make this service ask for.
func (p *publicKeys) inView(region string) bool {
	view := p.cfg.View()
	if view == nil {
		return false
	}
	_, ok := view.Region(region)
	return ok
}
