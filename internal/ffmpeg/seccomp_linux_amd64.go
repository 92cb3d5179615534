package ffmpeg

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// openCalls open files under older names than openat.
var openCalls = []uintptr{unix.SYS_OPEN}

// moreCalls are calls of this architecture alone.
var moreCalls = []uintptr{
	unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_ACCESS, unix.SYS_READLINK, unix.SYS_GETDENTS,
	unix.SYS_PIPE, unix.SYS_DUP2, unix.SYS_POLL, unix.SYS_SELECT, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_CREATE, unix.SYS_ARCH_PRCTL,
	unix.SYS_GETPGRP, unix.SYS_GETRLIMIT, unix.SYS_TIME,
}
