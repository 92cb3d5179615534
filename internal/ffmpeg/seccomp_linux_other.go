//go:build linux && !amd64 && !arm64

package ffmpeg

// auditArch is that of no machine: see spec.seccomp.
const auditArch = 0

var openCalls, moreCalls []uintptr
