package stream

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weir/internal/media/flv"
)

// PlayerOptions say how a player is served.
type PlayerOptions struct {
	// Conn is the player's connection. From Play on nobody else writes to it or
	// closes it; reading is left to the caller. One that is a socket, as its
	// SyscallConn method says, costs least.
	Conn   net.Conn
	Format Format
	// Preface is sent first, Goodbye last, when the stream is over.
	Preface, Goodbye []byte
}

// Player is one connection that plays a stream. Its methods may be called from
// any goroutine.
//
// A player that keeps up belongs to one of its feed's pumps. One that does not,
// or has something special to be done, has a goroutine until it does.
type Player struct {
	s       *Stream
	conn    net.Conn
	raw     syscall.RawConn // nil: only its own goroutine can write
	goodbye []byte
	joined  time.Time // when Play was called; zero once the first frame was written

	sent  atomic.Int64
	jumps atomic.Int64
	feed  atomic.Pointer[feed] // which it reads; set by its goroutine
	dirty atomic.Bool          // there are orders
	done  chan struct{}
	err   error // why it ended; valid when done is closed

	mu     sync.Mutex
	orders struct {
		inject []byte
		want   Format
		paused bool
		close  error
	}

	// Of the pump or goroutine that the player belongs to.
	pos     int64  // next byte of the feed, at a packet's start if pending is empty
	pending []byte // to be written before, up to a packet's end
	failed  error  // what a pump met
	want    Format // what it asked for; the feed's format may have less until the next key frame
	seq     uint64 // while it has less: all packets before this one were sent
	paused  bool
	begun   bool // it has had its header
	seek    bool // it goes on at the next key frame
}

// Play makes a connection a player of the stream. The player starts with the
// stream's metadata and codec configuration at the newest key frame; if none
// is cached it gets audio until one comes. It ends, and its connection is
// closed, when the stream is over, the connection fails or Close is called.
func (s *Stream) Play(o PlayerOptions) (*Player, error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	h.tasks.Add(1) // until finish
	h.stats.Players.Add(1)
	p := &Player{s: s, conn: o.Conn, goodbye: o.Goodbye, pending: o.Preface, want: o.Format, done: make(chan struct{}), joined: time.Now()}
	p.orders.want = o.Format
	if c, ok := o.Conn.(syscall.Conn); ok {
		p.raw, _ = c.SyscallConn()
	}
	go p.run() // ends when a pump takes over or the player is over
	return p, nil
}

// Close ends the player, whose Err will be err.
func (p *Player) Close(err error) {
	p.order(func() {
		if p.orders.close == nil {
			p.orders.close = err
			p.conn.Close() // a write that blocks ends
		}
	})
}

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

// SetTracks chooses what the player gets from now on. Video comes back with
// the next key frame.
func (p *Player) SetTracks(audio, video bool) {
	p.order(func() { p.orders.want.NoAudio, p.orders.want.NoVideo = !audio, !video })
}

// Pause stops or resumes the player. It resumes where it was, or if that is
// too long ago at the newest key frame.
func (p *Player) Pause(on bool) { p.order(func() { p.orders.paused = on }) }

// Done is closed when the player has ended.
func (p *Player) Done() <-chan struct{} { return p.done }

// Err returns why the player ended; it is valid once Done is closed.
func (p *Player) Err() error { return p.err }

// Sent returns how many bytes the player has been sent.
func (p *Player) Sent() int64 { return p.sent.Load() }

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
		f.wake()
		f.grown.Broadcast()
		f.mu.Unlock()
	}
}

// errHanded ends a player's goroutine when a pump has taken over.
var errHanded = errors.New("handed to a pump")

