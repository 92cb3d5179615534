package bench

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A loop owns all sockets and timers of a run and works on them in one
// goroutine, so that nothing here needs a lock and twelve thousand players
// need no goroutine. Sockets on which time matters wake it through epoll. The
// others are drained: visited in turn, each once in an interval, and what
// waits for them is dropped in the kernel. A draining socket wakes nobody, so
// it costs the server, in whose system call a reader on the same machine
// would be woken, no more than it must.
//
// Times are nanoseconds since the loop began, by the monotonic clock.
type loop struct {
	ep       int
	began    time.Time
	socks    map[int32]*sock
	timers   timerHeap
	events   [256]unix.EpollEvent
	in       []byte // where sockets are read into
	nowhere  []byte // given to the kernel with MSG_TRUNC, so never written to
	draining []*sock
	turn     int           // index in draining of the next one
	visited  int64         // time up to which the due visits have been paid
	busy     int64         // when a socket last had something
	interval time.Duration // in which every draining socket is visited once
}

// An endpoint is told what happens on its socket.
type endpoint interface {
	// opened is called once, when the connection stands.
	opened(now int64)
	// received is called with bytes that arrived; b is the loop's again when
	// it returns.
	received(b []byte, now int64)
	// visited is called once in each interval on a draining socket.
	visited(now int64)
	// closed is called when the socket failed or the peer ended it (io.EOF),
	// not after the endpoint's own close.
	closed(err error, now int64)
}

// Most sockets drained without a look at the others: some 50 µs.
const maxVisits = 16

func newLoop(interval time.Duration) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &loop{
		ep: ep, began: time.Now(), socks: make(map[int32]*sock), interval: interval,
		in: make([]byte, 256<<10), nowhere: make([]byte, maxDrain),
	}, nil
}

func (l *loop) now() int64 { return int64(time.Since(l.began)) }

// wall returns the wall clock at a time of the loop. It doesn't follow changes
// of the machine's clock during a run.
func (l *loop) wall(now int64) int64 { return l.began.UnixNano() + now }

// close closes all sockets.
func (l *loop) close() {
	for _, s := range l.socks {
		s.close()
	}
	unix.Close(l.ep)
}

// awake is for how long the loop looks again and again after an event before it
// sleeps: about as long as it takes a server to come to the next player that reads at
// once. To wake up a processor that sleeps costs the one that does it, the server's, up to
// ten microseconds, more than what it sends.
const awake = 300 * time.Microsecond

// run works until done, which is asked often, says so or ctx ends.
func (l *loop) run(ctx context.Context, done func(now int64) bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		now := l.now()
		l.timers.fire(now)
		more := l.visit(now)
		if done(now) {
			return nil
		}
		wait := time.Duration(0)
		if !more && now-l.busy > int64(awake) {
			wait = min(l.timers.wait(now), 20*time.Millisecond)
			if len(l.draining) > 0 {
				wait = min(wait, time.Millisecond)
			}
		}
		if err := l.poll(wait); err != nil {
			return err
		}
	}
}

// poll waits for events and handles them. epoll_wait counts in milliseconds,
// which is too coarse for pacing: ppoll on the epoll descriptor does not.
func (l *loop) poll(wait time.Duration) error {
	if wait > 0 {
		ts := unix.NsecToTimespec(int64(wait))
		_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(l.ep), Events: unix.POLLIN}}, &ts, nil)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
	}
	n, err := unix.EpollWait(l.ep, l.events[:], 0)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for sockets: %w", err)
	}
	if n > 0 {
		l.busy = l.now()
	}
	for _, e := range l.events[:max(n, 0)] {
		// A descriptor closed and opened anew since the event was made gets a
		// stray call, which finds nothing to do.
		if s := l.socks[e.Fd]; s != nil {
			s.handle(e.Events)
		}
	}
	return nil
}

// visit pays the visits to draining sockets that are due, up to maxVisits. It
// says whether more are due.
func (l *loop) visit(now int64) bool {
	n := len(l.draining)
	if n == 0 {
		l.visited = now
		return false
	}
	due := int((now - l.visited) * int64(n) / int64(l.interval))
	for range min(due, maxVisits) {
		if l.turn >= len(l.draining) {
			l.turn = 0
			if len(l.draining) == 0 {
				break
			}
		}
		s := l.draining[l.turn]
		l.turn++
		s.owner.visited(now)
	}
	if due > n { // the tool was kept from running: no visit is paid twice
		l.visited = now
		return false
	}
	l.visited += int64(min(due, maxVisits)) * int64(l.interval) / int64(n)
	return due > maxVisits
}

// A sock is one nonblocking TCP connection of a loop.
type sock struct {
	loop   *loop
	owner  endpoint
	fd     int
	events uint32 // what epoll watches; 0 while draining
	open   bool
	drain  int    // index in loop.draining, or -1
	out    []byte // what the kernel has not taken yet
}

