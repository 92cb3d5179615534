package ffmpeg

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// mode is how a process is started: what the kernel lets us do before it runs.
type mode struct {
	namespaces bool // no network, no other processes
	mapped     bool // by a user namespace, which needs no privilege
	nobody     bool // as another user
}

// modes returns those that may work here, the best first.
func modes() []mode {
	if os.Getuid() == 0 {
		return []mode{{namespaces: true, nobody: true}, {namespaces: true, mapped: true}, {nobody: true}, {}}
	}
	return []mode{{namespaces: true, mapped: true}, {}}
}

// attr returns what starts a process in this mode. It leads a process group of
// its own.
func (m mode) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if m.namespaces {
		a.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	}
	if m.mapped {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getgid(), Size: 1}}
	}
	if m.nobody {
		a.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return a
}

func (m mode) command(self string, args []string) *exec.Cmd {
	return &exec.Cmd{Path: self, Args: args, Env: environment, SysProcAttr: m.attr()}
}

// awaitExit waits until the process has ended, and leaves it to be waited for.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
