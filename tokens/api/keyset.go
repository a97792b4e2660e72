package api

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// KeySet holds public keys by their id. It is immutable.
type KeySet struct {
	keys map[string]ed25519.PublicKey
}

// NewKeySet returns a set of the given keys.
func NewKeySet(keys map[string]ed25519.PublicKey) *KeySet {
	s := &KeySet{keys: make(map[string]ed25519.PublicKey, len(keys))}
	maps.Copy(s.keys, keys)
	return s
}

// ParseKeySet reads a JWKS document, RFC 7517. Keys that are not sound public Ed25519 keys
// with an id are left out, so that one of a newer kind hides no other.
func ParseKeySet(data []byte) (*KeySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	s := &KeySet{keys: make(map[string]ed25519.PublicKey, len(doc.Keys))}
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

// MarshalJSON writes the set as a JWKS document, RFC 7517 and 8037.
func (s *KeySet) MarshalJSON() ([]byte, error) {
	doc := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
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