// dial begins to connect to addr. rcvbuf is the size of the receive buffer,
// which then doesn't grow; 0 leaves it to the kernel. The owner hears of a
// failure later, never during the call.
func (l *loop) dial(addr netip.AddrPort, rcvbuf int, owner endpoint) (*sock, error) {
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().Unmap().As4()}
	if !addr.Addr().Unmap().Is4() {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	s := &sock{loop: l, owner: owner, fd: fd, drain: -1}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil && rcvbuf > 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf)
	}
	if err == nil {
		if err = unix.Connect(fd, to); err == unix.EINPROGRESS {
			err = nil
		}
	}
	if err == nil {
		err = s.watch(unix.EPOLLIN | unix.EPOLLOUT)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	l.socks[int32(fd)] = s
	return s, nil
}

// watch sets the events that epoll reports; none takes the socket out.
func (s *sock) watch(events uint32) error {
	op := unix.EPOLL_CTL_MOD
	switch {
	case events == s.events:
		return nil
	case s.events == 0:
		op = unix.EPOLL_CTL_ADD
	case events == 0:
		op = unix.EPOLL_CTL_DEL
	}
	s.events = events
	return unix.EpollCtl(s.loop.ep, op, s.fd, &unix.EpollEvent{Events: events, Fd: int32(s.fd)})
}

// handle acts on what epoll reported.
func (s *sock) handle(events uint32) {
	now := s.loop.now()
	if !s.open {
		if e, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
			s.fail(errors.Join(err, unix.Errno(e)), now)
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		s.open = true
		s.owner.opened(now)
	}
	if s.fd >= 0 && events&unix.EPOLLOUT != 0 {
		if err := s.flush(); err != nil {
			s.fail(err, now)
			return
		}
	}
	for s.fd >= 0 && events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		n, err := unix.Read(s.fd, s.loop.in)
		now = s.loop.now()
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return
		case err == nil && n == 0:
			s.fail(io.EOF, now)
		case err != nil:
			s.fail(err, now)
		default:
			s.owner.received(s.loop.in[:n], now)
			if n < len(s.loop.in) {
				return
			}
		}
	}
}

// write sends b, at once if the kernel takes it and otherwise as soon as it
// does. A broken connection is reported later.
func (s *sock) write(b []byte) {
	if s.fd < 0 || len(b) == 0 {
		return
	}
	n := 0
	if s.open && len(s.out) == 0 {
		n, _ = unix.Write(s.fd, b) // an error comes again from the next read
		n = max(n, 0)
	}
	if n < len(b) {
		s.out = append(s.out, b[n:]...)
		if s.drain < 0 {
			_ = s.watch(unix.EPOLLIN | unix.EPOLLOUT)
		}
	}
}

// flush sends what waits in out.
func (s *sock) flush() error {
	for len(s.out) > 0 {
		n, err := unix.Write(s.fd, s.out)
		if err == unix.EAGAIN || err == unix.EINTR {
			return nil
		}
		if err != nil {
			return err
		}
		s.out = s.out[n:]
	}
	if s.drain >= 0 {
		return nil
	}
	return s.watch(unix.EPOLLIN)
}

// startDraining takes the socket out of epoll and puts it on the loop's round.
func (s *sock) startDraining() error {
	if err := s.watch(0); err != nil {
		return err
	}
	s.drain = len(s.loop.draining)
	s.loop.draining = append(s.loop.draining, s)
	return nil
}

// maxDrain is the most that one discard drops.
const maxDrain = 1 << 20

// discard drops what has arrived, up to limit bytes, and returns how much that was. The error is io.EOF when the peer has closed.
func (s *sock) discard(limit int) (int, error) {
	n, _, err := unix.Recvfrom(s.fd, s.loop.nowhere[:min(limit, maxDrain)], unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil
	case err != nil:
		return 0, err
	case n == 0 && limit > 0:
		return 0, io.EOF
	}
	return n, nil
}

// fail closes the socket and tells its owner.
func (s *sock) fail(err error, now int64) {
	s.close()
	s.owner.closed(err, now)
}

// close closes the socket without a word to its owner.
func (s *sock) close() {
	if s.fd < 0 {
		return
	}
	if i := s.drain; i >= 0 {
		d := s.loop.draining
		last := len(d) - 1
		d[i], d[last].drain = d[last], i
		d[last] = nil
		s.loop.draining = d[:last]
	}
	delete(s.loop.socks, int32(s.fd))
	unix.Close(s.fd)
	s.fd, s.drain = -1, -1
}

// A timer calls fire once at a time.
type timer struct {
	at   int64
	fire func(now int64)
}

// after calls fire at a time of the loop.
func (l *loop) after(at int64, fire func(now int64)) { l.schedule(&timer{at, fire}) }

// schedule puts a timer in place that is not in place already.
func (l *loop) schedule(t *timer) { heap.Push(&l.timers, t) }

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(*timer)) }
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

// fire calls the timers that are due.
func (h *timerHeap) fire(now int64) {
	for len(*h) > 0 && (*h)[0].at <= now {
		heap.Pop(h).(*timer).fire(now)
	}
}

// wait returns how long it is to the next timer.
func (h timerHeap) wait(now int64) time.Duration {
	if len(h) == 0 {
		return time.Hour
	}
	return time.Duration(max(h[0].at-now, 0))
}
