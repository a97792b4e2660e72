package tokens

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Signer holds a region's private keys, which never leave it: a KeyFile, or a KMS behind the same
// methods. It is safe for concurrent use.
//
// Public returns the public halves, by their ids, of the keys that it can sign with now; keys may
// come and go. It is asked each second. Sign signs data by Ed25519 with the key of an id: the same
// data, the same signature. It stands in the way of a refresh, so one that asks a KMS bounds how
// long that takes. Signing returns the id of the key to sign with in a region where none ever
// signed. Ids are made by KeyID.
type Signer interface {
	Public() map[string]ed25519.PublicKey
	Sign(kid string, data []byte) ([]byte, error)
	Signing() string
}

// KeyMaker is a Signer that can make keys itself.
//
// MakeKey makes one, lasting, and returns its id; those for which keep returns false may be thrown
// away by the way. It fails with nothing changed, or leaves a key that nobody needs.
type KeyMaker interface {
	Signer
	MakeKey(keep func(kid string) bool) (kid string, err error)
}

var (
	_ Signer   = (*Keyring)(nil)
	_ KeyMaker = (*KeyFile)(nil)
)

// KeyFile is a file of private keys, the newest first. It follows the file: token services that
// share it, or get the same copy of it, need no restart for a new key.
type KeyFile struct {
	path, region string
	ring         atomic.Pointer[Keyring]

	// mu guards what follows: the file is read by one at a time.
	mu   sync.Mutex
	seen fs.FileInfo
	// fault is why the file could not be read; the keys of before remain.
	fault error
}

// OpenKeyFile reads a region's key file. It refuses one that others than its owner may read.
func OpenKeyFile(path, region string) (*KeyFile, error) {
	f := &KeyFile{path: path, region: region}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns where the file is.
func (f *KeyFile) Path() string { return f.path }

// Reload reads the file if it has changed. Where it cannot be read, the keys of before remain,
// and the error says why until it can.
func (f *KeyFile) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload()
}

// reload is Reload for who holds mu.
func (f *KeyFile) reload() error {
	info, err := os.Stat(f.path)
	if err == nil && f.seen != nil && os.SameFile(info, f.seen) && info.Size() == f.seen.Size() &&
		info.ModTime().Equal(f.seen.ModTime()) && info.Mode() == f.seen.Mode() {
		return f.fault
	}
	ring, err := LoadKeyring(f.path, f.region)
	f.seen, f.fault = info, err
	if err == nil {
		f.ring.Store(ring)
	}
	return err
}

// Public implements Signer.
func (f *KeyFile) Public() map[string]ed25519.PublicKey { return f.ring.Load().Public() }

// Signing implements Signer.
func (f *KeyFile) Signing() string { return f.ring.Load().Signing() }

// Sign implements Signer. A key that is not known yet is looked for in the file.
func (f *KeyFile) Sign(kid string, data []byte) ([]byte, error) {
	ring := f.ring.Load()
	if _, ok := ring.keys[kid]; !ok {
		if err := f.Reload(); err != nil {
			return nil, err
		}
		ring = f.ring.Load()
	}
	signature, err := ring.Sign(kid, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not hold it", err, f.path)
	}
	return signature, nil
}

// staleMake is the age of a half-written key file from which its writer is taken for dead.
const staleMake = 10 * time.Second

// MakeKey implements KeyMaker: the new key stands first in the file, which is replaced at once and
// as a whole. Of several services that do so at the same time all but one fail.
func (f *KeyFile) MakeKey(keep func(kid string) bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.reload(); err != nil {
		return "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	kid, keys := KeyID(f.region, public(key)), []ed25519.PrivateKey{key}
	old := f.ring.Load()
	for _, id := range old.order {
		if keep(id) {
			keys = append(keys, old.keys[id])
		}
	}
	if err := replaceKeyFile(f.path, keys); err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	return kid, f.reload()
}

// replaceKeyFile writes keys beside the file and renames that over it: a reader, or a crash, finds
// the old keys or the new ones. Only one at a time can have the file beside it.
func replaceKeyFile(path string, keys []ed25519.PrivateKey) (err error) {
	data, err := encodeKeys(keys)
	if err != nil {
		return err
	}
	next := path + ".new"
	if info, err := os.Stat(next); err == nil && time.Since(info.ModTime()) > staleMake {
		_ = os.Remove(next) // its writer died; whether that helps shows next
	}
	if err := writeNew(next, data); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("another service writes %s right now; try again", next)
		}
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // where a file system cannot, the file itself is safe
		_ = dir.Close()
	}
	return nil
}

// writeNew writes a file that must not exist, readable by its owner alone, and has it reach the
// disk.
func writeNew(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// encodeKeys returns keys as PEM blocks, in order.
func encodeKeys(keys []ed25519.PrivateKey) ([]byte, error) {
	var out bytes.Buffer
	for _, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err == nil {
			err = pem.Encode(&out, &pem.Block{Type: pemType, Bytes: der})
		}
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
	}
	return out.Bytes(), nil
}
