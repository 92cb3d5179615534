package ffmpeg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Reason says why a process ended badly.
type Reason uint8

const (
	Failed     Reason = iota + 1 // it said so, or crashed
	Killed                       // somebody called Kill, or the context ended
	TimedOut                     // Limits.Time
	Stalled                      // Limits.Stall
	Flooded                      // Output.Max
	NotStarted                   // the sandbox could not become it
)

var reasons = [...]string{"unknown", "failed", "was ended", "took too long", "made no progress", "wrote too much", "could not be started"}

func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return reasons[0]
}

// Error is how a process ended badly.
type Error struct {
	Reason Reason
	Status string // exit status or signal
	Stderr string // the end of what it said; it may hold what a stranger sent
}

func (e *Error) Error() string {
	s := "ffmpeg " + e.Reason.String()
	if e.Reason == Failed {
		s += ": " + e.Status
	}
	if line := lastLine(e.Stderr); line != "" {
		s += fmt.Sprintf(": %.200q", line)
	}
	return s
}

// Is reports an ErrUnavailable where ffmpeg could not even be started.
func (e *Error) Is(target error) bool { return target == ErrUnavailable && e.Reason == NotStarted }

// lastLine returns the last line of s that is not blank.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// Usage is what a process has taken.
type Usage struct {
	CPU    time.Duration
	Memory int64 // bytes, at most
}

// Process is a running ffmpeg. Its pipes are used by one goroutine each;
// everything else may be called from any.
type Process struct {
	tool    *Tool
	cmd     *exec.Cmd
	inputs  []*InputPipe
	outputs []*OutputPipe
	stderr  ring

	owed   atomic.Int64 // since when output is owed for input, ns after start; 0: none is
	read   atomic.Int64 // when some was last read
	start  time.Time
	stall  time.Duration
	reason atomic.Uint32 // Reason for which it was killed

	group *group // of control; nil where there are none

	mu       sync.Mutex
	pid      int // 0 before it starts, and when it has ended: the number may then be another's
	progress Progress

	done  chan struct{}
	err   error
	usage Usage
}

// InputPipe is the writing end of an input. Closing it tells ffmpeg that the
// input is over.
type InputPipe struct {
	p     *Process
	file  *os.File
	since atomic.Int64 // when the write began that is under way, ns after the start; 0: none is
}

func (i *InputPipe) Write(b []byte) (int, error) {
	now := int64(time.Since(i.p.start)) + 1
	i.p.owed.CompareAndSwap(0, now)
	i.since.Store(now)
	defer i.since.Store(0)
	return i.file.Write(b)
}

// Close ends the input.
func (i *InputPipe) Close() error { return i.file.Close() }

// OutputPipe is the reading end of an output. Who doesn't read it makes its
// process stall.
type OutputPipe struct {
	p     *Process
	file  *os.File
	max   int64
	total int64
}

func (o *OutputPipe) Read(b []byte) (int, error) {
	n, err := o.file.Read(b)
	if n > 0 {
		o.p.read.Store(int64(time.Since(o.p.start)))
		o.p.owed.Store(0)
		o.total += int64(n)
		if o.max > 0 && o.total > o.max {
			o.p.kill(Flooded)
		}
	}
	return n, err
}

// Progress is a running account that ffmpeg gives of itself.
type Progress struct {
	At      time.Time // when it was given
	Frames  int64
	Dropped int64
	Doubled int64
	Speed   float64 // 1 is real time
	Out     time.Duration
}

// Start starts a process for j. It is killed when ctx ends or the server dies.
// The caller reads all of its outputs, and ends it with Close.
func (t *Tool) Start(ctx context.Context, j *Job) (*Process, error) {
	f, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	return t.start(ctx, f, f.mode, j)
}

func newProcess(t *Tool, l *Limits) *Process {
	return &Process{tool: t, start: time.Now(), stall: l.Stall, done: make(chan struct{})}
}

// maxStderr is how many bytes a second a process may say about its troubles;
// one that says more has to wait.
const maxStderr = 256 << 10

