// Package ffmpeg runs ffmpeg: one locked-in, supervised child for each job.
//
// Decoders are large, are written in C, and are fed by strangers here. So a
// child is treated as if it were the stranger. It gets pipes and nothing else: no
// network, no files but its own libraries, no other processes, bounded memory,
// CPU and time, the lowest priority. What locks it in depends on the machine:
// namespaces, Landlock, seccomp, another user, control groups, resource limits; see [Layers].
// The program re-executes itself with [SandboxArg] to put these on, because
// that has to happen between fork and exec; [Sandbox] is what it then does.
//
// A [Tool] is an ffmpeg of this machine, a [Job] what it shall do, a [Process]
// one that does it. A [Pool] bounds how many do. Nothing here decides to start
// a process again: who started it does.
package ffmpeg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// ErrUnavailable is wrapped by the error of a job that cannot run because there
// is no ffmpeg here, or none that may run.
var ErrUnavailable = errors.New("ffmpeg is not available")

// Options are a Tool's settings.
type Options struct {
	Log *slog.Logger

	Path string // of ffmpeg; default: the one in PATH
	// Self is the program that calls Sandbox when its first argument is
	// SandboxArg: ours. Without it no job can run.
	Self string
	// ForkServer is the library of the fork server, which makes short jobs
	// cheap; see warm.go. Without it each of them starts an ffmpeg of its own.
	ForkServer string
	// Strict refuses to run jobs where Layers are not Strong.
	Strict bool
}

// Tool runs jobs with one ffmpeg. Its methods may be called from any
// goroutine.
type Tool struct {
	opt Options
	log *slog.Logger

	finding sync.Mutex // held while somebody finds out; before mu

	mu      sync.Mutex
	checked time.Time // when the last attempt to find out what is there ended
	found   *found
	missing error // why nothing was found
	closed  bool

	warm  warm
	procs table
}

// found is what is known of the ffmpeg of this machine.
type found struct {
	path    string
	exec    []string // files that it consists of
	read    []string
	mode    mode
	groups  *groups // nil: there are none
	layers  Layers
	version string
	codecs  map[string]bool // encoders and decoders: "libx264", "h264"
	library string          // the fork server's; empty: there is none
}

// Health describes the ffmpeg of this machine.
type Health struct {
	Path    string
	Version string
	Error   string // why jobs cannot run, or empty
	Layers  Layers
	// ForkServer reports whether short jobs are forked from a warm process.
	ForkServer bool

	Running         int64
	Started, Failed int64
	CPU             time.Duration
}

// New returns a Tool. It does not look for ffmpeg before the first job, or
// Ready.
func New(o Options) *Tool {
	return &Tool{opt: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
}

// retry is how long a machine without ffmpeg is believed to have none.
const retry = time.Minute

// Ready finds out what the machine has, if that is not known, and returns why
// no job can run, an ErrUnavailable, or nil.
func (t *Tool) Ready(ctx context.Context) error {
	_, err := t.look(ctx)
	return err
}

func (t *Tool) look(ctx context.Context) (*found, error) {
	if f, err := t.known(); f != nil || err != nil {
		return f, err
	}
	t.finding.Lock()
	defer t.finding.Unlock()
	if f, err := t.known(); f != nil || err != nil { // somebody else found out
		return f, err
	}
	f, err := t.find(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked = time.Now()
	if err != nil {
		t.missing = fmt.Errorf("%w: %w", ErrUnavailable, err)
		return nil, t.missing
	}
	t.found, t.missing = f, nil
	return f, nil
}

// known returns what was found, or why there is nothing; neither when that has
// to be found out.
func (t *Tool) known() (*found, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil, fmt.Errorf("%w: the server is shutting down", ErrUnavailable)
	case t.found == nil && t.missing != nil && time.Since(t.checked) < retry:
		return nil, t.missing
	}
	return t.found, nil
}

// forget has the next job find out anew what there is: what was found is not
// there any more, or has been replaced.
func (t *Tool) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found = nil
}

// find looks at the machine.
func (t *Tool) find(ctx context.Context) (*found, error) {
	if t.opt.Self == "" {
		return nil, errors.New("this program cannot lock it in")
	}
	path, err := exec.LookPath(cmp.Or(t.opt.Path, "ffmpeg"))
	if err != nil {
		return nil, fmt.Errorf("%w; install it, or set ffmpeg.path", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	f := &found{path: path, codecs: make(map[string]bool)}
	f.exec, f.read = programFiles(path)
	if err := t.lockIn(ctx, f); err != nil {
		return nil, err
	}
	if t.opt.Strict && !f.layers.Strong() {
		return nil, errors.New("this kernel has no Landlock or no seccomp, and ffmpeg.strict is set")
	}
	if err := t.probe(ctx, f); err != nil {
		return nil, err
	}
	if t.opt.ForkServer != "" && f.layers.Seccomp {
		if _, err := os.Stat(t.opt.ForkServer); err == nil {
			f.library = t.opt.ForkServer
		}
	}
	return f, nil
}

// Has reports whether ffmpeg has an encoder or a decoder of that name.
func (t *Tool) Has(ctx context.Context, codec string) bool {
	f, err := t.look(ctx)
	return err == nil && f.codecs[codec]
}

// Health returns what is known, without looking for more than that.
func (t *Tool) Health() Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := Health{Running: int64(t.procs.count()), Started: t.procs.started.Load(), Failed: t.procs.failed.Load(), CPU: time.Duration(t.procs.cpu.Load())}
	if f := t.found; f != nil {
		h.Path, h.Version, h.Layers, h.ForkServer = f.path, f.version, f.layers, f.library != ""
	}
	if t.missing != nil {
		h.Error = t.missing.Error()
	}
	return h
}

// Close refuses further jobs, ends those that run, and waits for them.
func (t *Tool) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.procs.close()
	t.warm.close()
}
