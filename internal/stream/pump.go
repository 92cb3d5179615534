package stream

import (
	"runtime"
	"sync"
	"syscall"
)

// pump writes a feed to the players that keep up, each in one system call
// that does not wait. Its goroutine lives while it has players.
type pump struct {
	f      *feed
	signal chan struct{}

	mu      sync.Mutex
	players []*Player

	// Of the goroutine.
	yield yielder
	cache [2]view
	buf   []byte // for fn, which RawConn.Write calls: what to write,
	n     int    // how much was written,
	err   error  // and why not all
	fn    func(fd uintptr) bool
}

const (
	// pumpFill is how many players a pump has before another processor gets one
	// too: fewer are written faster than another thread wakes up.
	pumpFill = 64
	// pumpBatch is after how many players, about a millisecond, a pump lets
	// others run: who comes to play does not wait for the whole pass.
	pumpBatch = 128
)

// pump returns the pump that takes the next player. f.mu is held.
func (f *feed) pump() *pump {
	var least *pump
	for _, u := range f.pumps {
		if least == nil || u.count() < least.count() {
			least = u
		}
	}
	if least == nil || least.count() >= pumpFill && len(f.pumps) < runtime.GOMAXPROCS(0) {
		least = &pump{f: f, signal: make(chan struct{}, 1)}
		least.fn = least.try
		f.pumps = append(f.pumps, least)
		go least.run() // ends when it has no players
	}
	return least
}

func (u *pump) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.players)
}

// add gives the pump a player that has all that was flushed. f.mu is held.
func (u *pump) add(p *Player) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.players = append(u.players, p)
	if p.dirty.Load() { // an order came while it belonged to nobody
		u.wake()
	}
}

func (u *pump) wake() {
	select {
	case u.signal <- struct{}{}:
	default:
	}
}

func (u *pump) run() {
	defer u.yield.close()
	for range u.signal {
		if u.pass() {
			return
		}
	}
}

// pass writes to every player what it does not have yet, and reports whether
// the pump is over.
func (u *pump) pass() bool {
	f := u.f
	f.mu.Lock()
	target, ended := f.out, f.ended
	f.mu.Unlock()

	var sent, writes int64
	u.cache = [2]view{}
	u.mu.Lock()
	for i := 0; i < len(u.players); {
		if i%pumpBatch == pumpBatch-1 {
			u.mu.Unlock()
			u.yield.let()
			u.mu.Lock()
		}
		p := u.players[i]
		if ended || p.dirty.Load() {
			u.drop(i)
			continue
		}
		for p.pos < target {
			b := u.view(p.pos, target)
			if b == nil { // it is gone: the player is far behind
				break
			}
			n := u.write(p, b)
			p.pos += int64(len(b))
			p.sent.Add(int64(n))
			sent += int64(n)
			writes++
			if n < len(b) {
				p.pending = b[n:]
				break
			}
		}
		if p.pos < target || len(p.pending) > 0 {
			u.drop(i)
			continue
		}
		i++
	}
	u.mu.Unlock()
	h := f.s.hub
	h.stats.BytesOut.Add(sent)
	h.stats.Writes.Add(writes)
	return u.finish()
}

// view is the bytes from a position of a feed on that lie in one block.
type view struct {
	at int64
	b  []byte
}

// view returns the feed's bytes from position at to the target or the end of
// the block, or nil if they are gone. Most players ask for the same.
func (u *pump) view(at, target int64) []byte {
	for i := range u.cache {
		if u.cache[i].b != nil && u.cache[i].at == at {
			return u.cache[i].b
		}
	}
	f := u.f
	u.mu.Unlock() // f.mu comes first; only this goroutine takes players away
	f.mu.Lock()
	var b []byte
	if at >= f.first() {
		b = f.view(at, target)
	}
	f.mu.Unlock()
	u.mu.Lock()
	u.cache[1], u.cache[0] = u.cache[0], view{at, b}
	return b
}

// finish ends a pump without players and reports whether it did.
func (u *pump) finish() bool {
	f := u.f
	f.mu.Lock()
	defer f.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.players) > 0 {
		return false
	}
	for i, o := range f.pumps {
		if o == u {
			f.pumps = append(f.pumps[:i], f.pumps[i+1:]...)
			break
		}
	}
	return true
}

// drop gives the player at index i a goroutine of its own. u.mu is held.
func (u *pump) drop(i int) {
	p := u.players[i]
	last := len(u.players) - 1
	u.players[i] = u.players[last]
	u.players[last] = nil
	u.players = u.players[:last]
	u.f.slow.Add(1)
	go p.run() // ends when a pump takes over again or the player is over
}

// write writes what the socket takes of b and returns how much that was.
func (u *pump) write(p *Player, b []byte) int {
	u.buf, u.n = b, 0
	if err := p.raw.Write(u.fn); err != nil {
		u.err = err
	}
	if u.err != nil && u.err != syscall.EAGAIN {
		p.failed = u.err
	}
	u.buf = nil
	return u.n
}

// try is called by RawConn.Write with the descriptor, which is non-blocking.
func (u *pump) try(fd uintptr) bool {
	for {
		n, err := send(fd, u.buf)
		if err == syscall.EINTR {
			continue
		}
		u.n, u.err = max(n, 0), err
		return true
	}
}
