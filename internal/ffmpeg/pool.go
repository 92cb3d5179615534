package ffmpeg

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrShed is the answer to a job that was dropped from a queue.
var ErrShed = errors.New("dropped from the queue: the machine is too busy")

// Pool lets so many jobs run at once, and so many wait. It is for jobs that
// are better dropped than late: a waiting one gives way to a newer one of its
// stream, and the oldest of all to a newer one when the queue is full. Its
// methods may be called from any goroutine.
type Pool struct {
	running, waiting int // at most

	mu    sync.Mutex
	idle  int     // places where nothing runs
	queue []*turn // the oldest first
	stats PoolStats
}

// PoolStats is a pool's account.
type PoolStats struct {
	Running, Waiting int
	Ran, Shed        int64
}

// turn is a job that waits.
type turn struct {
	stream string
	ready  chan error // gets nil when it may run, ErrShed when it was dropped; buffered
}

// NewPool returns a pool for so many running and waiting jobs.
func NewPool(running, waiting int) *Pool {
	running = max(1, running)
	return &Pool{running: running, waiting: max(1, waiting), idle: running}
}

// Do runs f, in the caller's goroutine, as soon as there is room. The error is
// f's, ErrShed, or that of ctx when it ended while the job was waiting. The room
// that f had stays empty for as long as f says.
func (p *Pool) Do(ctx context.Context, stream string, f func() (rest time.Duration, err error)) error {
	t := &turn{stream: stream, ready: make(chan error, 1)}
	p.mu.Lock()
	if p.idle > 0 {
		p.idle--
		t.ready <- nil
	} else {
		p.admit(t)
	}
	p.mu.Unlock()
	select {
	case err := <-t.ready:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		if p.leave(t) {
			return ctx.Err()
		}
		if err := <-t.ready; err != nil { // it came at the same moment
			return err
		}
	}
	var rest time.Duration
	defer func() {
		if rest > 0 {
			time.AfterFunc(rest, p.next)
			return
		}
		p.next()
	}()
	var err error
	rest, err = f()
	p.mu.Lock()
	p.stats.Ran++
	p.mu.Unlock()
	return err
}

// admit puts t into the queue. p.mu is held.
func (p *Pool) admit(t *turn) {
	drop := -1
	for i, w := range p.queue {
		if w.stream == t.stream {
			drop = i
			break
		}
	}
	if drop < 0 && len(p.queue) >= p.waiting {
		drop = 0
	}
	if drop >= 0 {
		p.queue[drop].ready <- ErrShed
		p.stats.Shed++
		p.queue = append(p.queue[:drop], p.queue[drop+1:]...)
	}
	p.queue = append(p.queue, t)
}

// leave takes t out of the queue and reports whether it was still there.
func (p *Pool) leave(t *turn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.queue {
		if w == t {
			p.queue = append(p.queue[:i], p.queue[i+1:]...)
			return true
		}
	}
	return false
}

// next gives the room of a job that has run to the one that waits longest.
func (p *Pool) next() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.idle++
		return
	}
	p.queue[0].ready <- nil
	p.queue = p.queue[1:]
}

// Stats returns the pool's account.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Running, s.Waiting = p.running-p.idle, len(p.queue)
	return s
}
