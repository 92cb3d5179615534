package session

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quietConn reads from a socket whose data need not wake anybody up. It
// belongs to one goroutine.
type quietConn struct {
	raw   syscall.RawConn
	quiet bool

	p   []byte // what try reads into, and what came of it
	n   int
	err error
}

// quietly returns a reader of c, and what keeps the kernel from telling of less
// than calmBytes until the reader waits again for the next byte, or it is told to
// end that. What is no socket by itself, as with TLS, is returned as it is, with a
// function that does nothing.
func quietly(c net.Conn) (io.Reader, func(quiet bool)) {
	if c, ok := c.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			q := &quietConn{raw: raw}
			return q, q.hush
		}
	}
	return c, func(bool) {}
}

func (q *quietConn) hush(quiet bool) {
	if q.quiet == quiet {
		return
	}
	q.quiet = quiet
	n := 1
	if quiet {
		n = calmBytes
	}
	q.raw.Control(func(fd uintptr) { q.least(fd, n) })
}

func (q *quietConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	q.p = p
	err := q.raw.Read(q.try)
	q.p = nil
	if err != nil {
		return 0, err
	}
	return q.n, q.err
}

// try reads, and reports whether there was anything to read. The socket does
// not block, so the scheduler need not hear of it.
func (q *quietConn) try(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(q.p))), uintptr(len(q.p)))
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN && q.quiet:
			q.quiet = false
			q.least(fd, 1) // what has come meanwhile is told of
		case e == syscall.EAGAIN:
			return false
		case e != 0:
			q.n, q.err = 0, os.NewSyscallError("read", e)
			return true
		case n == 0:
			q.n, q.err = 0, io.EOF
			return true
		default:
			q.n, q.err = int(n), nil
			return true
		}
	}
}

// gone reports whether the other end of a TCP connection has closed it, which a
// reader learns only behind what was sent before.
func gone(c net.Conn) bool {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	over := false
	err = raw.Control(func(fd uintptr) {
		const closed, closeWait = 7, 8 // TCP_CLOSE, TCP_CLOSE_WAIT of linux/tcp_states.h
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		over = err == nil && (info.State == closed || info.State == closeWait)
	})
	return over || errors.Is(err, net.ErrClosed)
}

// least sets how many bytes have to be there for the kernel to tell of them.
// Best effort: without it there are more wake-ups.
func (q *quietConn) least(fd uintptr, n int) {
	syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
}
