package ffmpeg

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
)

// table is the processes that run.
type table struct {
	mu      sync.Mutex
	closed  bool
	running map[*Process]struct{}
	all     sync.WaitGroup

	started, failed atomic.Int64
	cpu             atomic.Int64 // ns of all that have ended
}

// enter notes a process that is about to start.
func (t *table) enter(p *Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("%w: the server is shutting down", ErrUnavailable)
	}
	if t.running == nil {
		t.running = make(map[*Process]struct{})
	}
	t.running[p] = struct{}{}
	t.all.Add(1)
	return nil
}

func (t *table) leave(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, p)
	t.all.Done()
}

// close ends all processes and waits for them.
func (t *table) close() {
	t.mu.Lock()
	t.closed = true
	var list []*Process
	for p := range t.running {
		list = append(list, p)
	}
	t.mu.Unlock()
	for _, p := range list {
		p.Kill()
	}
	t.all.Wait()
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.running)
}

// killGroup kills a process and all that it has started.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }
