//go:build !linux

package stream

import "syscall"

// send writes to a socket that does not block.
func send(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }
