package stream

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// PlayerOptions say how a player is served.
type PlayerOptions struct {
	// Conn is the player's connection. From Play on nobody else writes to it or
	// closes it; reading is left to the caller. One that is a socket, as its
	// SyscallConn method says, costs least.
	Conn   net.Conn
	Format Format
	// Protocol is one of Protocols: what the player is counted as. When empty it
	// is that of the format's wire.
	Protocol string
	// Preface is sent first, Goodbye last, when the stream is over.
	Preface, Goodbye []byte
}

// Player is one connection that plays a stream. Its methods may be called from
// any goroutine.
//
// A player that keeps up belongs to one of its feed's pumps. One that does not,
// or has something special to be done, has a goroutine until it does.
type Player struct {
	// Of the pump or goroutine that the player belongs to.
	pos     int64  // next byte of the feed, at a packet's start if pending is empty. Players of a pump are where it is
	seq     uint64 // all packets of the log before this one were sent, or passed over
	pending []byte // to be written before, up to a packet's end
	failed  error  // what a pump met

	raw     syscall.RawConn // nil: only its own goroutine can write
	dirty   atomic.Bool     // there are orders
	account int             // index in Protocols

	want   Format // what it asked for; the feed's format may have less until the next key frame
	paused bool
	leave  bool
	begun  bool  // it has had its header
	seek   bool  // it fell behind and goes on at the newest key frame
	misses int64 // frames of video that the stream had had when it jumped to sound alone, -1: it has what it asked for

	s       *Stream
	conn    net.Conn
	goodbye []byte
	push    string    // Sequence of the push that was live when it joined, or last
	joined  time.Time // when Play was called; zero once it wrote the first frame, which no pump does

	jumps atomic.Int64
	feed  atomic.Pointer[feed] // which it reads; set by its goroutine
	done  chan struct{}
	err   error // why it ended; valid when done is closed

	mu     sync.Mutex
	sent   int64 // bytes, before a pump had it
	pump   *pump // that has it
	from   int64 // where it was when the pump took over
	orders struct {
		inject []byte
		want   Format
		paused bool
		leave  bool
		close  error
	}
}

// Play makes a connection a player of the stream. The player starts with the
// stream's metadata and codec configuration at the newest key frame; if none
// is cached it gets audio until one comes. It ends, and its connection is
// closed, when the stream is over, the connection fails or Close is called.
// The error is ErrClosed, and the connection is still the caller's.
func (s *Stream) Play(o PlayerOptions) (*Player, error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	h.came.Store(int64(time.Since(h.begun)))
	h.tasks.Add(1) // until finish
	h.stats.Players.Add(1)
	p := &Player{
		s: s, conn: o.Conn, pending: slices.Clip(o.Preface), goodbye: o.Goodbye, want: o.Format,
		misses: -1, done: make(chan struct{}), push: s.traffic.Sequence(), joined: time.Now(), account: protocolOf(o.Protocol),
	}
	if o.Protocol == "" {
		p.account = protocolOf(o.Format.Wire.String())
	}
	s.traffic.join(p.account)
	if p.want.Wire == RTMP && p.want.ChunkSize < 1 {
		p.want.ChunkSize = 128 // 5.4.1
	}
	p.orders.want = p.want
	if p.raw = socket(o.Conn); p.raw != nil {
		limitUnsent(p.raw)
	} else if c, ok := o.Conn.(interface{ NetConn() net.Conn }); ok { // TLS
		if raw := socket(c.NetConn()); raw != nil {
			limitUnsent(raw)
		}
	}
	go p.run() // ends when a pump takes over or the player is over
	return p, nil
}

// maxUnsent is how many bytes the kernel may hold for a player besides what is
// on its way to it, where that can be limited.
const maxUnsent = 256 << 10

// socket returns the socket that a connection is, nil if it is none.
func socket(c net.Conn) syscall.RawConn {
	if c, ok := c.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// Close ends the player at once, without its goodbye. Err will be the first
// err, which is not nil, unless the player has ended for another reason.
func (p *Player) Close(err error) {
	p.order(func() {
		if p.orders.close == nil {
			p.orders.close = err
		}
	})
	select {
	case <-p.done: // it may have left the connection open
	default:
		p.hangUp() // a write that blocks ends
	}
}

// Leave ends the player once what it has begun to write is out, and leaves the
// connection open: Done is closed then, Err is ErrLeft, and the connection is
// the caller's again. When something else ends the player first, the connection
// is closed and Err says so.
func (p *Player) Leave() { p.order(func() { p.orders.leave = true }) }

// Inject sends b between two packets. It keeps b. An error means that the
// player has ended or does not take what it was sent before.
func (p *Player) Inject(b []byte) error {
	var err error
	p.order(func() {
		if len(p.orders.inject)+len(b) > maxInject {
			err = ErrStuck
			return
		}
		p.orders.inject = append(p.orders.inject, b...)
	})
	select {
	case <-p.done:
		return net.ErrClosed
	default:
		return err
	}
}

// maxInject bounds what is waiting to be injected.
const maxInject = 64 << 10

// SetTracks chooses what the player gets from the next packet on, or if it is
// behind, once it is not. Video comes back with the next key frame.
func (p *Player) SetTracks(audio, video bool) {
	p.order(func() { p.orders.want.NoAudio, p.orders.want.NoVideo = !audio, !video })
}

// Pause stops or resumes the player. It resumes where it was, or if that is
// too long ago at the newest key frame.
func (p *Player) Pause(on bool) { p.order(func() { p.orders.paused = on }) }

// Sequence names the push that was live when the player joined, or the last
// one before.
func (p *Player) Sequence() string { return p.push }

// Done is closed when the player has ended.
func (p *Player) Done() <-chan struct{} { return p.done }

// Err returns why the player ended; it is valid once Done is closed.
func (p *Player) Err() error { return p.err }

// Sent returns how many bytes the player has been sent.
func (p *Player) Sent() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pump != nil {
		return p.sent + p.pump.at.Load() - p.from
	}
	return p.sent
}

