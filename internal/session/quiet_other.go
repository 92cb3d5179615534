//go:build !linux

package session

import (
	"io"
	"net"
)

// quietly has no portable way to do what it does on Linux.
func quietly(c net.Conn) (io.Reader, func(quiet bool)) { return c, func(bool) {} }

// gone has none either.
func gone(net.Conn) bool { return false }
