package api

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// KeySet holds public keys by their id, and what happened to keys. It is immutable.
type KeySet struct {
	keys  map[string]ed25519.PublicKey
	lives map[string]KeyLife
}

// KeyLife is what happened to a key, each at most once; a zero time: not yet. What follows from
// it, which key signs and for how long another still verifies, is for those who read it.
type KeyLife struct {
	// Published is when the key was first stored in its region.
	Published time.Time `json:"published_at,omitzero"`
	// Wanted is when an operator asked that it sign.
	Wanted time.Time `json:"wanted_at,omitzero"`
	// Signs is the time from which it signs new tokens, until that of a later key.
	Signs time.Time `json:"signs_at,omitzero"`
	// Revoked is when it was retired by force: from then on nothing that it signed is good.
	Revoked time.Time `json:"revoked_at,omitzero"`
}

// Merge returns what two reports of one key amount to: of each time the earlier.
func (l KeyLife) Merge(o KeyLife) KeyLife {
	return KeyLife{
		Published: first(l.Published, o.Published), Wanted: first(l.Wanted, o.Wanted),
		Signs: first(l.Signs, o.Signs), Revoked: first(l.Revoked, o.Revoked),
	}
}

// Equal reports whether both say the same.
func (l KeyLife) Equal(o KeyLife) bool {
	return l.Published.Equal(o.Published) && l.Wanted.Equal(o.Wanted) && l.Signs.Equal(o.Signs) && l.Revoked.Equal(o.Revoked)
}

// first returns the earlier of two times, of which the zero one is none.
func first(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// NewKeySet returns a set of the given keys.
func NewKeySet(keys map[string]ed25519.PublicKey) *KeySet { return NewKeySetOf(keys, nil) }

// NewKeySetOf returns a set of keys and of what happened to these, and to keys that are not
// to be used any more.
func NewKeySetOf(keys map[string]ed25519.PublicKey, lives map[string]KeyLife) *KeySet {
	s := &KeySet{keys: make(map[string]ed25519.PublicKey, len(keys)), lives: make(map[string]KeyLife, len(lives))}
	maps.Copy(s.keys, keys)
	maps.Copy(s.lives, lives)
	return s
}

// ParseKeySet reads a JWKS document, RFC 7517. Keys that are not sound public Ed25519 keys
// with an id are left out, so that one of a newer kind hides no other.
func ParseKeySet(data []byte) (*KeySet, error) {
	var doc struct {
		Keys  []json.RawMessage          `json:"keys"`
		Lives map[string]json.RawMessage `json:"berth"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	s := NewKeySet(nil)
	for kid, raw := range doc.Lives {
		var life KeyLife
		if json.Unmarshal(raw, &life) == nil {
			s.lives[kid] = life
		}
	}
	for _, raw := range doc.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) != nil {
			continue
		}
		if pub, ok := k.Key.(ed25519.PublicKey); ok && k.KeyID != "" {
			s.keys[k.KeyID] = pub
		}
	}
	return s, nil
}

// MarshalJSON writes the set as a JWKS document, RFC 7517 and 8037. What happened to keys stands
// in its member "berth", by their ids; who does not know that ignores it, as the RFC asks.
func (s *KeySet) MarshalJSON() ([]byte, error) {
	doc := struct {
		jose.JSONWebKeySet
		Lives map[string]KeyLife `json:"berth,omitempty"`
	}{JSONWebKeySet: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}, Lives: s.lives}
	for _, kid := range s.IDs() {
		doc.Keys = append(doc.Keys, jose.JSONWebKey{
			Key: s.keys[kid], KeyID: kid, Algorithm: string(jose.EdDSA), Use: "sig",
		})
	}
	return json.Marshal(doc)
}

// IDs returns the keys' ids in order.
func (s *KeySet) IDs() []string { return slices.Sorted(maps.Keys(s.keys)) }

// Key returns the public key of an id.
func (s *KeySet) Key(kid string) (ed25519.PublicKey, bool) {
	key, ok := s.keys[kid]
	return key, ok
}

// Lives returns the ids of the keys of which it is known what happened to them, in order.
func (s *KeySet) Lives() []string { return slices.Sorted(maps.Keys(s.lives)) }

// Life returns what happened to a key, and whether anything is known of it.
func (s *KeySet) Life(kid string) (KeyLife, bool) {
	life, ok := s.lives[kid]
	return life, ok
}

// Retired reports whether the set knows of a key, and that it is not to be used any more: it
// says what happened to it, and withholds the key itself.
func (s *KeySet) Retired(kid string) bool {
	_, known := s.lives[kid]
	_, usable := s.keys[kid]
	return known && !usable
}
