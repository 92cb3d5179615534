package stream

import (
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// pump writes a feed to the players that keep up, in one system call for each,
// or for each burst of them, that does not wait. Its goroutine lives while it
// has players.
//
// All its players stand at the same place of the feed. So as long as they keep
// up a pass looks at the pump's list of them, and at nothing of theirs: it goes
// through thousands, and none is in the processor's cache any more when its
// turn comes.
type pump struct {
	f      *feed
	signal chan struct{}
	at     atomic.Int64 // what its players have been sent, but for a pass that goes on: now.at

	// f.mu guards these.
	joined []*Player // since the last pass began
	n      int       // players, as of the end of the last pass, and joined
	called bool      // some of them may have orders

	// Of the goroutine.
	now      place // where its players stand
	seats    []seat
	incoming []*Player // joined, not seated yet: who began with what still gathers is further on than all
	early    []*Player // of these, who stand further on than the others
	turn     *Player   // whose turn it is, of those who have no seat
	ring     *ring     // nil: there are no bursts,
	ringless bool      // and there will not be
	yield    yielder
	buf      []byte // for fn, which RawConn.Control calls: what to write,
	sent     int    // how much was written,
	err      error  // and why not all
	fn       func(fd uintptr)

	// Of a pass.
	to            place  // where it brings the players
	views         []view // what is from the place of the first of them to there
	lo, hi        int    // the seats before lo have all that, those from hi on have nothing of it; between them it is not known
	strays        int    // seats that are astray
	work          int    // see pumpBatch
	bytes, writes int64
	by            [len(Protocols)]int64
	who           []int // which seat a send of the burst is for
}

// place is one of a feed, between two packets.
type place struct {
	at  int64
	seq uint64 // all packets of the log before this one are before the place
}

// seat is a player in a pump.
type seat struct {
	p       *Player
	slot    int32 // of its socket in the ring, -1: it is written to without
	account uint8 // p.account
	astray  bool  // the player is not where the others are, but where it says itself
}

const (
	// pumpFill is how many players a pump has before another processor gets one
	// too: fewer are written faster than another thread wakes up.
	pumpFill = 64
	// pumpBatch is after how much work, about a millisecond, a pump lets others
	// run: who comes to play does not wait for the whole pass. A player is one
	// unit of it, and so are pumpCopied bytes: a key frame takes much longer to
	// copy than the frames between. A burst is no more than that either.
	pumpBatch  = 128
	pumpCopied = 16 << 10
	// calmBatch is the same while nobody has come for calmAfter. What a burst, and
	// letting others run, cost is shared by more.
	calmBatch = 512
	calmAfter = time.Second
	// minSlots is for how many sockets a ring has room at least.
	minSlots = 64
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
	defer func() {
		u.yield.close()
		u.ring.close()
	}()
	for range u.signal {
		if u.guard() {
			return
		}
	}
}

// guard is pass, in which a panic is the end of the player whose turn it was; in
// a burst, which calls nothing of a connection, of all of them. All others get
// goroutines of their own, and come back.
func (u *pump) guard() (over bool) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		u.f.s.hub.fault(u.f.s, "pump", v)
		u.ring.clear()
		if p := u.turn; p != nil {
			u.turn, p.failed = nil, ErrFault
			go p.run() // ends with that
		}
		for i := len(u.seats) - 1; i >= 0; i-- {
			s := &u.seats[i]
			switch {
			case s.astray:
			case i < u.lo:
				s.p.stand(u.to)
			default:
				s.p.stand(u.now)
			}
			if i >= u.lo && i < u.hi {
				s.p.failed = ErrFault
			}
			u.vacate(i)
		}
		for _, p := range append(u.incoming, u.early...) {
			go p.run() // ends when a pump takes over again or the player is over
		}
		u.incoming, u.early, u.buf, u.views = nil, nil, nil, nil
		u.wake()
	}()
	return u.pass()
}

