package ffmpeg

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// openCalls is empty: here openat is the only one.
var openCalls []uintptr

// moreCalls are calls of this architecture alone.
var moreCalls = []uintptr{unix.SYS_FSTATAT, unix.SYS_GETRLIMIT}
