package stream

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
)

// Key names a stream: unique over all spaces.
type Key struct{ Space, App, Name string }

func (k Key) String() string { return k.Space + "/" + k.App + "/" + k.Name }

// Stream is the log of one stream's packets and the feeds made from it. It
// lives from its first publication until the hold time after its last one has
// run out, so that readers and players outlive a publisher that blinks.
type Stream struct {
	hub   *Hub
	key   Key
	start time.Time

	mu    sync.Mutex
	grown sync.Cond // on mu: the log grew, or the stream or a reader ended

	pub    *Publication // nil while the stream is held
	app    *policy.App
	hold   *time.Timer
	ended  bool
	cancel context.CancelFunc // ends the context of OnPublish's functions

	time   timeline
	breakf bool // the next media packet is the first after a break

	// The log. packets[0] has sequence number first; gop is the sequence number
	// of the newest key frame if cached says that there is one.
	packets  []av.Packet
	first    uint64
	gop      uint64
	cached   bool
	gopBytes int
	readers  map[*Reader]struct{}

	meta         *av.Packet
	video, audio track
	feeds        map[Format]*feed
	info         account
}

// track is what a stream knows of its video or audio.
type track struct {
	codec    av.Codec
	config   *av.Packet
	renew    bool          // the configuration is that of the publisher before
	last     time.Time     // when a frame last arrived
	interval time.Duration // between arrivals, smoothed
}

func (t *track) seen() bool { return t.codec != av.Unknown }

// arrive notes a frame at now.
func (t *track) arrive(now time.Time) {
	switch d := now.Sub(t.last); {
	case t.last.IsZero() || d > time.Second:
	case t.interval == 0:
		t.interval = d
	default:
		t.interval += (d - t.interval) / 8
	}
	t.last = now
}

func newStream(h *Hub, key Key, app *policy.App, now time.Time) *Stream {
	s := &Stream{
		hub: h, key: key, app: app, start: now,
		readers: make(map[*Reader]struct{}),
		feeds:   make(map[Format]*feed),
	}
	s.grown.L = &s.mu
	return s
}

// Key returns the stream's name.
func (s *Stream) Key() Key { return s.key }

// Start returns when the stream's first publication began.
func (s *Stream) Start() time.Time { return s.start }

// App returns the policy that the current publication began with, or while the
// stream is held the last one's.
func (s *Stream) App() *policy.App {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.app
}

// Live reports whether a publisher is connected; it is not while the stream
// is held for one to return.
func (s *Stream) Live() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub != nil
}

// next returns the sequence number that the next packet will have.
func (s *Stream) next() uint64 { return s.first + uint64(len(s.packets)) }

// attach makes p the stream's publisher.
func (s *Stream) attach(p *Publication, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold != nil {
		s.hold.Stop()
		s.hold = nil
	}
	s.pub, s.app = p, p.app
	if s.time.started {
		s.time.resume(now)
		s.breakf = true
	}
	// Until the new publisher has said what it sends, its predecessor's
	// configuration is good for players that join from the cached GOP.
	s.video.renew, s.audio.renew, s.meta = s.video.seen(), s.audio.seen(), nil
}

// write appends a packet of the publication pub and hands it to the feeds. It
// returns the packet's time on the stream's own time line.
func (s *Stream) write(pub *Publication, p av.Packet, now time.Time) (dts int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub != pub {
		return 0, false
	}
	p.DTS = s.time.place(p.Kind, p.DTS, p.Config, now)
	switch p.Kind {
	case av.Data:
		if flv.IsMetadata(p) {
			s.meta = &p
		}
	case av.Video:
		if !s.admit(&s.video, &p, now) {
			return p.DTS, true
		}
	case av.Audio:
		if !s.admit(&s.audio, &p, now) {
			return p.DTS, true
		}
	}
	if p.Kind != av.Data && s.breakf {
		p.Break, s.breakf = true, false
		s.dropGOP()
		for _, t := range []*track{&s.video, &s.audio} {
			if t.renew { // it is the other publisher's
				*t = track{}
			}
		}
	}
	s.append(p, now)
	s.info.count(&p)
	return p.DTS, true
}

// admit notes what p says of its track. It reports false for a packet that
// says nothing new.
func (s *Stream) admit(t *track, p *av.Packet, now time.Time) bool {
	renew := t.renew
	t.renew = false
	if !p.Config {
		t.arrive(now)
		if t.codec != p.Codec {
			t.codec, t.config = p.Codec, nil
		}
		return true
	}
	if t.config != nil && !renew {
		if t.codec == p.Codec && bytes.Equal(t.config.Frame, p.Frame) {
			return false
		}
		p.Break = true
		s.dropGOP()
	}
	c := *p
	c.Break = false
	t.codec, t.config = p.Codec, &c
	s.info.configure(p)
	return true
}

