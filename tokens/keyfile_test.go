package tokens_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthhq/berth/tokens"
)

// keyFile makes a key file with one key and opens it.
func keyFile(t *testing.T) (*tokens.KeyFile, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "eu.key")
	if err := tokens.GenerateKey(path); err != nil {
		t.Fatal(err)
	}
	f, err := tokens.OpenKeyFile(path, dublin)
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

func all(string) bool { return true }

// TestMakeKey puts a new key before the others of a file, of which some are dropped, and finds
// that another who has the file open follows.
func TestMakeKey(t *testing.T) {
	f, path := keyFile(t)
	other, err := tokens.OpenKeyFile(path, dublin)
	if err != nil {
		t.Fatal(err)
	}
	first := f.Signing()
	second, err := f.MakeKey(all)
	if err != nil {
		t.Fatal(err)
	}
	if f.Signing() != second || len(f.Public()) != 2 {
		t.Errorf("after %s comes %s of %d keys", first, f.Signing(), len(f.Public()))
	}
	// Whoever is to sign with a key that it does not know looks for it.
	text := []byte("text")
	want, errWant := f.Sign(second, text)
	got, errGot := other.Sign(second, text)
	if errWant != nil || errGot != nil || !slices.Equal(want, got) {
		t.Errorf("signatures %x, %v and %x, %v", want, errWant, got, errGot)
	}
	third, err := f.MakeKey(func(kid string) bool { return kid != first })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Sign(first, text); err == nil || !strings.Contains(err.Error(), "no private key") {
		t.Errorf("a dropped key: %v", err)
	}
	if err := other.Reload(); err != nil || other.Signing() != third || len(other.Public()) != 2 {
		t.Errorf("the other has %d keys, %s first: %v", len(other.Public()), other.Signing(), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestMakeKeyAtOnce has many make keys in one file at the same time: those who do not fail all find
// theirs in it.
func TestMakeKeyAtOnce(t *testing.T) {
	_, path := keyFile(t)
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	for range 8 {
		f, err := tokens.OpenKeyFile(path, dublin)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 4 {
				if kid, err := f.MakeKey(all); err == nil {
					mu.Lock()
					made = append(made, kid)
					mu.Unlock()
				} else if !strings.Contains(err.Error(), "another service writes") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f, err := tokens.OpenKeyFile(path, dublin)
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range made {
		if _, ok := f.Public()[kid]; !ok {
			t.Errorf("key %s was made and is not in the file", kid)
		}
	}
	if len(made) == 0 {
		t.Error("nobody made a key")
	}
}

// TestKeyFileGoesBad spoils a key file in use: the keys of before remain, and the fault is told
// until it is mended.
func TestKeyFileGoesBad(t *testing.T) {
	f, path := keyFile(t)
	kid := f.Signing()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(data []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []struct {
		name string
		data []byte
		mode os.FileMode
		want string
	}{
		{"readable by others", good, 0o644, "chmod 600"},
		{"garbage", []byte("no key at all"), 0o600, "no PEM block"},
		{"half a key", good[:len(good)/2], 0o600, "no PEM block"},
		{"another kind", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600, "PEM block"},
	} {
		spoil(bad.data, bad.mode)
		for range 2 {
			if err := f.Reload(); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("%s: %v, want %q", bad.name, err, bad.want)
			}
		}
		if _, err := f.Sign(kid, []byte("x")); err != nil {
			t.Errorf("%s: the key of before is gone: %v", bad.name, err)
		}
		if _, err := f.MakeKey(all); err == nil {
			t.Errorf("%s: a key was added", bad.name)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("no file: %v", err)
	}
	spoil(good, 0o600)
	if err := f.Reload(); err != nil {
		t.Errorf("mended: %v", err)
	}
}

// TestMakeKeyAfterACrash finds what a writer that died has left beside the file.
func TestMakeKeyAfterACrash(t *testing.T) {
	f, path := keyFile(t)
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.MakeKey(all); err == nil || !strings.Contains(err.Error(), "another service writes") {
		t.Errorf("beside a writer: %v", err)
	}
	long := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path+".new", long, long); err != nil {
		t.Fatal(err)
	}
	if _, err := f.MakeKey(all); err != nil {
		t.Errorf("after a dead writer: %v", err)
	}
}
