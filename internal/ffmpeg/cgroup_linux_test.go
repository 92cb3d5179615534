package ffmpeg

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWhereControlGroupsAre(t *testing.T) {
	const hybrid = `24 1 254:0 / / rw,relatime - ext4 /dev/root rw
33 32 0:28 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
42 32 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	if got := mountOf([]byte(hybrid)); got != "/sys/fs/cgroup/unified" {
		t.Errorf("mountOf = %q", got)
	}
	if got := mountOf([]byte("24 1 254:0 / / rw - ext4 cgroup2 rw\n")); got != "" {
		t.Errorf("mountOf = %q of none", got)
	}
	if got := pathOf([]byte("4:memory:/x\n0::/system.slice/weir.service\n")); got != "/system.slice/weir.service" {
		t.Errorf("pathOf = %q", got)
	}
	if got := pathOf([]byte("4:memory:/x\n")); got != "" {
		t.Errorf("pathOf = %q of none", got)
	}
}

// Nothing is touched that nobody has said is ours.
func TestForeignControlGroup(t *testing.T) {
	mount := t.TempDir()
	own := filepath.Join(mount, "system.slice/weir.service")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.type"), []byte("domain\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("what belongs to the user of a server that is not root is the server's")
	}
	if g, err := openGroupsAt(mount, "/system.slice/weir.service"); err == nil {
		t.Errorf("took %s", g.dir)
	}
	if list, _ := os.ReadDir(own); len(list) != 1 {
		t.Errorf("made %v", list)
	}
}

// A job runs in a control group of its own, with limits, that is gone when the
// job is.
func TestControlGroup(t *testing.T) {
	tool := newFakeNamed(t, unfiltered)
	g := tool.found.groups
	if g == nil {
		_, why := openGroups()
		t.Skip(why)
	}
	t.Logf("%s: %s", g.dir, g)
	if h := tool.Health(); h.Layers.Cgroup != g.String() || !strings.HasPrefix(g.String(), "kill") {
		t.Errorf("Health says %q of %q", h.Layers.Cgroup, g)
	}
	p, err := tool.Start(t.Context(), job(Limits{Memory: 128 << 20, Nice: 19, Cores: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.cmd.Process.Pid))
	if path := pathOf(b); err != nil || filepath.Base(path) != filepath.Base(p.group.dir) {
		t.Errorf("it is in the group %q, %v, want %s", path, err, p.group.dir)
	}
	for file, want := range map[string]string{
		"memory.max": fmt.Sprint(128<<20 + overhead), "pids.max": fmt.Sprint(maxTasks), "cpu.max": "100000 100000", "cpu.idle": "1",
	} {
		controller, _, _ := strings.Cut(file, ".")
		if !slices.Contains(g.controllers, controller) {
			t.Logf("the controller %s is not ours here", controller)
			continue
		}
		b, err := os.ReadFile(filepath.Join(p.group.dir, file))
		if got := strings.TrimSpace(string(b)); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", file, got, err, want)
		}
	}
	dir := p.group.dir
	p.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group is still there: %v", err)
	}
	nothingLeft(t, tool)
}

// Control groups alone hold one that nothing else does: its memory, and how
// many processes it may have.
func TestControlGroupHolds(t *testing.T) {
	g, err := openGroups()
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		controller, verb string
		want             Reason
		says             string
	}{
		{"memory", "memory", Failed, ""},
		{"pids", "bomb", 0, "511 processes: Resource temporarily unavailable\n"},
	} {
		t.Run(c.controller, func(t *testing.T) {
			if !slices.Contains(g.controllers, c.controller) {
				t.Skipf("the controller %s is not ours here", c.controller)
			}
			tool := New(Options{Self: "/proc/self/exe", Path: buildEvil(t, unfiltered)})
			defer tool.Close()
			p, err := tool.Start(t.Context(), job(Limits{Memory: 128 << 20}))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			io.WriteString(p.Input(0), c.verb)
			out, err := io.ReadAll(p.Output(0))
			<-p.Done()
			var e *Error
			if errors.As(p.Err(), &e); (e == nil) != (c.want == 0) || e != nil && e.Reason != c.want || string(out) != c.says || err != nil {
				t.Errorf("it ended with %v and said %q, %v", p.Err(), out, err)
			}
			if use := p.Usage(); use.Memory > 128<<20+overhead+8<<20 {
				t.Errorf("it has had %d MB", use.Memory>>20)
			}
			nothingLeft(t, tool)
		})
	}
}

// What a server that was killed has left is removed by the next one; groups of
// one that lives are not touched.
func TestControlGroupsAreSwept(t *testing.T) {
	g, err := openGroups()
	if err != nil {
		t.Skip(err)
	}
	dead := filepath.Join(g.dir, jobGroup+"2147483646-1") // more than there can be
	if err := os.Mkdir(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	living, err := g.make(&Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer living.close()
	if _, err := openGroups(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group of a dead server: %v", err)
	}
	if _, err := os.Stat(living.dir); err != nil {
		t.Error(err)
	}
}
