package stream

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A yielder lets other goroutines run, those included that wait for the
// network. runtime.Gosched does not do that: the scheduler asks the network
// only when it has nothing else to run, and the goroutine that yields is
// something to run. So a yielder waits for the network itself, for an event
// that it sends to itself. It belongs to one goroutine; the zero value is
// ready.
type yielder struct {
	file *os.File // an eventfd
	conn syscall.RawConn
	sent bool
}

// let lets others run.
func (y *yielder) let() {
	if y.file == nil && !y.open() {
		runtime.Gosched()
		return
	}
	y.sent = false
	if err := y.conn.Read(y.event); err != nil {
		runtime.Gosched()
	}
}

// event is called twice: when it returns false the goroutine waits until fd is
// readable, which by then it is.
func (y *yielder) event(fd uintptr) bool {
	n := uint64(1)
	call := uintptr(syscall.SYS_READ)
	if !y.sent {
		call = syscall.SYS_WRITE
	}
	syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n))
	done := y.sent
	y.sent = true
	return done
}

func (y *yielder) open() bool {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return false
	}
	file := os.NewFile(uintptr(fd), "eventfd")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return false
	}
	y.file, y.conn = file, conn
	return true
}

func (y *yielder) close() {
	if y.file != nil {
		y.file.Close()
	}
}