// begin takes in who has joined, and finds what is to be written: size bytes.
// Players have to leave if the feed has ended, if what they need next is lost,
// or, if called is true, when they have orders.
func (u *pump) begin() (size int, ended, lost, called bool) {
	f := u.f
	f.mu.Lock()
	defer f.mu.Unlock()
	u.incoming = append(append(u.incoming, u.early...), u.joined...)
	clear(u.early)
	clear(u.joined)
	u.early, u.joined = u.early[:0], u.joined[:0]
	if len(u.seats) == 0 && len(u.incoming) > 0 {
		u.now = place{f.out, 0}
		for _, p := range u.incoming {
			if p.pos <= u.now.at {
				u.now = place{p.pos, p.seq}
			}
		}
		u.at.Store(u.now.at)
	}
	ended, lost, called = f.ended, u.now.at < f.first(), u.called
	u.called = false
	u.to, u.lo, u.hi = u.now, 0, 0
	u.views = u.views[:0]
	for end := u.now; end.at < f.out && !lost && len(u.seats)+len(u.incoming) > 0; {
		v := f.view(end.at, f.out)
		u.views = append(u.views, v)
		end = v.end()
		size += len(v.b)
	}
	return size, ended, lost, called
}

// pass writes to every player what it does not have yet, and reports whether
// the pump is over, as it has no players.
func (u *pump) pass() bool {
	f := u.f
	size, ended, lost, called := u.begin()
	u.bytes, u.writes, u.by, u.work = 0, 0, [len(Protocols)]int64{}, 0
	for n := len(u.incoming); n > 0; n = len(u.incoming) {
		p := u.incoming[n-1]
		u.incoming[n-1] = nil
		if u.incoming = u.incoming[:n-1]; p.pos == u.now.at {
			u.seat(p)
		} else {
			u.early = append(u.early, p)
		}
	}
	if n := len(u.views); n > 0 {
		u.to = u.views[n-1].end()
		batch := pumpBatch
		if time.Since(f.s.hub.begun)-time.Duration(f.s.hub.came.Load()) > calmAfter {
			batch = calmBatch
		}
		u.serve(batch, max(1, batch/(1+size/pumpCopied)))
	}
	for i := len(u.seats) - 1; i >= 0 && (ended || called || lost || u.strays > 0); i-- {
		s := &u.seats[i]
		if !s.astray {
			if !ended && !lost && (!called || !s.p.dirty.Load()) {
				continue
			}
			s.p.stand(u.to)
		}
		u.vacate(i)
	}
	u.now = u.to
	u.at.Store(u.now.at)
	for n := len(u.early); n > 0; n = len(u.early) {
		u.turn, u.early[n-1] = u.early[n-1], nil
		u.early = u.early[:n-1]
		u.overtake(ended || lost)
	}
	clear(u.views)

	f.s.hub.stats.BytesOut.Add(u.bytes)
	f.s.hub.stats.Writes.Add(u.writes)
	for i, n := range u.by {
		if n > 0 {
			f.s.traffic.Served(i, n)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	u.n = len(u.seats) + len(u.incoming) + len(u.joined)
	if u.n > 0 {
		return false
	}
	f.pumps = slices.DeleteFunc(f.pumps, func(o *pump) bool { return o == u })
	return true
}

// serve writes the views to all who have a seat, in bursts of up to most, and
// lets others run after so much work.
func (u *pump) serve(batch, most int) {
	for u.lo = 0; u.lo < len(u.seats); {
		u.hi = u.lo + 1
		if s := &u.seats[u.lo]; s.slot < 0 {
			u.single(s, u.views)
		} else {
			for u.hi < len(u.seats) && u.hi < u.lo+min(most, u.ring.size) && u.seats[u.hi].slot >= 0 {
				u.hi++
			}
			u.burst(u.seats[u.lo:u.hi])
		}
		u.work += u.hi - u.lo
		if u.lo = u.hi; u.work >= batch {
			u.work = 0
			u.yield.let()
		}
	}
}

// burst writes the views to players who are in the ring, each view to all of
// them in one system call. A ring that fails is left, and they get what it did
// not send without.
func (u *pump) burst(seats []seat) {
	for k, v := range u.views {
		u.who = u.who[:0]
		for i := range seats {
			if !seats[i].astray {
				u.ring.add(seats[i].slot, v.b)
				u.who = append(u.who, i)
			}
		}
		done, ok := u.ring.submit()
		for _, d := range done {
			u.wrote(&seats[u.who[d.i]], v, d.n, d.err)
		}
		if ok {
			continue
		}
		u.leaveRing()
		has := func(i int) bool {
			return slices.ContainsFunc(done, func(d ringDone) bool { return u.who[d.i] == i })
		}
		for i := range seats {
			switch s := &seats[i]; {
			case s.astray:
			case has(i):
				u.single(s, u.views[k+1:])
			default:
				u.single(s, u.views[k:])
			}
		}
		return
	}
}

// single writes views to a player in system calls of its own.
func (u *pump) single(s *seat, views []view) {
	for _, v := range views {
		n, err := u.put(s.p, v.b)
		if u.wrote(s, v, n, err); s.astray {
			return
		}
	}
}

// wrote notes that the socket of a player took n bytes of v, and why not all.
func (u *pump) wrote(s *seat, v view, n int, err error) {
	u.count(s.account, n)
	if n == len(v.b) {
		return
	}
	u.strays++
	s.astray = true
	s.p.stand(v.end())
	s.p.rest(v.b[n:], err)
}

// count adds a write of n bytes to what the pass has done.
func (u *pump) count(account uint8, n int) {
	u.bytes += int64(n)
	u.by[account] += int64(n)
	u.writes++
	u.work += n / pumpCopied
}

// put writes what the player's socket takes of b. Of the locks of a connection
// it takes only the one that keeps the descriptor open, for nobody else writes.
func (u *pump) put(p *Player, b []byte) (n int, err error) {
	u.buf, u.sent, u.err = b, 0, nil
	if err := p.raw.Control(u.fn); err != nil {
		u.err = err
	}
	u.buf = nil
	return u.sent, u.err
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

// overtake serves the player whose turn it is, who has no seat yet and is ahead
// of those who had one. Unless it has to leave it gets one, once they are there.
func (u *pump) overtake(leave bool) {
	p := u.turn
	for _, v := range u.views {
		if leave || v.end().at <= p.pos {
			continue
		}
		b := v.b[p.pos-v.at:]
		n, err := u.put(p, b)
		u.count(uint8(p.account), n)
		p.wrote(int64(n))
		if p.stand(v.end()); n < len(b) {
			p.rest(b[n:], err)
			leave = true
		}
	}
	switch u.turn = nil; {
	case leave || p.dirty.Load():
		go p.run() // ends when a pump takes over again or the player is over
	case p.pos > u.to.at:
		u.incoming = append(u.incoming, p)
	default:
		u.seat(p)
	}
}

// seat gives a seat to a player who is where the others are.
func (u *pump) seat(p *Player) {
	p.mu.Lock()
	p.pump, p.from = u, p.pos
	p.mu.Unlock()
	u.seats = append(u.seats, seat{p: p, slot: -1, account: uint8(p.account)})
	n := len(u.seats)
	switch h := u.f.s.hub; {
	case u.ringless || u.ring == nil && n < h.burstFrom:
	case u.ring != nil && u.ring.room():
		u.enter(n - 1)
	default:
		u.leaveRing()
		slots := max(minSlots, 4*n)
		size := 1 << bits.Len(uint(slots-1))
		if u.ring = h.newRing(slots, min(size, calmBatch)); u.ring != nil {
			u.ringless = false
		}
		for i := 0; i < n && u.ring != nil; i++ {
			u.enter(i)
		}
	}
}

// enter puts the socket of seat i into the ring, where it stays open until it
// is taken out, whoever closes it.
func (u *pump) enter(i int) {
	u.lo, u.hi = i, i+1
	s := &u.seats[i]
	if err := s.p.raw.Control(func(fd uintptr) { s.slot = u.ring.enter(fd) }); err != nil {
		s.slot = -1 // it is closed, and the next write tells
	}
	u.lo = u.hi
}

// leaveRing closes the ring. There is no other one.
func (u *pump) leaveRing() {
	u.ring.close()
	u.ring, u.ringless = nil, true
	for i := range u.seats {
		u.seats[i].slot = -1
	}
}

// vacate gives the player in seat i a goroutine of its own.
func (u *pump) vacate(i int) {
	s, last := u.seats[i], len(u.seats)-1
	u.seats[i], u.seats[last] = u.seats[last], seat{}
	u.seats = u.seats[:last]
	if s.slot >= 0 {
		u.ring.leave(s.slot)
	}
	if s.astray {
		u.strays--
	}
	p := s.p
	p.mu.Lock()
	p.sent += p.pos - int64(len(p.pending)) - p.from
	p.pump = nil
	p.mu.Unlock()
	go p.run() // ends when a pump takes over again or the player is over
}