// wrote adds n bytes to what the player was sent.
func (p *Player) wrote(n int64) {
	p.mu.Lock()
	p.sent += n
	p.mu.Unlock()
}

// stand puts the player at a place of its feed. It may have passed over packets
// that are behind it, and are not in that feed.
func (p *Player) stand(at place) { p.pos, p.seq = at.at, max(p.seq, at.seq) }

// rest leaves b to be written before the player goes on, unless the connection
// has failed.
func (p *Player) rest(b []byte, err error) {
	if p.pending = b; err != nil && err != syscall.EAGAIN {
		p.failed = err
	}
}

// Jumps returns how often the player fell behind and jumped.
func (p *Player) Jumps() int64 { return p.jumps.Load() }

// order gives an order and wakes whoever the player belongs to.
func (p *Player) order(give func()) {
	p.mu.Lock()
	give()
	p.mu.Unlock()
	p.dirty.Store(true)
	if f := p.feed.Load(); f != nil {
		f.mu.Lock()
		for _, u := range f.pumps {
			u.called = true
		}
		f.wake()
		f.mu.Unlock()
	}
}

// errHanded ends a player's goroutine when a pump has taken over.
var errHanded = errors.New("handed to a pump")

// run is the player's own goroutine. A panic, of its connection or of ours, is
// the end of the player and of nothing else.
func (p *Player) run() {
	defer func() {
		if v := recover(); v != nil {
			p.s.hub.fault(p.s, "player", v)
			p.finish(ErrFault)
		}
	}()
	for {
		head, body, err := p.step()
		if err == errHanded {
			return
		}
		if err == nil || err == ErrOver {
			if werr := p.write(head, body); werr != nil {
				err = werr
			}
		}
		if err != nil {
			p.finish(err)
			return
		}
	}
}

// finish ends the player.
func (p *Player) finish(err error) {
	p.mu.Lock()
	if p.orders.close != nil {
		err = p.orders.close
	}
	p.mu.Unlock()
	if err == ErrStuck {
		p.s.hub.stats.Stuck.Add(1)
	}
	p.err = err
	p.s.mu.Lock()
	p.sees(p.s.info.frames)
	p.move(nil)
	p.s.mu.Unlock()
	p.s.traffic.leave(p.account)
	if err != ErrLeft {
		p.hangUp()
	}
	p.s.hub.stats.Players.Add(-1)
	close(p.done)
	p.s.hub.tasks.Done()
}

// hangUp closes the connection, whatever that does.
func (p *Player) hangUp() {
	defer func() {
		if v := recover(); v != nil {
			p.s.hub.fault(p.s, "connection", v)
		}
	}()
	defer p.conn.Close()
	if p.raw != nil {
		shutdown(p.raw)
	}
}

// obey takes orders.
func (p *Player) obey() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &p.orders
	if o.close != nil {
		return o.close
	}
	p.pending = append(p.pending, o.inject...)
	o.inject = nil
	p.want, p.paused, p.leave = o.want, o.paused, o.leave
	if p.want.NoVideo {
		p.misses = -1
	}
	return nil
}

// write writes to the connection. It fails with ErrStuck when the client takes
// not one byte for StuckAfter. It may take some while the connection does not:
// the kernel wants to be rid of a good part of what it holds first.
func (p *Player) write(head, body []byte) error {
	bufs := make(net.Buffers, 0, 2)
	for _, b := range [...][]byte{head, body} {
		if len(b) > 0 {
			bufs = append(bufs, b)
		}
	}
	limit := p.s.hub.opt.StuckAfter
	look, held := limit, -1
	if p.raw != nil {
		look = limit / 8 // TLS cannot go on after a deadline
	}
	for moved := time.Now(); len(bufs) > 0; {
		if err := p.conn.SetWriteDeadline(time.Now().Add(look)); err != nil {
			return err
		}
		if p.raw != nil {
			held = unsent(p.raw)
		}
		n, err := p.writeSome(&bufs)
		p.wrote(n)
		p.s.hub.stats.BytesOut.Add(n)
		p.s.traffic.Served(p.account, n)
		p.s.hub.stats.Writes.Add(1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			switch {
			case p.raw != nil && (n > 0 || unsent(p.raw) < held):
				moved = time.Now()
			case time.Since(moved) >= limit || p.raw == nil:
				return ErrStuck
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(body) > 0 && p.begun && !p.joined.IsZero() {
		p.s.hub.stats.joined(time.Since(p.joined))
		p.joined = time.Time{}
	}
	return nil
}

// tlsPiece is how much is written under one deadline to a connection that
// cannot go on after a missed one.
const tlsPiece = 16 << 10

// writeSome writes all of bufs, or the next piece, and takes it off.
func (p *Player) writeSome(bufs *net.Buffers) (int64, error) {
	if p.raw != nil {
		return bufs.WriteTo(p.conn)
	}
	b := (*bufs)[0]
	n, err := p.conn.Write(b[:min(len(b), tlsPiece)])
	if (*bufs)[0] = b[n:]; n == len(b) {
		*bufs = (*bufs)[1:]
	}
	return int64(n), err
}