// append adds p to the log, wakes readers and feeds, and lets go of packets
// that nobody can want.
func (s *Stream) append(p av.Packet, now time.Time) {
	s.packets = append(s.packets, p)
	s.gopBytes += len(p.Tag)
	// Without video every frame of audio is a place to start.
	if p.Key || p.Kind == av.Audio && !p.Config && !s.video.seen() {
		s.gop, s.cached, s.gopBytes = s.next()-1, true, len(p.Tag)
	} else if s.cached && (s.gopBytes > s.hub.opt.GOPBytes ||
		p.DTS-s.packets[s.gop-s.first].DTS > s.hub.opt.GOPTime.Milliseconds()) {
		s.dropGOP()
	}
	for _, f := range s.feeds {
		f.append(&p, s.next()-1, now)
	}
	if len(s.readers) > 0 {
		s.grown.Broadcast()
	}
	s.trim()
}

// dropGOP forgets the cached GOP: a player that comes now waits for the next
// key frame.
func (s *Stream) dropGOP() {
	s.cached, s.gopBytes = false, 0
	for _, f := range s.feeds {
		f.dropKey()
	}
}

// entry returns the sequence number at which a reader begins: the newest key
// frame's, or the next packet's when none is cached.
func (s *Stream) entry() uint64 {
	if s.cached {
		return s.gop
	}
	return s.next()
}

// trim lets go of packets before the entry that no reader wants. A reader that
// is too far behind does not count: it will jump.
func (s *Stream) trim() {
	entry := s.entry()
	keep := entry
	for r := range s.readers {
		keep = min(keep, max(r.next, s.first))
	}
	for n, i := 0, entry; i > keep; i-- {
		if n += len(s.packets[i-1-s.first].Tag) + packetCost; n > s.hub.opt.ReaderBytes {
			keep = i
		}
	}
	if n := keep - s.first; n > 0 {
		clear(s.packets[:n])
		s.packets, s.first = s.packets[n:], keep
	}
}

// packetCost is about what a packet takes in memory besides its bytes.
const packetCost = 128

// detach ends pub's publication. The stream is then held for its return for
// the app's hold time, or ends at once.
func (s *Stream) detach(pub *Publication, reason EndReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub != pub {
		return
	}
	s.pub = nil
	for _, f := range s.feeds {
		f.flush() // what has gathered is not held back
	}
	hold := s.app.Hold
	if reason == EndKicked || reason == EndShutdown {
		hold = 0
	}
	// In its own goroutine, which ends at once: the hub's lock comes before ours.
	s.hold = time.AfterFunc(hold, func() { s.hub.expire(s) })
}

// finish ends the stream if no publisher has come back, and reports whether it
// did. The hub's lock is held.
func (s *Stream) finish() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub != nil || s.ended {
		return false
	}
	s.ended = true
	if s.hold != nil {
		s.hold.Stop()
	}
	for k, f := range s.feeds {
		f.end()
		delete(s.feeds, k)
	}
	s.grown.Broadcast()
	if s.cancel != nil {
		s.cancel()
	}
	return true
}

// header returns what a player or reader needs before its first frame, at time
// dts: metadata and codec configurations. The metadata is at time 0, as at the
// start of a file; at another one FFmpeg takes it for a subtitle.
func (s *Stream) header(dts int64) []av.Packet {
	var h []av.Packet
	for _, p := range []*av.Packet{s.meta, s.video.config, s.audio.config} {
		if p != nil {
			c := *p
			if c.DTS = dts; c.Kind == av.Data {
				c.DTS = 0
			}
			h = append(h, c)
		}
	}
	return h
}

// Reader is a cursor over a stream's packets: an av.Reader for packagers,
// recorders and whatever else wants packets and not bytes. One goroutine
// reads; Close may be called from any.
type Reader struct {
	s      *Stream
	queue  []av.Packet // header, before the log
	next   uint64
	closed bool
	jumps  uint64
}

// NewReader returns a Reader that starts with metadata and codec configuration
// and goes on from the newest key frame, or from the next packet when no key
// frame is cached. The caller closes it.
func (s *Stream) NewReader() *Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Reader{s: s, next: s.entry(), queue: s.header(s.timeOf(s.entry()))}
	s.readers[r] = struct{}{}
	return r
}

// ReadPacket returns the next packet; it blocks until there is one. DTS does
// not go backwards on any track. Break marks the first packet after a change
// of encoder, configuration or a jump of a reader that fell behind. It returns
// io.EOF when the stream is over or the Reader is closed.
func (r *Reader) ReadPacket() (av.Packet, error) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case r.closed:
			return av.Packet{}, io.EOF
		case len(r.queue) > 0:
			p := r.queue[0]
			r.queue = r.queue[1:]
			return p, nil
		case r.next < s.first: // fell behind: the newest key frame, or what there is
			r.jumps++
			s.hub.stats.ReaderJumps.Add(1)
			r.next = s.entry()
			r.queue = s.header(s.timeOf(r.next))
			if len(r.queue) > 0 {
				r.queue[0].Break = true
			}
		case r.next < s.next():
			p := s.packets[r.next-s.first]
			r.next++
			return p, nil
		case s.ended:
			return av.Packet{}, io.EOF
		default:
			s.grown.Wait()
		}
	}
}

// Jumps returns how often the reader fell behind and jumped to a key frame.
func (r *Reader) Jumps() uint64 {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.jumps
}

// Close ends the reader and unblocks ReadPacket.
func (r *Reader) Close() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.closed = true
	delete(r.s.readers, r)
	r.s.grown.Broadcast()
}