// start starts a process in the given mode.
func (t *Tool) start(ctx context.Context, f *found, m mode, j *Job) (p *Process, err error) {
	p = newProcess(t, &j.Limits)
	var theirs []*os.File // ends of pipes that are the child's
	defer func() {
		for _, file := range theirs {
			file.Close()
		}
		if err != nil {
			p.closePipes()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}

	// The first input and output are 0 and 1, others and the progress from 3 on.
	var extra []*os.File
	give := func(file *os.File, first **os.File) (fd int) {
		theirs = append(theirs, file)
		if *first == nil {
			*first = file
			return 0
		}
		extra = append(extra, file)
		return 2 + len(extra)
	}
	var stdin, stdout *os.File
	var in, out []int
	for range j.Inputs {
		r, w := pipe()
		if err != nil {
			return nil, err
		}
		in = append(in, give(r, &stdin))
		p.inputs = append(p.inputs, &InputPipe{p: p, file: w})
	}
	for _, o := range j.Outputs {
		r, w := pipe()
		if err != nil {
			return nil, err
		}
		fd := give(w, &stdout)
		out = append(out, max(fd, 1))
		p.outputs = append(p.outputs, &OutputPipe{p: p, file: r, max: o.Max})
	}
	errR, errW := pipe()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, errW)
	var progR *os.File
	progFD := -1
	if j.Progress {
		r, w := pipe()
		if err != nil {
			errR.Close()
			return nil, err
		}
		theirs, extra = append(theirs, w), append(extra, w)
		progR, progFD = r, 2+len(extra)
	}
	closeOurs := func() {
		errR.Close()
		if progR != nil {
			progR.Close()
		}
	}
	args, err := j.args(in, out, progFD)
	if err != nil {
		closeOurs()
		return nil, fmt.Errorf("ffmpeg command line: %w", err)
	}
	s := f.spec(m, &j.Limits)
	s.Read = append(s.Read, j.Files...)
	s.Devices = j.Devices
	p.cmd = m.command(t.opt.Self, append([]string{"weir", SandboxArg, s.marshal(), f.path}, args...))
	m.lend(p.cmd, j.Devices)
	p.cmd.Stderr, p.cmd.ExtraFiles = errW, extra
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if err := t.launch(ctx, f, p, &j.Limits, errR, progR); err != nil {
		return nil, err
	}
	return p, nil
}

// launch starts p, whose command is complete. It closes errR and progR, now or
// when the process has ended.
func (t *Tool) launch(ctx context.Context, f *found, p *Process, l *Limits, errR, progR *os.File) error {
	err := t.procs.enter(p)
	if err == nil {
		if p.group, err = f.groups.start(p.cmd, l); err != nil {
			t.procs.leave(p)
		}
	}
	if err != nil {
		errR.Close()
		if progR != nil {
			progR.Close()
		}
		return fmt.Errorf("start ffmpeg: %w", err)
	}
	t.procs.started.Add(1)
	p.mu.Lock()
	p.pid = p.cmd.Process.Pid
	if p.reason.Load() != 0 {
		p.killAll()
	}
	p.mu.Unlock()
	go p.supervise(ctx, l, errR, progR) // ends with the process
	return nil
}

// environment is all that a process sees of ours.
var environment = []string{"LC_ALL=C", "PATH=/nonexistent", "HOME=/nonexistent", "AV_LOG_FORCE_NOCOLOR=1"}

// spec returns what locks a job in.
func (f *found) spec(m mode, l *Limits) *spec {
	s := &spec{
		Path: f.path, Exec: f.exec, Read: append([]string(nil), f.read...),
		Memory: l.memory(), CPU: int64((l.CPU + time.Second - 1) / time.Second), Nice: l.Nice, Tasks: m.tasks(),
	}
	if !m.namespaces {
		s.Parent = os.Getpid()
	}
	return s
}

// supervise waits for the process, and ends it when it has to end.
func (p *Process) supervise(ctx context.Context, l *Limits, errR, progR *os.File) {
	defer p.tool.procs.leave(p)
	stopped := context.AfterFunc(ctx, p.Kill)
	defer stopped()
	if l.Time > 0 {
		t := time.AfterFunc(l.Time, func() { p.kill(TimedOut) })
		defer t.Stop()
	}
	if l.Stall > 0 {
		go p.watch() // ends with the process
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.listen(errR) }) // ends with the process, see below
	if progR != nil {
		readers.Go(func() { p.follow(progR) }) // the same
	}
	p.reap()
	// Whoever might still hold the other end is not waited for.
	errR.SetReadDeadline(time.Now().Add(time.Second))
	if progR != nil {
		progR.SetReadDeadline(time.Now().Add(time.Second))
	}
	readers.Wait()
	for _, i := range p.inputs { // a writer that waits for room ends
		i.file.Close()
	}
	close(p.done)
}

// reap waits for the process, kills what is left of its groups, and notes how
// it went.
func (p *Process) reap() {
	awaitExit(p.pid)
	p.mu.Lock()
	p.killAll()
	p.pid = 0
	p.mu.Unlock()
	err := p.cmd.Wait()
	p.group.close()
	if s := p.cmd.ProcessState; s != nil {
		p.usage.CPU = s.UserTime() + s.SystemTime()
		if r, ok := s.SysUsage().(*syscall.Rusage); ok {
			p.usage.Memory = int64(r.Maxrss) << 10
		}
	}
	p.tool.procs.cpu.Add(int64(p.usage.CPU))
	reason := Reason(p.reason.Load())
	if err == nil && reason == 0 {
		return
	}
	p.tool.procs.failed.Add(1)
	e := &Error{Reason: cmp.Or(reason, Failed)}
	if err != nil {
		e.Status = err.Error()
	}
	if s := p.cmd.ProcessState; reason == 0 && s != nil && s.ExitCode() == SandboxFailed {
		e.Reason = NotStarted
		p.tool.forget()
	}
	p.err = e
}

