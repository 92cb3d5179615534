package ffmpeg

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sandbox locks the process in and becomes the program that args, the command
// line after SandboxArg, say. It returns only if that failed.
func Sandbox(args []string) error {
	var s spec
	if len(args) < 2 {
		return errors.New("sandbox: it is started by weir, not by hand")
	}
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	// What follows holds for this thread, and for what it becomes.
	runtime.LockOSThread()
	layers, err := s.apply()
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if s.Report {
		return json.NewEncoder(os.Stdout).Encode(layers)
	}
	env := os.Environ()
	if s.Preload != "" {
		// Its children have not all that a symbol could be looked for in.
		env = append(env, "LD_PRELOAD="+s.Preload, "LD_BIND_NOW=1")
	}
	return fmt.Errorf("sandbox: exec %s: %w", s.Path, syscall.Exec(s.Path, args[1:], env))
}

// apply locks the thread in. What the kernel does not have is left out.
func (s *spec) apply() (l Layers, err error) {
	l.User = os.Getuid() == nobody
	l.Namespaces = os.Getpid() == 1

	// A job is the first to be killed when memory runs out, and the last to run.
	os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	unix.Setpriority(unix.PRIO_PROCESS, 0, s.Nice)
	if s.Nice >= lowest {
		// Whoever else wants to run interrupts it at once.
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	}
	const ioprioIdle = 3 << 13
	unix.Syscall(unix.SYS_IOPRIO_SET, 1, 0, ioprioIdle)

	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return l, fmt.Errorf("end with the server: %w", err)
	}
	if s.Parent != 0 && os.Getppid() != s.Parent {
		return l, errors.New("the server has ended")
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return l, fmt.Errorf("give up privileges: %w", err)
	}
	if l.Landlock, err = s.landlock(); err != nil {
		return l, fmt.Errorf("landlock: %w", err)
	}
	if err := s.rlimits(); err != nil {
		return l, err
	}
	l.Rlimits = true
	if l.Seccomp, err = s.seccomp(); err != nil {
		return l, fmt.Errorf("seccomp: %w", err)
	}
	return l, nil
}

// lowest is the niceness of what may only run when nothing else wants to.
const lowest = 19

// nobody is the user that jobs run as where the server is root.
const nobody = 65534

// rlimits sets what the process may take.
func (s *spec) rlimits() error {
	files := uint64(64)
	if len(s.Devices) > 0 {
		files = 256 // drivers open theirs again and again
	}
	limits := []struct {
		name     string
		resource int
		limit    uint64
	}{
		{"core", unix.RLIMIT_CORE, 0},
		{"file size", unix.RLIMIT_FSIZE, 0},
		{"files", unix.RLIMIT_NOFILE, files},
		{"locked memory", unix.RLIMIT_MEMLOCK, 0},
		{"tasks", unix.RLIMIT_NPROC, uint64(s.Tasks)},
		{"memory", unix.RLIMIT_DATA, uint64(s.Memory)},
	}
	if s.CPU > 0 {
		limits = append(limits, struct {
			name     string
			resource int
			limit    uint64
		}{"CPU", unix.RLIMIT_CPU, uint64(s.CPU)})
	}
	for _, l := range limits {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("limit of %s: %w", l.name, err)
		}
	}
	return nil
}

// Rights of Landlock by the version that knows them (landlock(7)).
const (
	landlockRead   = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockDevice = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	landlockFile   = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV // that a rule for a file may have
)

// landlock forbids all files but those that s names, TCP, and signals and
// abstract sockets to outside. It returns the version of Landlock, 0 where
// there is none.
func (s *spec) landlock() (version int, err error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, nil
	}
	version = int(v)
	attr := unix.LandlockRulesetAttr{Handled_access_fs: 1<<13 - 1}
	size := uintptr(8)
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size = 16
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size = 24
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(int(fd))
	for _, rule := range []struct {
		paths  []string
		access uint64
	}{
		{s.Read, landlockRead},
		{s.Exec, unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE},
		{s.Devices, landlockDevice},
	} {
		for _, path := range rule.paths {
			if err := allow(int(fd), path, rule.access&attr.Handled_access_fs); err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return 0, errno
	}
	return version, nil
}

// allow adds a rule for the path, which may not exist.
func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= landlockFile
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// libraries are the folders that a program may load its libraries from, and
// what its loader and its C library read.
var libraries = []string{
	"/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path",
	"/dev/null", "/dev/urandom", "/sys/devices/system/cpu", "/sys/devices/system/node", "/proc/cpuinfo",
}

// programFiles returns what the program at path needs: files to execute, itself
// and its loader, and files to read.
func programFiles(path string) (exec, read []string) {
	exec = []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		exec = append(exec, real)
		read = append(read, filepath.Join(filepath.Dir(filepath.Dir(real)), "lib"))
	}
	if loader := loaderOf(path); loader != "" {
		exec = append(exec, loader)
	}
	return exec, append(read, libraries...)
}
