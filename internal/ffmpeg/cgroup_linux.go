package ffmpeg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Control groups, version 2 (cgroups(7)). Where a part of their tree is ours, a
// process is born into a group of its own: what it takes is limited together
// with whatever it starts, and one write ends all of that, also what has left
// the process group. Whether a part is ours is for systemd (Delegate=yes), a
// container or the administrator to say; nothing is touched otherwise.

const (
	serverGroup = "weir-server"  // where the server moves to, so that it may have groups beside itself
	jobGroup    = "weir-ffmpeg-" // and its process id and a number
)

// maxTasks is how many processes and threads a job may have.
const maxTasks = 512

// overhead is what a group may hold beyond what its process allocates: pages of
// the program and its libraries, pipes, page tables.
const overhead = 64 << 20

// groups is the part of the tree that is ours. A nil one makes no groups.
type groups struct {
	dir         string
	controllers []string // of memory, pids and cpu

	last atomic.Int64 // number that was given

	mu   sync.Mutex
	left []string // groups that were not empty yet when their process had ended
}

// group is that of one process. A nil one does nothing.
type group struct {
	of  *groups
	dir string
}

// openGroups returns the part of the tree that is ours, or nil and why there is
// none.
func openGroups() (*groups, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mount, path := mountOf(mounts), pathOf(own)
	if mount == "" || path == "" {
		return nil, errors.New("there are no control groups of version 2")
	}
	return openGroupsAt(mount, path)
}

// mountOf returns where control groups of version 2 are mounted (proc(5),
// mountinfo), or "".
func mountOf(mountinfo []byte) string {
	for line := range strings.Lines(string(mountinfo)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if kind, _, _ := strings.Cut(after, " "); kind == "cgroup2" && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

// pathOf returns the group that a process is in, below the mount, or "".
func pathOf(cgroup []byte) string {
	for line := range strings.Lines(string(cgroup)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path
		}
	}
	return ""
}

// openGroupsAt is openGroups for a process in the group path below mount.
func openGroupsAt(mount, path string) (*groups, error) {
	dir := filepath.Join(mount, path)
	moved := filepath.Base(path) == serverGroup
	if moved {
		dir, path = filepath.Dir(dir), filepath.Dir(path)
	}
	g := &groups{dir: dir}
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	root := errors.Is(err, os.ErrNotExist) // which may have both processes and groups
	switch {
	case root && (path != "/" || os.Getuid() != 0), !root && path != "/" && !delegated(dir):
		return nil, fmt.Errorf("the control group %s is not delegated to this server", dir)
	case !root && !moved:
		if err := g.move(serverGroup); err != nil {
			return nil, err
		}
		moved = true
	}
	g.enable()
	// That it can be done shows only when it is done.
	x, err := g.make(&Limits{})
	if err != nil {
		return nil, err
	}
	x.close()
	g.sweep()
	return g, nil
}

// delegated reports whether a group was given to us to do with as we like: by
// an attribute that systemd sets, or because it belongs to our user.
func delegated(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		b := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, b); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Uid != 0 && int(st.Uid) == os.Getuid()
}