// listen keeps what the process says about its troubles.
func (p *Process) listen(r *os.File) {
	defer r.Close()
	copyLimited(&p.stderr, r)
}

// copyLimited copies what a process says, no faster than maxStderr.
func copyLimited(w io.Writer, r io.Reader) {
	l := rate.NewLimiter(maxStderr, 1<<20)
	b := make([]byte, 4<<10)
	for {
		n, err := r.Read(b)
		w.Write(b[:n])
		if err != nil {
			return
		}
		l.WaitN(context.Background(), n) // who floods us waits; nobody else does
	}
}

// watch kills the process when it owes output for too long.
func (p *Process) watch() {
	t := time.NewTicker(max(p.stall/8, 10*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			if since := p.idle(); since != 0 && time.Since(p.start)-time.Duration(since) > p.stall {
				p.kill(Stalled)
			}
		}
	}
}

// idle returns since when the process has owed output and given none; 0: it owes none.
func (p *Process) idle() int64 {
	if since := p.owed.Load(); since != 0 {
		return since
	}
	// What was read last may have been owed for what came before: a write that
	// has no end since then gets nothing.
	for _, i := range p.inputs {
		if since := i.since.Load(); since != 0 {
			return max(since, p.read.Load())
		}
	}
	return 0
}

// Kill ends the process and all of its group at once.
func (p *Process) Kill() { p.kill(Killed) }

func (p *Process) kill(r Reason) {
	p.reason.CompareAndSwap(0, uint32(r))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 {
		p.killAll()
	}
}

// killAll kills the process and all that it has started. p.mu is held, and the
// process was not waited for.
func (p *Process) killAll() {
	killGroup(p.pid)
	p.group.kill()
}

// Input returns the i-th input.
func (p *Process) Input(i int) *InputPipe { return p.inputs[i] }

// Output returns the i-th output.
func (p *Process) Output(i int) *OutputPipe { return p.outputs[i] }

// Done is closed when the process has ended and been waited for. What it wrote
// before may still be in its outputs.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how it ended, nil or an *Error. It is valid once Done is closed.
func (p *Process) Err() error {
	if e, ok := p.err.(*Error); ok {
		e.Stderr = p.stderr.String()
	}
	return p.err
}

// Usage returns what it has taken. It is valid once Done is closed.
func (p *Process) Usage() Usage { return p.usage }

// Stderr returns the last 64 KiB of what it has said about its troubles.
func (p *Process) Stderr() string { return p.stderr.String() }

// Progress returns the last account that it gave of itself, if the job asked
// for it.
func (p *Process) Progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress
}

// Close kills the process unless it has ended, waits for it, and closes its
// pipes.
func (p *Process) Close() error {
	p.Kill()
	<-p.done
	p.closePipes()
	return p.Err()
}

func (p *Process) closePipes() {
	for _, i := range p.inputs {
		i.file.Close()
	}
	for _, o := range p.outputs {
		o.file.Close()
	}
}

// Run runs a job that has one input and one output, and returns what comes out
// for in. Short jobs of one kind are forked from a warm process where that is
// possible.
func (t *Tool) Run(ctx context.Context, j *Job, in []byte) ([]byte, Usage, error) {
	if len(j.Inputs) != 1 || len(j.Outputs) != 1 {
		return nil, Usage{}, errors.New("ffmpeg: Run is for one input and one output")
	}
	f, err := t.look(ctx)
	if err != nil {
		return nil, Usage{}, err
	}
	missed := false
	if f.canFork(j) {
		out, use, err := t.runWarm(ctx, f, j, in)
		if !errors.Is(err, errCold) {
			return out, use, err
		}
		missed = errors.Is(err, errMissed)
	}
	p, err := t.start(ctx, f, f.mode, j)
	if err != nil {
		return nil, Usage{}, err
	}
	defer p.Close()
	go func() { // ends when all is written, or with the process
		p.Input(0).Write(in)
		p.Input(0).Close()
	}()
	go func() { // ends with the process, which somebody it has started may outlive
		<-p.Done()
		p.Output(0).file.SetReadDeadline(time.Now().Add(5 * time.Second))
	}()
	out, readErr := io.ReadAll(p.Output(0))
	<-p.Done()
	if err := p.Err(); err != nil {
		return nil, p.Usage(), err
	}
	if missed {
		t.warm.missed(t.log)
	}
	return out, p.Usage(), readErr
}
