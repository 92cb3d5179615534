//go:build unix

package storage

import (
	"os"
	"syscall"
)

// lockFile locks f until it is closed, or its process has died. Unless it waits
// for others, it fails at once where one has it; on file systems without locks it
// always fails.
func lockFile(f *os.File, wait bool) error {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	return syscall.Flock(int(f.Fd()), how)
}
