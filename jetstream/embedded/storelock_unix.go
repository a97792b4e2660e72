//go:build unix

package embedded

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the lock that the kernel drops when the file is closed, as at the death of the process.
func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
