package tokens

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Keyring holds a region's private keys. It is immutable, and a Signer. Its first key signs for as
// long as nothing is known of the region's keys: a service that never ran can answer by it.
type Keyring struct {
	region string
	// order are the ids of keys.
	order []string
	keys  map[string]ed25519.PrivateKey
}

// pemType is the block type of a private key, RFC 5958.
const pemType = "PRIVATE KEY"

// NewKeyring returns a keyring of the region. It needs at least one key.
func NewKeyring(region string, keys ...ed25519.PrivateKey) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("new keyring: no key")
	}
	k := &Keyring{region: region, keys: make(map[string]ed25519.PrivateKey, len(keys))}
	for _, key := range keys {
		kid := KeyID(region, public(key))
		if _, twice := k.keys[kid]; !twice {
			k.order = append(k.order, kid)
		}
		k.keys[kid] = key
	}
	return k, nil
}

// LoadKeyring reads the region's keys from a file of PEM blocks (PKCS #8, Ed25519). It
// refuses a file that others than its owner may read.
func LoadKeyring(path, region string) (*Keyring, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("load keys: %s does not exist; make one with: berth keys generate --out %s", path, path)
	case err != nil:
		return nil, fmt.Errorf("load keys: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("load keys: %s has mode %04o, others may read it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load keys: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("load keys from %s: %w", path, err)
	}
	return NewKeyring(region, keys...)
}

func parseKeys(data []byte) ([]ed25519.PrivateKey, error) {
	var keys []ed25519.PrivateKey
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != pemType {
			return nil, fmt.Errorf("PEM block %q where %q is wanted", block.Type, pemType)
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse private key: %w", err)
		}
		key, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("a key of type %T where Ed25519 is wanted", parsed)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no PEM block of a private key")
	}
	return keys, nil
}

// GenerateKey writes a new key to a file that only its owner may read. It refuses to
// overwrite one.
func GenerateKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	data, err := encodeKeys([]ed25519.PrivateKey{key})
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = writeAll(file, data)
	}
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	return nil
}

// KeyID returns <region>.<hash>: the key's id tells where its public half is to be had, and is of
// no other key.
func KeyID(region string, key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return region + "." + base64.RawURLEncoding.EncodeToString(sum[:9])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey {
	pub, _ := key.Public().(ed25519.PublicKey)
	return pub
}

// keyRegion returns the region that a key id names, "" if it names none.
func keyRegion(kid string) string {
	region, _, ok := strings.Cut(kid, ".")
	if !ok {
		return ""
	}
	return region
}

// Signing implements Signer: the first key.
func (k *Keyring) Signing() string { return k.order[0] }

// Public implements Signer.
func (k *Keyring) Public() map[string]ed25519.PublicKey {
	m := make(map[string]ed25519.PublicKey, len(k.keys))
	for kid, key := range k.keys {
		m[kid] = public(key)
	}
	return m
}

// Sign implements Signer.
func (k *Keyring) Sign(kid string, data []byte) ([]byte, error) {
	key, ok := k.keys[kid]
	if !ok {
		return nil, fmt.Errorf("no private key %q", kid)
	}
	return ed25519.Sign(key, data), nil
}
