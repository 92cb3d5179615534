package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// DataFolder returns the folder in which the node keeps what has to outlive it:
// Config.Data or, where that is empty, that of the service manager
// (STATE_DIRECTORY), that of the user (XDG_STATE_HOME/weir, or
// ~/.local/state/weir), or of root /var/lib/weir.
func (c *Config) DataFolder() (string, error) {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	xdg := os.Getenv("XDG_STATE_HOME")
	switch {
	case c.Data != "":
		return filepath.Abs(c.Data)
	case filepath.IsAbs(state):
		return state, nil
	case filepath.IsAbs(xdg):
		return filepath.Join(xdg, "weir"), nil
	case os.Getuid() == 0:
		return "/var/lib/weir", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("there is no folder to keep data in: set data: in weir.yaml")
	}
	return filepath.Join(home, ".local", "state", "weir"), nil
}

// dataFolder is the data folder of a node that runs.
type dataFolder struct {
	path string
	lock *os.File
}

// openData makes the folder, if need be, and takes it for this process.
func openData(path string) (*dataFolder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w; set data: in weir.yaml to a folder that weir may write to", err)
	}
	name := filepath.Join(path, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w; set data: in weir.yaml to a folder that weir may write to", err)
	}
	if err := lockFile(f); err != nil {
		owner := make([]byte, 20)
		n, _ := f.ReadAt(owner, 0)
		f.Close()
		if pid, err := strconv.Atoi(strings.TrimSpace(string(owner[:n]))); err == nil {
			return nil, fmt.Errorf("data folder: %s belongs to the process %d, which runs: stop it, or set data: in weir.yaml to another folder", path, pid)
		}
		return nil, fmt.Errorf("data folder: %s belongs to another process: stop it, or set data: in weir.yaml to another folder", path)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &dataFolder{path, f}, nil
}

// sub returns the path of a folder in the data folder.
func (d *dataFolder) sub(name string) string { return filepath.Join(d.path, name) }

// close gives the folder back.
func (d *dataFolder) close() { d.lock.Close() }

// DataFolder returns the folder in which the node keeps what outlives it.
func (n *Node) DataFolder() string { return n.data.path }
