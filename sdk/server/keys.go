package server

import (
	"context"
	"crypto/ed25519"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

// keyBucket holds every region's public keys: under each key id a JWKS document of that one
// key.
const keyBucket = "berth_keys"

// Times of asking for a key that the bucket has not brought.
const (
	askPause   = time.Second
	askTimeout = 500 * time.Millisecond
)

// publicKeys knows the keys that sign tokens. They come from the bucket, and from the
// region's token service when a token names one that the bucket has not brought yet.
type publicKeys struct {
	agent  *Agent
	set    atomic.Pointer[keySet]
	asking singleflight.Group

	// mu guards what follows, and orders the changes of set.
	mu sync.Mutex
	// kept are the bucket's keys; told are those that the token service told of, which add up,
	// for one instance of it may know less than another.
	kept, told map[string]ed25519.PublicKey
	// gone are the ids that the bucket once held.
	gone map[string]bool
	// ended are the ids that the bucket holds without a key: of keys that were retired.
	ended map[string]bool
	asked time.Time
}

// keySet is all keys at one time. A generation ends when a key is taken away or replaced:
// what was verified before must be verified again.
type keySet struct {
	keys map[string]ed25519.PublicKey
	// retired are the ids of keys that are not trusted any more, and will not be again.
	retired    map[string]bool
	generation uint64
}

func newPublicKeys(a *Agent) *publicKeys {
	k := &publicKeys{
		agent: a, gone: make(map[string]bool), ended: make(map[string]bool),
		kept: make(map[string]ed25519.PublicKey), told: make(map[string]ed25519.PublicKey),
	}
	k.set.Store(&keySet{})
	return k
}

// key returns the public key of an id.
func (k *publicKeys) key(kid string) (ed25519.PublicKey, bool) {
	key, ok := k.set.Load().keys[kid]
	return key, ok
}

// retired reports whether a key was retired: nothing that it signed is good any more.
func (k *publicKeys) retired(kid string) bool { return k.set.Load().retired[kid] }

// generation returns the present generation of keys.
func (k *publicKeys) generation() uint64 { return k.set.Load().generation }

// publish makes kept and told known, and begins a new generation if a key has gone. The
// caller holds mu.
func (k *publicKeys) publish() {
	old := k.set.Load()
	all := make(map[string]ed25519.PublicKey, len(k.kept)+len(k.told))
	maps.Copy(all, k.told)
	maps.Copy(all, k.kept)
	next := &keySet{keys: all, retired: maps.Clone(k.ended), generation: old.generation}
	for kid, key := range old.keys {
		if !all[kid].Equal(key) {
			next.generation++
			break
		}
	}
	k.set.Store(next)
	if next.generation != old.generation {
		k.agent.cache.clear()
	}
}

// ask asks the region's token service for all keys, at most once a second whatever key ids
// requests make up, and for a short while, for a request waits for it. Whether it helped
// shows in the keys.
func (k *publicKeys) ask(ctx context.Context) {
	_, _, _ = k.asking.Do("", func() (any, error) {
		now := time.Now()
		k.mu.Lock()
		pause := now.Sub(k.asked) < askPause
		if !pause {
			k.asked = now
		}
		k.mu.Unlock()
		if pause {
			return nil, nil
		}
		// The answer is for all who wait, so the end of the first one's request does not end it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		header := http.Header{api.HeaderDeadline: {now.Add(askTimeout).UTC().Format(time.RFC3339Nano)}}
		got, err := k.agent.askTokens(ctx, events.GlobalJurisdiction, api.MethodJWKS, header, nil)
		if err != nil || got.status != http.StatusOK {
			return nil, nil // counted by askTokens; the key remains unknown
		}
		if set, err := api.ParseKeySet(got.body); err == nil {
			k.tell(set)
		}
		return nil, nil
	})
}

// tell takes the token service's keys, but for those that the bucket has taken away: the
// service may not know yet that they are not to be trusted any more.
func (k *publicKeys) tell(set *api.KeySet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, kid := range set.IDs() {
		if key, _ := set.Key(kid); !k.gone[kid] && !k.ended[kid] {
			k.told[kid] = key
		}
	}
	k.publish()
}

// run follows the bucket until ctx ends.
func (k *publicKeys) run(ctx context.Context) {
	k.agent.persist(ctx, "follow public keys", func() error {
		return watchEnded(ctx, k.agent.cfg.Watcher.Watch(ctx, keyBucket, k.apply, func(time.Time) {}))
	})
}

// apply takes entries of the bucket: all that there are, if complete.
func (k *publicKeys) apply(entries []registry.Entry, complete bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.kept
	k.kept = make(map[string]ed25519.PublicKey)
	if !complete {
		maps.Copy(k.kept, before)
	} else {
		clear(k.ended)
	}
	for _, e := range entries {
		delete(k.kept, e.Key)
		delete(k.ended, e.Key)
		if e.Deleted {
			continue
		}
		// A document brings the key that it stands under and no other, so that who may write
		// one key cannot pass off another.
		if set, err := api.ParseKeySet(e.Value); err == nil {
			if key, ok := set.Key(e.Key); ok {
				k.kept[e.Key] = key
				continue
			}
			if set.Retired(e.Key) {
				k.ended[e.Key] = true
				delete(k.told, e.Key)
				continue
			}
		}
		k.agent.metrics.skipped.Inc()
	}
	for kid := range before {
		if _, ok := k.kept[kid]; !ok {
			k.gone[kid] = true
			delete(k.told, kid)
		}
	}
	for kid := range k.kept {
		delete(k.gone, kid)
	}
	k.publish()
}