// move moves this process into a group below: only one without processes can
// hand on its controllers.
func (g *groups) move(name string) error {
	dir := filepath.Join(g.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return write(dir, "cgroup.procs", "0")
}

// enable hands on the controllers that there are, and notes them.
func (g *groups) enable() {
	for _, c := range []string{"memory", "pids", "cpu"} {
		write(g.dir, "cgroup.subtree_control", "+"+c) // fails where there is none
	}
	b, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.subtree_control"))
	for c := range strings.FieldsSeq(string(b)) {
		if c == "memory" || c == "pids" || c == "cpu" {
			g.controllers = append(g.controllers, c)
		}
	}
	slices.Sort(g.controllers)
}

// String says what a group is good for.
func (g *groups) String() string {
	if g == nil {
		return ""
	}
	return strings.Join(append([]string{"kill"}, g.controllers...), " ")
}

// make makes a group for a process with these limits.
func (g *groups) make(l *Limits) (*group, error) {
	x, err := &group{of: g}, os.ErrExist
	for errors.Is(err, os.ErrExist) { // of one who had our process id, or of another Tool
		x.dir = filepath.Join(g.dir, fmt.Sprint(jobGroup, os.Getpid(), "-", g.last.Add(1)))
		err = os.Mkdir(x.dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	if err := x.limit(l); err != nil {
		os.Remove(x.dir)
		return nil, err
	}
	return x, nil
}

// limit sets what the processes of the group may take together.
func (x *group) limit(l *Limits) error {
	for _, c := range x.of.controllers {
		var err error
		switch c {
		case "memory":
			err = write(x.dir, "memory.max", strconv.FormatInt(l.memory()+overhead, 10))
			write(x.dir, "memory.swap.max", "0") // missing where there is no swap
			write(x.dir, "memory.oom.group", "1")
		case "pids":
			err = write(x.dir, "pids.max", strconv.Itoa(maxTasks))
		case "cpu":
			// The niceness of a process counts only inside of its group.
			if l.Nice < lowest {
				err = write(x.dir, "cpu.weight.nice", strconv.Itoa(l.Nice))
			} else if write(x.dir, "cpu.idle", "1") != nil { // Linux 5.15
				err = write(x.dir, "cpu.weight", "1")
			}
			if err == nil && l.Cores > 0 {
				err = write(x.dir, "cpu.max", fmt.Sprint(l.Cores*100_000, " ", 100_000))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start starts a command in a group of its own, or without one where that
// cannot be made any more.
func (g *groups) start(cmd *exec.Cmd, l *Limits) (*group, error) {
	if g == nil {
		return nil, cmd.Start()
	}
	x, err := g.make(l)
	if err != nil {
		return nil, cmd.Start()
	}
	fd, err := unix.Open(x.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		err = cmd.Start()
	}
	if err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// kill ends whoever is in the group.
func (x *group) kill() {
	if x == nil {
		return
	}
	if write(x.dir, "cgroup.kill", "1") == nil { // Linux 5.14
		return
	}
	b, _ := os.ReadFile(filepath.Join(x.dir, "cgroup.procs"))
	for line := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// close ends whoever is in the group, waits until it is empty, and removes it.
func (x *group) close() {
	if x == nil {
		return
	}
	if os.Remove(x.dir) == nil { // as nearly always
		return
	}
	x.kill()
	x.awaitEmpty(time.Second)
	if os.Remove(x.dir) != nil {
		x.of.mu.Lock()
		x.of.left = append(x.of.left, x.dir)
		x.of.mu.Unlock()
	}
}

// awaitEmpty waits until nobody is in the group, who have all been killed.
func (x *group) awaitEmpty(patience time.Duration) {
	fd, err := unix.Open(filepath.Join(x.dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for until := time.Now().Add(patience); ; {
		b := make([]byte, 256)
		n, err := unix.Pread(fd, b, 0)
		left := time.Until(until)
		if err != nil || left <= 0 || bytes.Contains(b[:n], []byte("populated 0")) {
			return
		}
		// A change of the file is an event.
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(left.Milliseconds())+1)
	}
}

// sweep removes what servers that have died have left, and what we had to
// leave.
func (g *groups) sweep() {
	g.mu.Lock()
	left := g.left
	g.left = nil
	g.mu.Unlock()
	for _, dir := range left {
		(&group{g, dir}).close()
	}
	list, _ := filepath.Glob(filepath.Join(g.dir, jobGroup+"*-*"))
	for _, dir := range list {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), jobGroup), "-")
		if pid, err := strconv.Atoi(owner); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			(&group{g, dir}).close()
		}
	}
}

// write writes a value into a file of a group.
func write(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
