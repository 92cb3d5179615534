package stream

import (
	"runtime"
	"slices"
	"syscall"
)

// pump writes a feed to the players that keep up, in one system call for each,
// or for each burst of them, that does not wait. Its goroutine lives while it
// has players.
type pump struct {
	f      *feed
	signal chan struct{}

	// f.mu guards these.
	joined []*Player // since the last pass began
	n      int       // players, as of the end of the last pass, and joined

	// Of the goroutine.
	players []*Player
	turn    *Player // whose it is
	yield   yielder
	cache   [2]view
	buf     []byte // for fn, which RawConn.Control calls: what to write,
	sent    int    // how much was written,
	err     error  // and why not all
	fn      func(fd uintptr)
	burst   burst

	// Of a pass.
	bytes, writes int64
	by            [len(Protocols)]int64
	work          int // see pumpBatch
}

// burst is one write to each of some players.
type burst struct {
	ring    *ring // nil: there are no bursts
	players []*Player
	views   []view // what each is to get
	held    int    // of how many the descriptor is kept open, or gone
	queued  int    // how many are in the ring
	who     [ringSize]int
	hold    func(fd uintptr)
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
		u.fn, u.burst.hold = u.try, u.hold
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
	defer func() {
		u.yield.close()
		u.burst.ring.close()
	}()
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
		u.burst.ring.clear()
		if u.turn != nil {
			u.turn.failed = ErrFault
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

	u.bytes, u.writes, u.by, u.work = 0, 0, [len(Protocols)]int64{}, 0
	if u.burst.players == nil && len(u.players) >= f.s.hub.burstFrom {
		u.burst.players = make([]*Player, 0, ringSize)
		u.burst.ring = f.s.hub.newRing()
	}
	for i, written := 0, 0; i < len(u.players); {
		if u.burst.ring != nil && i >= written {
			written = min(i+ringSize, len(u.players))
			u.writeAll(u.players[i:written], target)
		}
		p := u.players[i]
		u.turn = p
		for p.pos < target && len(p.pending) == 0 && p.failed == nil {
			v := u.view(p.pos, target)
			if len(v.b) == 0 { // it is gone: the player is far behind
				break
			}
			u.write(p, v)
		}
		if ended || p.dirty.Load() || p.pos < target || len(p.pending) > 0 || p.failed != nil {
			u.drop(i)
			continue
		}
		i++
		if u.work++; u.work >= pumpBatch {
			u.work = 0
			u.yield.let()
		}
	}
	u.turn, u.cache = nil, [2]view{}
	f.s.hub.stats.BytesOut.Add(u.bytes)
	f.s.hub.stats.Writes.Add(u.writes)
	for i, n := range u.by {
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
	u.wrote(p, v, u.sent, u.err)
	u.buf = nil
}

// wrote notes that p's socket took n bytes of v, and why not all.
func (u *pump) wrote(p *Player, v view, n int, err error) {
	if err != nil && err != syscall.EAGAIN {
		p.failed = err
	}
	p.sent.Add(int64(n))
	if p.pos, p.seq = v.at+int64(len(v.b)), v.next; n < len(v.b) {
		p.pending = v.b[n:]
	}
	u.bytes += int64(n)
	u.by[p.account] += int64(n)
	u.writes++
	u.work += n / pumpCopied
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

// writeAll is a write to each of up to ringSize players who is due one, in one
// system call. Where that is not to be had they are still due.
func (u *pump) writeAll(players []*Player, target int64) {
	b := &u.burst
	b.players, b.views, b.held, b.queued = b.players[:0], b.views[:0], 0, 0
	for _, p := range players {
		if u.turn = p; p.pos >= target || len(p.pending) > 0 || p.failed != nil {
			continue
		}
		if v := u.view(p.pos, target); len(v.b) > 0 {
			b.players, b.views = append(b.players, p), append(b.views, v)
		}
	}
	u.holdAll()
	clear(b.players)
	clear(b.views)
}

// holdAll keeps the descriptors of all players of the burst open, one
// RawConn.Control within the other, and in the innermost one writes.
func (u *pump) holdAll() {
	b := &u.burst
	for b.held < len(b.players) {
		u.turn = b.players[b.held]
		b.held++
		err := u.turn.raw.Control(b.hold)
		if err == nil {
			return // hold took care of the rest
		}
		u.turn.failed = err
	}
	if b.queued == 0 {
		return
	}
	done, ok := b.ring.submit()
	for _, d := range done {
		i := b.who[d.i]
		u.wrote(b.players[i], b.views[i], d.n, d.err)
	}
	if !ok {
		b.ring.close()
		b.ring = nil
	}
}

// hold is called by RawConn.Control with the descriptor of the player whose
// turn it is.
func (u *pump) hold(fd uintptr) {
	b, i := &u.burst, u.burst.held-1
	b.ring.add(fd, b.views[i].b)
	b.who[b.queued] = i
	b.queued++
	u.holdAll()
	u.turn = b.players[i]
}
