//go:build unix

package node

import (
	"os"
	"syscall"
)

// lockFile locks f until it is closed, or fails at once.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
