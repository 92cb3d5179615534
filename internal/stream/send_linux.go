package stream

import (
	"runtime"
	"syscall"
	"unsafe"
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
