//go:build !linux

package ffmpeg

import (
	"errors"
	"os/exec"
)

// Sandbox has no way to lock a process in but on Linux.
func Sandbox([]string) error {
	return errors.New("ffmpeg is run on Linux only, where it can be locked in")
}

// mode is how a process is started; here it is not.
type mode struct{ namespaces bool }

func modes() []mode { return nil }

func (mode) command(self string, args []string) *exec.Cmd { return exec.Command(self, args...) }

func (mode) tasks() int { return 0 }

func (mode) lend(*exec.Cmd, []string) {}

func awaitExit(int) {}

func programFiles(path string) (exec, read []string) { return nil, nil }

type filter []byte

func inner() filter { return nil }

func (f filter) bytes() []byte { return f }

// groups and group are control groups, which are Linux's.
type (
	groups struct{}
	group  struct{}
)

func openGroups() (*groups, error) { return nil, errors.New("control groups are Linux's") }

func (*groups) String() string { return "" }

func (*groups) start(cmd *exec.Cmd, _ *Limits) (*group, error) { return nil, cmd.Start() }

func (*group) kill()  {}
func (*group) close() {}
