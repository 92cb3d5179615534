package ffmpeg

import "encoding/json"

// SandboxArg is the first argument by which this program is told to lock itself
// in and to become another one. Whoever starts jobs calls Sandbox at the very
// beginning of its main when it sees it.
const SandboxArg = "internal-sandbox"

// SandboxFailed is the exit status of a program in which Sandbox has returned.
const SandboxFailed = 125

// spec is what the sandbox is told, as JSON in its second argument. The
// command line of the program follows.
type spec struct {
	Path    string   // of the program
	Read    []string // files and folders that it may read
	Exec    []string // files that it may execute
	Devices []string // that it may read, write and control
	Memory  int64    // bytes
	CPU     int64    // seconds; 0 is no limit
	Tasks   int      // processes and threads
	Nice    int
	Parent  int    // process without which it must not live; 0 where it cannot see it
	Forks   bool   // it is the fork server
	Preload string // library to load into the program
	Report  bool   // say on standard output what has been applied, and run nothing
}

// Layers is what keeps a job locked in on this machine.
type Layers struct {
	Landlock   int  `json:"landlock"`   // version; 0 is none: then files are kept from it by the user alone
	Seccomp    bool `json:"seccomp"`    // system calls
	Namespaces bool `json:"namespaces"` // no network, no other processes
	User       bool `json:"user"`       // another user than the server's
	Rlimits    bool `json:"rlimits"`    // memory, CPU, files

	// Cgroup is what control groups do, in words: "kill", which is that nothing
	// outlives a job, and of "cpu", "memory" and "pids" those that they limit.
	// It is empty where none may be made.
	Cgroup string `json:"cgroup"`
}

// Strong reports whether a job can neither open files nor talk to anybody.
func (l Layers) Strong() bool { return l.Landlock > 0 && l.Seccomp }

// marshal writes s as an argument.
func (s *spec) marshal() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(b)
}
