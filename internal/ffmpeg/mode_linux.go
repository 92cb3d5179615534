package ffmpeg

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// mode is how a process is started: what the kernel lets us do before it runs.
type mode struct {
	namespaces bool // no network, no other processes
	mapped     bool // by a user namespace, which needs no privilege, and whose tasks are counted apart
	nobody     bool // as another user
}

// modes returns those that may work here, the best first.
func modes() []mode {
	if os.Getuid() == 0 {
		return []mode{
			{namespaces: true, mapped: true, nobody: true}, {namespaces: true, nobody: true}, {namespaces: true, mapped: true}, {nobody: true}, {},
		}
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
	if m.nobody && m.mapped {
		a.UidMappings[0].HostID, a.GidMappings[0].HostID, a.GidMappingsEnableSetgroups = nobody, nobody, true
	}
	if m.nobody {
		a.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return a
}

// lend gives a process that runs as nobody the groups of its devices, where they let
// their group use them and others not. Elsewhere it has those of the server.
func (m mode) lend(cmd *exec.Cmd, devices []string) {
	if !m.nobody {
		return
	}
	c := cmd.SysProcAttr.Credential
	for _, path := range devices {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Gid != 0 && st.Mode&0o066 == 0o060 && !slices.Contains(c.Groups, st.Gid) {
			c.Groups = append(c.Groups, st.Gid)
			if m.mapped {
				cmd.SysProcAttr.GidMappings = append(cmd.SysProcAttr.GidMappings, syscall.SysProcIDMap{ContainerID: int(st.Gid), HostID: int(st.Gid), Size: 1})
			}
		}
	}
}

// tasks returns how many processes and threads the user of a job may have. Where it
// has a user namespace, they are its own (Linux 5.14); elsewhere they are those of
// all jobs, or of the server too, whose own limit is another.
func (m mode) tasks() int {
	var u unix.Utsname
	var major, minor int
	unix.Uname(&u)
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	if m.mapped && (major > 5 || major == 5 && minor >= 14) {
		return maxTasks
	}
	return maxTasks * max(8, runtime.NumCPU())
}

func (m mode) command(self string, args []string) *exec.Cmd {
	return &exec.Cmd{Path: self, Args: args, Env: environment, SysProcAttr: m.attr()}
}

// awaitExit waits until the process has ended, and leaves it to be waited for.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