// run is the player's own goroutine.
func (p *Player) run() {
	for {
		head, body, err := p.step()
		if err == nil {
			err = p.write(head, body)
		}
		if err == errHanded {
			return
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
	p.move(nil)
	p.s.mu.Unlock()
	p.conn.Close()
	p.s.hub.stats.Players.Add(-1)
	close(p.done)
	p.s.hub.tasks.Done()
}

// move makes f the feed that the player reads, with a goroutine of its own.
// s.mu is held; f has counted the player already.
func (p *Player) move(f *feed) {
	if old := p.feed.Load(); old != nil {
		old.slow.Add(-1)
		old.leave()
	}
	p.feed.Store(f)
	if f != nil {
		f.slow.Add(1)
	}
}

// step returns what to write next, which ends at a packet's end; it blocks
// until there is something. It returns errHanded when a pump has taken over.
func (p *Player) step() (head, body []byte, err error) {
	if p.failed != nil {
		return nil, nil, p.failed
	}
	if p.dirty.Swap(false) {
		if err := p.obey(); err != nil {
			return nil, nil, err
		}
	}
	if len(p.pending) > 0 && p.begun {
		body, p.pending = p.pending, nil
		return nil, body, nil
	}
	f := p.feed.Load()
	limit := int64(-1) // how far it may read before it changes feeds
	if f == nil || !p.begun || p.seek || p.want != f.format {
		if head, limit, err = p.place(); err != nil {
			return nil, nil, err
		}
		f = p.feed.Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	end := f.out
	if limit >= 0 {
		end = min(end, limit)
	}
	switch {
	case p.begun && !p.seek && !p.paused && p.pos >= f.first() && p.pos < end && !p.behind(f):
		body = f.view(p.pos, end)
		p.pos += int64(len(body))
		if p.want != f.format {
			p.seq = f.marks[f.find(p.pos)-1].seq + 1
		}
		return head, body, nil
	case len(head) > 0 || p.dirty.Load():
		return head, nil, nil
	case p.begun && !p.seek && !p.paused && p.pos < end: // too far behind
		p.seek = true
	case f.ended:
		if p.goodbye == nil {
			return nil, nil, ErrOver
		}
		body, p.goodbye = p.goodbye, nil
		return nil, body, nil
	case p.paused:
		f.grown.Wait()
	case !p.begun || p.seek:
		if !f.ready() {
			f.grown.Wait()
		}
	case p.raw != nil && p.want == f.format:
		if err := p.conn.SetWriteDeadline(time.Time{}); err != nil {
			return nil, nil, err
		}
		f.slow.Add(-1)
		f.pump().add(p)
		return nil, nil, errHanded
	default:
		f.grown.Wait()
	}
	return nil, nil, nil
}

// unknownSeq is Player.seq until place looks it up.
const unknownSeq = 1<<64 - 1

// obey takes orders.
func (p *Player) obey() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &p.orders
	if o.close != nil {
		return o.close
	}
	p.pending = append(p.pending[:len(p.pending):len(p.pending)], o.inject...)
	o.inject = nil
	if p.want != o.want {
		p.want, p.seq = o.want, unknownSeq
	}
	p.paused = o.paused
	return nil
}

// behind reports whether the player is so far behind that it should jump, and
// there is a newer key frame to jump to. f.mu is held.
func (p *Player) behind(f *feed) bool {
	if f.key < 0 || f.marks[f.key].at <= p.pos {
		return false
	}
	o := &f.s.hub.opt
	if f.tail-p.pos > int64(o.SlowBytes) {
		return true
	}
	i := f.find(p.pos)
	return i < len(f.marks) && time.Since(f.s.start).Milliseconds()-f.marks[i].ms > o.SlowAfter.Milliseconds()
}

// ready reports whether a player can start. f.mu is held.
func (f *feed) ready() bool { return f.key >= 0 }

// place finds the feed and the position where the player goes on, and returns
// the header that it needs there; nothing while it has to wait. A player whose
// feed lacks the video that it wants reads up to limit, if that is not -1.
func (p *Player) place() (head []byte, limit int64, err error) {
	s := p.s
	limit = -1
	s.mu.Lock()
	defer s.mu.Unlock()
	f := p.feed.Load()
	if s.ended && f == nil {
		return nil, limit, ErrOver
	}
	switch {
	case f == nil || !p.begun:
		// Before its first byte a player can be on any feed; without a key frame
		// to start at, the one without video.
		want := p.want
		if !s.cached && s.video.seen() && s.audio.seen() && !want.NoAudio {
			want.NoVideo = true
		}
		if f == nil || f.format != want {
			f = s.feedOf(want)
			p.move(f)
		}
	case f.format != p.want && f.format.NoVideo && !p.want.NoVideo:
		if p.seq == unknownSeq {
			p.seq = s.unsent(p, f)
		}
		if limit = p.border(f); limit < 0 || p.pos < limit && !p.seek {
			break
		}
		head = s.encodeHeader(&p.want, false, s.timeOf(s.gop))
		p.change(s.gop)
		p.seek = false
		return head, -1, nil
	case f.format != p.want:
		if f.format.NoAudio && !p.want.NoAudio {
			head = s.encodeHeader(&p.want, false, s.time.last)
		}
		p.change(s.unsent(p, f))
		f = p.feed.Load()
	}
	if p.begun && !p.seek {
		return head, limit, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready() || p.begun && f.marks[f.key].at < p.pos {
		head, p.pending = append(p.pending, head...), nil // that much can be sent
		return head, limit, nil
	}
	m := f.marks[f.key]
	if p.begun {
		p.jumps.Add(1)
		s.hub.stats.Jumps.Add(1)
		s.hub.stats.JumpedBytes.Add(m.at - p.pos)
	}
	head = append(p.pending, s.encodeHeader(&f.format, !p.begun, s.timeOf(m.seq))...)
	p.pos, p.seq, p.pending, p.begun, p.seek = m.at, m.seq, nil, true, false
	return head, limit, nil
}

// unsent returns the sequence number of the next packet of its feed that p has
// not been sent, or of the next one at all. s.mu is held.
func (s *Stream) unsent(p *Player, f *feed) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(p.pos); i < len(f.marks) {
		return f.marks[i].seq
	}
	return s.next()
}

// border returns the position up to which a player that waits for video may
// read its feed: where the newest key frame would be. It is -1 while none is
// cached or the player is past it. s.mu is held.
func (p *Player) border(f *feed) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !p.s.cached || p.seq > p.s.gop {
		return -1
	}
	i := sort.Search(len(f.marks), func(i int) bool { return f.marks[i].seq > p.s.gop })
	if i < len(f.marks) {
		return f.marks[i].at
	}
	return f.tail
}

// change makes the player go on at the packet seq in the feed of the format it
// wants. s.mu is held.
func (p *Player) change(seq uint64) {
	f := p.s.feedOf(p.want)
	p.move(f)
	f.mu.Lock()
	defer f.mu.Unlock()
	p.pos = f.tail
	if i := sort.Search(len(f.marks), func(i int) bool { return f.marks[i].seq >= seq }); i < len(f.marks) {
		p.pos = f.marks[i].at
	}
}

// timeOf returns the time of a packet in the log, or the newest time.
func (s *Stream) timeOf(seq uint64) int64 {
	if seq >= s.first && seq < s.next() {
		return s.packets[seq-s.first].DTS
	}
	return s.time.last
}

// encodeHeader returns the bytes that a player needs before the packet at time
// dts: a new one, or one that goes on. s.mu is held.
func (s *Stream) encodeHeader(f *Format, start bool, dts int64) []byte {
	var b []byte
	if start && f.Wire != RTMP {
		h := flv.AppendHeader(nil, !f.NoAudio && s.has(&s.audio, "audiocodecid"), !f.NoVideo && s.has(&s.video, "videocodecid"))
		if f.Wire == WSFLV {
			b = appendWSHeader(b, len(h))
		}
		b = append(b, h...)
	}
	for _, p := range s.header(dts) {
		if f.wants(p.Kind) {
			b = f.encode(b, &p)
		}
	}
	return b
}

// has reports whether the stream has a track, or its metadata promises it.
func (s *Stream) has(t *track, promise string) bool {
	return t.seen() || s.meta != nil && bytes.Contains(s.meta.Tag, []byte(promise))
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
	for len(bufs) > 0 {
		if err := p.conn.SetWriteDeadline(time.Now().Add(p.s.hub.opt.StuckAfter)); err != nil {
			return err
		}
		held := -1
		if p.raw != nil {
			held = unsent(p.raw)
		}
		n, err := p.writeSome(&bufs)
		p.sent.Add(n)
		p.s.hub.stats.BytesOut.Add(n)
		p.s.hub.stats.Writes.Add(1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if p.raw != nil && (n > 0 || unsent(p.raw) < held) { // TLS cannot go on after a deadline
				continue
			}
			return ErrStuck
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
