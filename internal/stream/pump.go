package stream

import (
	"runtime"
	"slices"
	"syscall"
)

// pump writes a feed to the players that keep up, each in one system call
// that does not wait. Its goroutine lives while it has players.
type pump struct {
	f      *feed
	signal chan struct{}

	// f.mu guards these.
	joined []*Player // since the last pass began
	n      int       // players, as of the end of the last pass, and joined

	// Of the goroutine.
	players []*Player
	at      int // index in players of the one whose turn it is
	yield   yielder
	cache   [2]view
	buf     []byte // for fn, which RawConn.Control calls: what to write,
	sent    int    // how much was written,
	err     error  // and why not all
	fn      func(fd uintptr)
}

const (
	// pumpFill is how many players a pump has before another processor gets one
	// too: fewer are written faster than another thread wakes up.
	pumpFill = 64
	// pumpBatch is after how much work, about a millisecond, a pump lets others
	// run: who comes to play does not wait for the whole pass. A player is one
	// unit of it, and so are pumpCopied bytes: a key frame takes much longer to
	// copy than the frames between.
	pumpBatch  = 128
	pumpCopied = 16 << 10
)

// hand gives a pump a player that has all that was flushed, and no orders.
// f.mu is held.
func (f *feed) hand(p *Player) {
	var u *pump
	for _, o := range f.pumps {
		if u == nil || o.n < u.n {
			u = o
		}
	}
	if u == nil || u.n >= pumpFill && len(f.pumps) < runtime.GOMAXPROCS(0) {
		u = &pump{f: f, signal: make(chan struct{}, 1)}
		u.fn = u.try
		f.pumps = append(f.pumps, u)
		f.s.hub.tasks.Go(u.run) // ends when it has no players
	}
	u.joined = append(u.joined, p)
	u.n++
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
		if u.guard() {
			return
		}
	}
}

// guard is pass, in which a panic is the end of the player whose turn it was.
// The others are looked at again.
func (u *pump) guard() (over bool) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		u.f.s.hub.fault(u.f.s, "pump", v)
		u.cache, u.buf = [2]view{}, nil
		if u.at < len(u.players) {
			u.players[u.at].failed = ErrFault
			u.drop(u.at)
		}
		u.wake()
	}()
	return u.pass()
}

// pass writes to every player what it does not have yet, and reports whether
// the pump is over, as it has no players.
func (u *pump) pass() bool {
	f := u.f
	f.mu.Lock()
	target, ended := f.out, f.ended
	u.players = append(u.players, u.joined...)
	clear(u.joined)
	u.joined = u.joined[:0]
	f.mu.Unlock()

	var bytes, writes int64
	var by [len(Protocols)]int64
	for i, work := 0, 0; i < len(u.players); {
		u.at = i
		p := u.players[i]
		for p.pos < target && len(p.pending) == 0 && p.failed == nil {
			v := u.view(p.pos, target)
			if len(v.b) == 0 { // it is gone: the player is far behind
				break
			}
			u.write(p, v)
			bytes += int64(u.sent)
			by[p.account] += int64(u.sent)
			writes++
			work += u.sent / pumpCopied
		}
		if ended || p.dirty.Load() || p.pos < target || len(p.pending) > 0 {
			u.drop(i)
			continue
		}
		i++
		if work++; work >= pumpBatch {
			work = 0
			u.yield.let()
		}
	}
	u.at, u.cache = 0, [2]view{}
	f.s.hub.stats.BytesOut.Add(bytes)
	f.s.hub.stats.Writes.Add(writes)
	for i, n := range by {
		if n > 0 {
			f.s.traffic.Served(i, n)
		}
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	u.n = len(u.players) + len(u.joined)
	if u.n > 0 {
		return false
	}
	f.pumps = slices.DeleteFunc(f.pumps, func(o *pump) bool { return o == u })
	return true
}

// view returns the feed's bytes from position at to the target or the end of
// the block; none if they are gone. Most players ask for the same.
func (u *pump) view(at, target int64) view {
	for _, v := range u.cache {
		if v.at == at && v.b != nil {
			return v
		}
	}
	f := u.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if at < f.first() {
		return view{}
	}
	u.cache[1], u.cache[0] = u.cache[0], f.view(at, target)
	return u.cache[0]
}

// drop gives the player at index i a goroutine of its own.
func (u *pump) drop(i int) {
	p := u.players[i]
	last := len(u.players) - 1
	u.players[i] = u.players[last]
	u.players[last] = nil
	u.players = u.players[:last]
	go p.run() // ends when a pump takes over again or the player is over
}

// write writes what the player's socket takes of v; the rest is pending. Of the
// locks of a connection it takes only the one that keeps the descriptor open,
// for nobody else writes.
func (u *pump) write(p *Player, v view) {
	u.buf, u.sent, u.err = v.b, 0, nil
	if err := p.raw.Control(u.fn); err != nil {
		u.err = err
	}
	if u.err != nil && u.err != syscall.EAGAIN {
		p.failed = u.err
	}
	p.sent.Add(int64(u.sent))
	if p.pos, p.seq = v.at+int64(len(v.b)), v.next; u.sent < len(v.b) {
		p.pending = v.b[u.sent:]
	}
	u.buf = nil
}

// try is called by RawConn.Control with the descriptor, which is non-blocking
// and stays open meanwhile.
func (u *pump) try(fd uintptr) {
	for {
		u.sent, u.err = send(fd, u.buf)
		if u.err != syscall.EINTR {
			return
		}
	}
}
