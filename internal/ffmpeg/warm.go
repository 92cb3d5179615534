package ffmpeg

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Loading ffmpeg's libraries costs ten times what a picture costs. So where the
// fork server is there (forkserver/forkserver.c says how it works), short jobs
// are children of a process that has loaded them already. Each job is still a
// process of its own, that has seen nobody else's bytes, with the same limits
// and a stricter filter of system calls; only its beginning is shared.

// warm is the fork servers of a Tool, by the limits of their jobs.
type warm struct {
	mu     sync.Mutex
	idle   map[Limits][]*forkServer
	broken time.Time // when one has failed to start, or at its first job
	whole  time.Time // until then children get all libraries: one has missed what they are not given otherwise
}

// Fork servers do not last: after so many jobs, and so long without one.
const (
	forkServerJobs = 1000
	forkServerIdle = time.Minute

	// A frame may have been made to miss a library, so what it costs is not for ever.
	forkServerWhole = time.Hour
)

// forkServer is a process that forks jobs, one at a time.
type forkServer struct {
	p     *Process
	conn  *net.UnixConn
	slim  bool // its children have only the libraries that a picture needs
	jobs  int
	timer *time.Timer // ends it when it has been idle
}

// errCold says that a job has to start a process of its own.
var errCold = errors.New("no fork server")

// errMissed is an errCold: the job may have wanted a library that the fork
// server does not give to its children.
var errMissed = fmt.Errorf("%w that has all libraries", errCold)

// canFork reports whether j may be a child of a fork server.
func (f *found) canFork(j *Job) bool {
	return f.library != "" && !j.Progress && len(j.Files) == 0 && len(j.Devices) == 0 && j.Limits.Time > 0
}

// take returns a fork server that is idle, or a new one.
func (t *Tool) take(ctx context.Context, f *found, l Limits) (*forkServer, error) {
	w := &t.warm
	w.mu.Lock()
	for list := w.idle[l]; len(list) > 0; {
		s := list[len(list)-1]
		list = list[:len(list)-1]
		w.idle[l] = list
		if !s.timer.Stop() {
			continue // it is being ended
		}
		select {
		case <-s.p.Done(): // somebody has killed it
			s.close()
			continue
		default:
		}
		w.mu.Unlock()
		return s, nil
	}
	broken := !w.broken.IsZero() && time.Since(w.broken) < retry
	w.mu.Unlock()
	if broken {
		return nil, errCold
	}
	s, err := t.startForkServer(ctx, f, l)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
		w.fails(t.log, err)
		err = errCold
	}
	return s, err
}

// give takes back a fork server whose job is over.
func (t *Tool) give(l Limits, s *forkServer) {
	s.jobs++
	w := &t.warm
	w.mu.Lock()
	if s.jobs >= forkServerJobs || s.slim != w.slim() {
		w.mu.Unlock()
		s.close()
		return
	}
	defer w.mu.Unlock()
	if w.idle == nil {
		w.idle = make(map[Limits][]*forkServer)
	}
	w.idle[l] = append(w.idle[l], s)
	s.timer = time.AfterFunc(forkServerIdle, func() {
		w.mu.Lock()
		for i, x := range w.idle[l] {
			if x == s {
				w.idle[l] = append(w.idle[l][:i:i], w.idle[l][i+1:]...)
				break
			}
		}
		w.mu.Unlock()
		s.close()
	})
}

