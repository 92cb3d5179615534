package stream

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// send writes to a socket without waiting. It goes to the kernel without
// telling the scheduler, which for a call that cannot block only costs: of the
// microseconds that a small send takes, some per cent.
func send(fd uintptr, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	runtime.KeepAlive(b)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// unsent returns how many bytes a socket holds that its peer has not taken, -1
// if that is not to be known.
func unsent(c syscall.RawConn) int {
	n := int32(-1)
	err := c.Control(func(fd uintptr) {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); e != 0 {
			n = -1
		}
	})
	if err != nil {
		return -1
	}
	return int(n)
}

// limitUnsent makes a socket full at maxUnsent. Otherwise the send buffer of a
// player that reads slowly grows to megabytes before anybody notices that it
// is slow, and sending to all others gets dearer: what is copied there is in
// no cache any more. Best effort: a socket that is not TCP has no such limit.
func limitUnsent(c syscall.RawConn) {
	c.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}

// shutdown tells the peer that no more comes. Closing alone does not while a
// ring still has the socket. Best effort.
func shutdown(c syscall.RawConn) {
	c.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_WR) })
}
