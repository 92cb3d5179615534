package ffmpeg

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls of a program that computes, has threads, and reads
// and writes what is open. All others fail with EPERM: sockets, other
// processes, mounts, tracing, keys, io_uring, modules. Those of files are
// among them because Landlock says which files; what a loader needs, too.
var calls = append([]uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_CLOSE, unix.SYS_LSEEK,
	unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_FSTATFS, unix.SYS_STATFS, unix.SYS_OPENAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
	unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2, unix.SYS_FADVISE64,
	unix.SYS_CLOSE_RANGE,

	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MSYNC, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_MEMBARRIER, unix.SYS_GET_MEMPOLICY, unix.SYS_SET_MEMPOLICY, unix.SYS_MBIND,

	unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_GET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SET_TID_ADDRESS, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,

	unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY, unix.SYS_TIMES,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,

	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_GETPGID,
	unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRUSAGE, unix.SYS_GETRANDOM, unix.SYS_GETCPU, unix.SYS_GETPRIORITY,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER,
	unix.SYS_SCHED_GET_PRIORITY_MAX, unix.SYS_SCHED_GET_PRIORITY_MIN,

	unix.SYS_EXECVE, // Landlock says of what
}, moreCalls...)

// filter is a program of classic BPF that is put together.
type filter []unix.SockFilter

func (f *filter) stmt(code uint16, k uint32) { *f = append(*f, unix.SockFilter{Code: code, K: k}) }

// when appends body, which is skipped unless the value read last is v.
func (f *filter) when(v uint32, body ...unix.SockFilter) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jf: uint8(len(body))})
	*f = append(*f, body...)
}

// bytes returns f as the kernel reads it.
func (f filter) bytes() []byte {
	var b []byte
	for _, i := range f {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = binary.NativeEndian.AppendUint32(append(b, i.Jt, i.Jf), i.K)
	}
	return b
}

// Offsets in struct seccomp_data.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16 // 8 bytes each, the low half first on what we run on
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func fail(e unix.Errno) unix.SockFilter {
	return ret(unix.SECCOMP_RET_ERRNO | uint32(e))
}

var permit = ret(unix.SECCOMP_RET_ALLOW)

// begin checks the architecture and loads the number of the call.
func (f *filter) begin() {
	*f = append(*f, load(offsetArch))
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1}, ret(unix.SECCOMP_RET_KILL_PROCESS))
	*f = append(*f, load(offsetCall))
}

// only permits a call when the low half of its argument n, masked, is one of
// the values.
func (f *filter) only(call uintptr, n, mask uint32, values ...uint32) {
	body := filter{load(offsetArgs + 8*n)}
	body.stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	for _, v := range values {
		body.when(v, permit)
	}
	f.when(uint32(call), append(body, fail(unix.EPERM))...)
}

// with returns the body that permits a call whose argument n has the value v
// when the low half of its argument n+1, masked, is want.
func with(n, v, mask, want uint32) filter {
	body := filter{load(offsetArgs + 8*(n+1))}
	body.stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	body.when(want, permit)
	f := filter{load(offsetArgs + 8*n)}
	f.when(v, append(body, fail(unix.EPERM))...)
	return f
}

// outer returns the filter that s stands for. All of it holds for what the
// process becomes.
func (s *spec) outer(pid int) filter {
	var f filter
	f.begin()
	if s.Forks { // the fork server waits for its master and its children
		for _, call := range []uintptr{unix.SYS_RECVMSG, unix.SYS_WAIT4, unix.SYS_CLONE, unix.SYS_SECCOMP} {
			f.when(uint32(call), permit)
		}
	} else {
		f.only(unix.SYS_CLONE, 0, unix.CLONE_THREAD, unix.CLONE_THREAD)
	}
	f.when(unix.SYS_CLONE3, fail(unix.ENOSYS)) // its arguments cannot be seen from here; C libraries then take clone
	f.only(unix.SYS_TGKILL, 0, ^uint32(0), uint32(pid))
	prctl := with(0, unix.PR_SET_PDEATHSIG, ^uint32(0), uint32(unix.SIGKILL)) // a child of the fork server asks for it
	for _, v := range []uint32{unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_VMA} {
		prctl.when(v, permit)
	}
	f.when(unix.SYS_PRCTL, append(prctl, fail(unix.EPERM))...)
	f.only(unix.SYS_PRLIMIT64, 0, ^uint32(0), 0, uint32(pid))
	f.only(unix.SYS_SCHED_SETAFFINITY, 0, ^uint32(0), 0)
	// Whoever may say whom a descriptor signals, and by what, can kill the server.
	fcntl := with(1, unix.F_SETFL, unix.O_ASYNC, 0)
	for _, v := range []uint32{unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL} {
		fcntl.when(v, permit)
	}
	if len(s.Devices) > 0 {
		fcntl.when(unix.F_ADD_SEALS, permit)
	}
	f.when(unix.SYS_FCNTL, append(fcntl, fail(unix.EPERM))...)
	if len(s.Devices) > 0 {
		f.when(unix.SYS_IOCTL, permit)
		f.when(unix.SYS_MEMFD_CREATE, permit)
		f.when(unix.SYS_FTRUNCATE, permit)
	} else {
		f.only(unix.SYS_IOCTL, 1, ^uint32(0), unix.TCGETS, unix.TIOCINQ)
	}
	for _, call := range calls {
		f.when(uint32(call), permit)
	}
	return append(f, fail(unix.EPERM))
}

// inner returns the filter that a child of the fork server puts on: it may do
// nothing but compute and read and write its pipes.
func inner() filter {
	var f filter
	f.begin()
	f.only(unix.SYS_CLONE, 0, unix.CLONE_THREAD, unix.CLONE_THREAD)
	f.when(unix.SYS_CLONE3, fail(unix.ENOSYS))
	f.only(unix.SYS_PRLIMIT64, 0, ^uint32(0), 0) // and not the fork server's
	for _, call := range append([]uintptr{
		unix.SYS_EXECVE, unix.SYS_RECVMSG, unix.SYS_WAIT4, unix.SYS_TGKILL, unix.SYS_OPENAT, unix.SYS_SECCOMP,
	}, openCalls...) {
		f.when(uint32(call), fail(unix.EPERM))
	}
	return append(f, permit)
}

// seccomp puts the filter on the calling thread. It reports false where the
// kernel has no such filters.
func (s *spec) seccomp() (bool, error) {
	if auditArch == 0 {
		return false, nil
	}
	f := s.outer(os.Getpid())
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	switch errno {
	case 0:
		return true, nil
	case unix.ENOSYS, unix.EINVAL:
		return false, nil
	}
	return false, errno
}