// startForkServer starts one and hands it the filter of its children.
func (t *Tool) startForkServer(ctx context.Context, f *found, l Limits) (*forkServer, error) {
	syscall.ForkLock.RLock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fork server"), os.NewFile(uintptr(pair[1]), "fork server")
	defer theirs.Close()
	c, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	s := &forkServer{conn: c.(*net.UnixConn)}
	errR, errW, err := os.Pipe()
	if err != nil {
		c.Close()
		return nil, err
	}
	defer errW.Close()
	spec := f.spec(f.mode, &l)
	spec.Forks, spec.Preload = true, f.library
	spec.Read = append(spec.Read, f.library)
	s.p = newProcess(t, &l)
	s.p.cmd = f.mode.command(t.opt.Self, []string{"weir", SandboxArg, spec.marshal(), f.path})
	s.p.cmd.Stderr, s.p.cmd.ExtraFiles = errW, []*os.File{theirs}
	// It lives as long as the Tool; its jobs have their own time.
	if err := t.launch(context.WithoutCancel(ctx), f, s.p, &Limits{Memory: l.Memory, Nice: l.Nice, Cores: l.Cores}, errR, nil); err != nil {
		c.Close()
		return nil, err
	}
	if _, err := s.conn.Write(append([]byte{'F'}, inner().bytes()...)); err != nil {
		s.close()
		return nil, err
	}
	w := &t.warm
	w.mu.Lock()
	s.slim = w.slim()
	w.mu.Unlock()
	if s.slim {
		if _, err := s.conn.Write([]byte{'S'}); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// fails says that a fork server was of no use at all: there is none for a while.
func (w *warm) fails(log *slog.Logger, err error) {
	w.mu.Lock()
	w.broken = time.Now()
	w.mu.Unlock()
	log.Warn("the fork server of ffmpeg does not work; each picture starts an ffmpeg of its own, and costs more", "err", err, "for", retry)
}

// missed says that a child of a slim fork server died of what the same job
// survives in a process of its own.
func (w *warm) missed(log *slog.Logger) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slim() {
		log.Warn("this ffmpeg needs libraries for a picture that weir does not know of; pictures cost more for an hour")
	}
	w.whole = time.Now().Add(forkServerWhole)
}

// slim reports whether children get only what a picture needs. w.mu is held.
func (w *warm) slim() bool { return !time.Now().Before(w.whole) }

// close ends a fork server.
func (s *forkServer) close() {
	s.conn.Close()
	s.p.Close()
}

// close ends the fork servers that are idle.
func (w *warm) close() {
	w.mu.Lock()
	idle := w.idle
	w.idle = nil
	w.mu.Unlock()
	for _, list := range idle {
		for _, s := range list {
			if s.timer.Stop() {
				s.close()
			}
		}
	}
}

// runWarm is Run by a fork server. It returns errCold if there is none.
func (t *Tool) runWarm(ctx context.Context, f *found, j *Job, in []byte) (out []byte, use Usage, err error) {
	args, err := j.args([]int{0}, []int{1}, -1)
	if err != nil {
		return nil, use, fmt.Errorf("ffmpeg command line: %w", err)
	}
	s, err := t.take(ctx, f, j.Limits)
	if err != nil {
		return nil, use, err
	}
	// Whatever ends the job before its time ends the fork server with it.
	stop := context.AfterFunc(ctx, s.p.Kill)
	timer := time.AfterFunc(j.Limits.Time, func() { s.p.kill(TimedOut) })
	out, use, status, err := s.run(args, in, j.Outputs[0].Max)
	alive := stop() && timer.Stop()
	reason := Reason(s.p.reason.Load())
	if err == nil && alive && reason == 0 {
		t.give(j.Limits, s)
	} else {
		s.close()
	}
	t.procs.started.Add(1)
	t.procs.cpu.Add(int64(use.CPU))
	if err != nil && reason == 0 { // it was killed, and not by the job
		if s.jobs == 0 {
			t.warm.fails(t.log, fmt.Errorf("it has ended at its first job: %w", err))
		}
		return nil, use, errCold
	}
	if reason != 0 {
		t.procs.failed.Add(1)
		return nil, use, &Error{Reason: cmp.Or(reason, Failed), Status: "the fork server has ended", Stderr: status.stderr}
	}
	if s.slim && status.status.Signaled() && status.status.Signal() == syscall.SIGSEGV {
		return nil, use, errMissed
	}
	if status.err() != nil {
		t.procs.failed.Add(1)
		return nil, use, status.err()
	}
	return out, use, nil
}

// outcome is how a child of a fork server ended.
type outcome struct {
	status syscall.WaitStatus
	stderr string
}

func (o outcome) err() error {
	switch {
	case o.status.Signaled():
		return &Error{Reason: Failed, Status: "signal: " + o.status.Signal().String(), Stderr: o.stderr}
	case o.status.ExitStatus() != 0:
		return &Error{Reason: Failed, Status: fmt.Sprintf("exit status %d", o.status.ExitStatus()), Stderr: o.stderr}
	}
	return nil
}

// run hands one job to the fork server. An error means that the fork server
// is of no use any more.
func (s *forkServer) run(args []string, in []byte, most int64) (out []byte, use Usage, o outcome, err error) {
	var pipes [3][2]*os.File // of 0, 1 and 2: the reading and the writing end
	defer func() {
		for _, p := range pipes {
			for _, end := range p {
				if end != nil {
					end.Close()
				}
			}
		}
	}()
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = os.Pipe(); err != nil {
			return nil, use, o, err
		}
	}
	theirs := []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]}
	message := []byte("Jffmpeg\x00" + strings.Join(args, "\x00") + "\x00")
	// Fd makes them block, as a child expects.
	rights := syscall.UnixRights(int(theirs[0].Fd()), int(theirs[1].Fd()), int(theirs[2].Fd()))
	if _, _, err := s.conn.WriteMsgUnix(message, rights, nil); err != nil {
		return nil, use, o, err
	}
	for _, file := range theirs {
		file.Close()
	}
	var said ring
	var streams sync.WaitGroup
	streams.Go(func() { // ends when all is written or nobody reads any more
		pipes[0][1].Write(in)
		pipes[0][1].Close()
	})
	streams.Go(func() { copyLimited(&said, pipes[2][0]) }) // ends with the child
	if most == 0 {                                         // no limit
		most = math.MaxInt64 - 1
	}
	out, err = io.ReadAll(io.LimitReader(pipes[1][0], most+1))
	if int64(len(out)) > most {
		s.p.kill(Flooded)
	}
	var result [16]byte
	if err == nil {
		_, err = io.ReadFull(s.conn, result[:])
	}
	streams.Wait()
	o = outcome{syscall.WaitStatus(binary.NativeEndian.Uint32(result[:])), said.String()}
	use = Usage{
		CPU:    time.Duration(binary.NativeEndian.Uint64(result[8:])) * time.Microsecond,
		Memory: int64(binary.NativeEndian.Uint32(result[4:])) << 10,
	}
	return out, use, o, err
}
