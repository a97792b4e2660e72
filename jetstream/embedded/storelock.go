package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// lockFile marks a store directory as in use. It stays when its process ends, but the lock on it goes with the process,
// however that ends.
const lockFile = "berth.lock"

// errLocked is what the operating system's lock reports of a file that another process holds.
var errLocked = errors.New("locked by another process")

// storeLock keeps other processes out of a store directory: two servers that write the same streams destroy them.
type storeLock struct {
	file *os.File
}

// lockStore makes the directory if need be, checks that it can be written, and locks it.
func lockStore(dir string) (*storeLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("use store directory: %w", err)
	}
	if err := lock(file); err != nil {
		holder, _ := os.ReadFile(path)
		_ = file.Close()
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("store directory %s is in use by another process (pid %s)", dir, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock store directory %s: %w", dir, err)
	}
	// The pid is for the message above alone, so failing to note it is no fault.
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &storeLock{file: file}, nil
}

// release gives the directory free.
func (l *storeLock) release() error { return l.file.Close() }
