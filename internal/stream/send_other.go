//go:build !linux

package stream

import "syscall"

// send writes to a socket that does not block.
func send(fd uintptr, b []byte) (int, error) {
	n, err := syscall.Write(int(fd), b)
	return max(n, 0), err
}

// unsent returns how many bytes a socket holds that its peer has not taken, -1
// if that is not to be known.
func unsent(syscall.RawConn) int { return -1 }

// limitUnsent has no portable way to do what it does on Linux.
func limitUnsent(syscall.RawConn) {}

// shutdown has nothing to do where there are no rings.
func shutdown(syscall.RawConn) {}
