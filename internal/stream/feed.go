package stream

import (
	"slices"
	"sort"
	"sync"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// Wire is how packets are put on a player's connection.
type Wire uint8

const (
	FLV   Wire = iota + 1 // an FLV file without end
	WSFLV                 // the same, each tag a binary WebSocket message
	RTMP                  // messages in chunks
)

// String returns the name of the protocol that a player of the wire speaks.
func (w Wire) String() string {
	switch w {
	case FLV:
		return "flv"
	case WSFLV:
		return "ws-flv"
	case RTMP:
		return "rtmp"
	}
	return "unknown"
}

// Format says what bytes a player gets; players of the same format share them.
type Format struct {
	Wire      Wire
	StreamID  uint32 // RTMP: the message stream
	ChunkSize int    // RTMP: the chunk size that was announced to the player, 0: the protocol's 128
	NoVideo   bool
	NoAudio   bool
}

// wants reports whether packets of that kind are part of the format.
func (f *Format) wants(k av.Kind) bool {
	return !(k == av.Video && f.NoVideo || k == av.Audio && f.NoAudio)
}

// RTMP chunk streams for what a player is sent.
const (
	csidAudio = 4
	csidData  = 5
	csidVideo = 6
)

// encode appends p in the format to dst.
func (f *Format) encode(dst []byte, p *av.Packet) []byte {
	typ, csid := uint8(flv.TypeScript), uint32(csidData)
	switch p.Kind {
	case av.Video:
		typ, csid = flv.TypeVideo, csidVideo
	case av.Audio:
		typ, csid = flv.TypeAudio, csidAudio
	}
	ts := uint32(p.DTS) // FLV and RTMP time wraps at 32 bits
	switch f.Wire {
	case RTMP: // message types are FLV's tag types
		return rtmp.AppendMessage(dst, f.ChunkSize, csid, typ, ts, f.StreamID, p.Tag)
	case WSFLV:
		dst = appendWSHeader(dst, len(p.Tag)+15)
	}
	return flv.AppendTag(dst, typ, ts, p.Tag)
}

// size returns at least how many bytes encode appends for p.
func (f *Format) size(p *av.Packet) int {
	n := len(p.Tag) + 32
	if f.Wire == RTMP {
		n += 5 * (len(p.Tag) / max(f.ChunkSize, 1))
	}
	return n
}

// appendWSHeader appends the header of an unmasked binary message of n bytes
// (RFC 6455 5.2).
func appendWSHeader(dst []byte, n int) []byte {
	const finBinary = 0x82
	switch {
	case n < 126:
		return append(dst, finBinary, byte(n))
	case n < 1<<16:
		return append(dst, finBinary, 126, byte(n>>8), byte(n))
	default:
		return append(dst, finBinary, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

const (
	// blockSize is the capacity of a feed's blocks. A larger packet has a block
	// of its own.
	blockSize = 128 << 10
	// blockFull is the length from which on the next flush begins a new block,
	// so that what is flushed seldom lies in two.
	blockFull = 64 << 10
)

// block is a piece of a feed: ready bytes that only grow at the end. It always
// begins and ends with whole packets.
type block struct {
	at int64 // position in the feed of b[0]
	b  []byte
}

func (b *block) end() int64 { return b.at + int64(len(b.b)) }

// mark is the position of a packet in a feed.
type mark struct {
	at  int64
	seq uint64 // of the packet in the stream's log
	ms  int64  // when it was appended, since the stream began
}

// feed is a stream's log in one wire format. Positions in it count bytes since
// it began. It has players while it exists.
type feed struct {
	s       *Stream
	format  Format
	players int // s.mu guards it

	mu     sync.Mutex
	grown  sync.Cond // on mu: a player that has a goroutine of its own should look
	blocks []*block
	marks  []mark // of all packets in blocks
	tail   int64  // end of what was appended
	out    int64  // end of what was flushed; players write up to here, those who begin to the tail
	key    int    // index in marks of the newest packet to start at, -1: none
	ended  bool
	failed error // why it ended before the stream did
	pumps  []*pump

	// Gathering.
	due   time.Time   // when the next flush is due
	timer *time.Timer // flushes what no frame takes along
	timed bool        // the timer runs
}

// feedOf returns the stream's feed of that format, a new one filled from the
// cached GOP if need be. s.mu is held; the caller adds a player.
func (s *Stream) feedOf(format Format) *feed {
	f := s.feeds[format]
	if f == nil {
		f = &feed{s: s, format: format, key: -1}
		f.grown.L = &f.mu
		if s.cached {
			now := time.Now()
			for seq := s.gop; seq < s.next(); seq++ {
				f.add(&s.packets[seq-s.first].Packet, seq, now)
			}
			f.out = f.tail
		}
		s.feeds[format] = f
	}
	return f
}

// leave takes one player away; a feed without players is over. s.mu is held.
func (f *feed) leave() {
	if f.players--; f.players > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.s.feeds[f.format] == f {
		delete(f.s.feeds, f.format)
	}
}

// slow returns how many players have a goroutine of their own. s.mu and f.mu
// are held.
func (f *feed) slow() int {
	n := f.players
	for _, u := range f.pumps {
		n -= u.n
	}
	return n
}

// append encodes a packet for the feed's players and wakes them, at once or
// when enough has gathered. A panic is the end of the feed, with its players.
// s.mu is held.
func (f *feed) append(p *av.Packet, seq uint64, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() {
		if v := recover(); v != nil {
			f.s.hub.fault(f.s, "feed", v)
			f.fail(ErrFault)
		}
	}()
	if !f.format.wants(p.Kind) {
		if p.Key { // players that only bide their time here can start
			f.grown.Broadcast()
		}
		return
	}
	f.add(p, seq, now)
	f.trim(now)
	h := f.s.hub
	h.gather.want(f.players, now)
	g := h.gather.now(now)
	if g == 0 {
		f.flushLocked()
		return
	}
	// The video frames set the pace, and the audio between them rides along: a
	// flush comes with the video frame that is nearest to when it is due.
	drive := &f.s.video
	if f.format.NoVideo || now.Sub(drive.last) > time.Second {
		drive = &f.s.audio
	}
	half := drive.interval / 2
	if !f.timed {
		f.timed = true
		if f.timer == nil {
			f.timer = time.AfterFunc(g+half, f.flush)
		} else {
			f.timer.Reset(g + half)
		}
	}
	if (p.Kind == av.Video) != (drive == &f.s.video) || p.Kind == av.Data || now.Add(half).Before(f.due) {
		return
	}
	if f.due = f.due.Add(g); f.due.Before(now) { // it was quiet
		f.due = now.Add(g)
	}
	f.flushLocked()
}

// add encodes a packet into the last block, or a new one.
func (f *feed) add(p *av.Packet, seq uint64, now time.Time) {
	if !f.format.wants(p.Kind) {
		return
	}
	n := f.format.size(p)
	var b *block
	if len(f.blocks) > 0 {
		b = f.blocks[len(f.blocks)-1]
	}
	if b == nil || cap(b.b)-len(b.b) < n || len(b.b) > blockFull && f.out == f.tail {
		b = &block{at: f.tail, b: make([]byte, 0, max(n, blockSize))}
		f.blocks = append(f.blocks, b)
	}
	// Config and metadata directly before a key frame are sent anew to who
	// starts there; the key frame itself is the place to start.
	if p.Key && p.Kind == av.Video || p.Kind == av.Audio && !p.Config && !p.Side && (f.format.NoVideo || !f.s.video.seen()) {
		f.key = len(f.marks)
	}
	f.marks = append(f.marks, mark{f.tail, seq, now.Sub(f.s.start).Milliseconds()})
	b.b = f.format.encode(b.b, p)
	f.tail = b.end()
}

// dropKey forgets where players can start. s.mu is held.
func (f *feed) dropKey() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key = -1
}

// trim lets go of blocks that nobody can want: those before the newest key
// frame, except that players who are a little behind may still read on.
func (f *feed) trim(now time.Time) {
	keep := f.out
	if f.key >= 0 {
		keep = min(keep, f.marks[f.key].at)
	}
	o := &f.s.hub.opt
	behind := min(time.Second, o.SlowAfter) // the pumps may be
	if f.slow() > 0 {
		behind = o.SlowAfter
	}
	oldest := now.Sub(f.s.start).Milliseconds() - behind.Milliseconds()
	if i := sort.Search(len(f.marks), func(i int) bool {
		return f.marks[i].ms >= oldest && f.marks[i].at >= f.tail-int64(o.SlowBytes)
	}); i < len(f.marks) {
		keep = min(keep, f.marks[i].at)
	}
	n := 0
	for n < len(f.blocks)-1 && f.blocks[n].end() <= keep {
		n++
	}
	if n == 0 {
		return
	}
	clear(f.blocks[:n])
	f.blocks = f.blocks[n:]
	i := f.find(f.blocks[0].at)
	f.marks = f.marks[i:]
	f.key = max(f.key-i, -1)
}

// find returns the index of the first mark at or after position at.
func (f *feed) find(at int64) int {
	return sort.Search(len(f.marks), func(i int) bool { return f.marks[i].at >= at })
}

// position returns where the packet seq of the log begins, or the next one
// that the feed has.
func (f *feed) position(seq uint64) int64 {
	if i := sort.Search(len(f.marks), func(i int) bool { return f.marks[i].seq >= seq }); i < len(f.marks) {
		return f.marks[i].at
	}
	return f.tail
}

// first returns the position of the oldest byte that is still there.
func (f *feed) first() int64 {
	if len(f.blocks) == 0 {
		return f.tail
	}
	return f.blocks[0].at
}

// view is whole packets of a feed that lie in one block.
type view struct {
	at   int64
	b    []byte
	next uint64 // sequence number in the log after the last of them
}

// end returns the place behind the view.
func (v *view) end() place { return place{v.at + int64(len(v.b)), v.next} }

// view returns what lies from position at, between first and limit, to the end
// of its block or to limit, whichever comes first. Nothing can be appended to
// its bytes in place.
func (f *feed) view(at, limit int64) view {
	i := len(f.blocks) - 1
	for f.blocks[i].at > at {
		i--
	}
	b := f.blocks[i]
	end := min(limit, b.end())
	return view{at, slices.Clip(b.b[at-b.at : end-b.at]), f.marks[f.find(end)-1].seq + 1}
}

// flush lets the players have all that was appended.
func (f *feed) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushLocked()
}

func (f *feed) flushLocked() {
	if f.timed {
		f.timed = false
		f.timer.Stop()
	}
	if f.out == f.tail {
		return
	}
	f.out = f.tail
	f.wake()
}

// wake makes all players look. f.mu is held.
func (f *feed) wake() {
	for _, u := range f.pumps {
		u.wake()
	}
	f.grown.Broadcast()
}

// fail ends the feed before its stream ends. Its players get no more than what
// there is. s.mu and f.mu are held.
func (f *feed) fail(err error) {
	f.ended, f.failed = true, err
	delete(f.s.feeds, f.format)
	if f.timed {
		f.timed = false
		f.timer.Stop()
	}
	f.out = f.tail
	f.wake()
}

// end ends the feed: its players write what there is and their goodbye.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.flushLocked()
	f.wake()
}
