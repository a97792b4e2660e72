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
	kid, err := f.makeKey(keep)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	return kid, f.reload()
}

// makeKey writes the keys beside the file and renames that over it: a reader, or a crash, finds the
// old keys or the new ones. Only one at a time can have the file beside it, and what it adds to is
// read after that.
func (f *KeyFile) makeKey(keep func(kid string) bool) (kid string, err error) {
	next, err := f.beside()
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(next.Name()))
		}
	}()
	defer func() { _ = next.Close() }() // closed already where all went well
	if err := f.reload(); err != nil {
		return "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	keys, old := []ed25519.PrivateKey{key}, f.ring.Load()
	for _, id := range old.order {
		if keep(id) {
			keys = append(keys, old.keys[id])
		}
	}
	data, err := encodeKeys(keys)
	if err != nil {
		return "", err
	}
	if err := writeAll(next, data); err != nil {
		return "", err
	}
	if err := os.Rename(next.Name(), f.path); err != nil {
		return "", err
	}
	if dir, err := os.Open(filepath.Dir(f.path)); err == nil {
		_ = dir.Sync() // where a file system cannot, the file itself is safe
		_ = dir.Close()
	}
	return KeyID(f.region, public(key)), nil
}

// beside makes the file beside the key file, which one at a time can have.
func (f *KeyFile) beside() (*os.File, error) {
	name := f.path + ".new"
	if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > staleMake {
		_ = os.Remove(name) // its writer died; whether that helps shows next
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("another service writes %s right now; try again", name)
	}
	return file, err
}

// writeAll writes a file's content, has it reach the disk, and closes the file.
func writeAll(file *os.File, data []byte) error {
	_, err := file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
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
