package stream

import (
	"bytes"
	"context"
	"io"
	"sort"
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
	keyed sync.Cond // on mu: the same, for readers that wait for key frames

	pub    *Publication // the newest
	live   bool         // pub goes on; else the stream is held
	app    *policy.App
	hold   *time.Timer // ends the stream that is held
	ended  bool
	ctx    context.Context    // of OnPublish's and Follow's functions
	cancel context.CancelFunc // ends it

	time   timeline
	clock  wallClock
	breakf bool // the next media packet is the first after a break
	eras   eras

	// The log. packets[0] has sequence number first; gop is the sequence number
	// of the newest key frame if cached says that there is one.
	packets []logged
	first   uint64
	size    int64 // of all packets that there ever were
	gop     uint64
	cached  bool
	readers map[*Reader]struct{}
	calm    int   // readers that wait for key frames
	woken   int64 // size of the log when they were woken last

	meta         *av.Packet
	video, audio track
	feeds        map[Format]*feed
	info         account
	meter        meter
	traffic      *Traffic
}

// logged is a packet in the log.
type logged struct {
	av.Packet
	at  int64  // size of all packets before it
	era uint64 // see NextEra
}

// packetCost is about what a packet takes in memory besides its bytes.
const packetCost = 128

// track is what a stream knows of its video or audio.
type track struct {
	codec    av.Codec
	config   *av.Packet
	side     *av.Packet
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
		meter:   newMeter(now),
		traffic: new(Traffic),
	}
	s.grown.L, s.keyed.L = &s.mu, &s.mu
	s.eras.begin(firstEra(now))
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

// Push returns who publishes or, while the stream is held, who did last.
func (s *Stream) Push() *Push { return s.Newest().Push() }

// Newest returns the stream's newest publication, which may be over.
func (s *Stream) Newest() *Publication {
	p, _ := s.publication()
	return p
}

// AwaitPublication returns the publication that follows after; it waits for it.
// It returns nil when the stream is over, or ctx is done.
func (s *Stream) AwaitPublication(ctx context.Context, after *Publication) *Publication {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grown.Broadcast()
	})()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pub == after && !s.ended && ctx.Err() == nil {
		s.grown.Wait()
	}
	if s.pub == after || ctx.Err() != nil {
		return nil
	}
	return s.pub
}

// Live reports whether a publisher is connected; it is not while the stream
// is held for one to return.
func (s *Stream) Live() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// Clock returns when the stream's time was 0, by this machine's clock, and what
// HLS adds to the stream's time, in milliseconds: the same for the stream and
// its renditions. ok is false before the first frame.
func (s *Stream) Clock() (zero time.Time, origin int64, ok bool) {
	s.mu.Lock()
	if s.pub.push.Of != nil {
		of := s.pub.push.Of
		s.mu.Unlock()
		return of.Clock()
	}
	defer s.mu.Unlock()
	return s.clock.zero, s.clock.origin, s.clock.known
}

// Time returns the stream's newest time, in milliseconds.
func (s *Stream) Time() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.time.last
}

// Times returns the newest times of video and audio, in milliseconds; they tell nothing of
// a track that there is not.
func (s *Stream) Times() (video, audio int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.time.tracks[0].last, s.time.tracks[1].last
}

// Configs returns the codec configurations of video and audio, nil where there
// is none. They are not to be changed.
func (s *Stream) Configs() (video, audio *av.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.video.config, s.audio.config
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
	s.pub, s.live, s.app = p, true, p.app
	s.traffic.began(&p.push)
	s.grown.Broadcast()
	if s.time.started && !p.push.Continues {
		s.time.resume(now)
		s.breakf = true
	}
	s.meta, s.info.fps, s.info.rate = nil, 0, 0
	s.meter.begin(now)
}

// write appends a packet of the publication pub and hands it to the feeds. It
// returns the packet's time on the stream's own time line, and the newest there.
func (s *Stream) write(pub *Publication, p av.Packet, now time.Time) (dts, newest int64, ok bool) {
	var era uint64
	if of := pub.push.Of; of != nil {
		era = of.eraAt(p.DTS)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub != pub || !s.live {
		return 0, 0, false
	}
	pub.unwatched = len(s.feeds) == 0 && len(s.readers) == 0
	jumps := s.time.jumps
	if pub.push.Of != nil {
		p.DTS = s.time.follow(p.Kind, p.DTS, p.Config || p.Side, now)
	} else {
		p.DTS = s.time.place(p.Kind, p.DTS, p.Config || p.Side, now)
	}
	if p.Kind != av.Data && !p.Config && !p.Side {
		s.clock.frame(p.DTS, now)
	}
	if p.Kind != av.Data && !p.Side && s.breakf {
		// From here on it is the other publisher's stream. Until now its
		// predecessor's configuration was good for players that joined from the
		// cached GOP.
		p.Break, s.breakf = true, false
		s.dropGOP()
		s.video, s.audio = track{}, track{}
	}
	switch p.Kind {
	case av.Data:
		if flv.IsMetadata(p) {
			meta := p
			s.meta = &meta
			s.info.describe(&meta)
		}
	case av.Video:
		ok = s.admit(&s.video, &p, now)
	case av.Audio:
		ok = s.admit(&s.audio, &p, now)
	}
	if pub.push.Of != nil {
		s.eras.reach(era, p.DTS)
	} else if ok && p.Break {
		s.eras.turn(p.DTS)
	}
	if ok || p.Kind == av.Data {
		s.append(p, now)
		s.count(pub, &p, now, s.time.jumps != jumps)
	}
	return p.DTS, s.time.last, true
}

// admit notes what p says of its track. It reports false for a packet that
// says nothing new.
func (s *Stream) admit(t *track, p *av.Packet, now time.Time) bool {
	same := t.codec == p.Codec
	if p.Side {
		if !same || s.breakf || t.side != nil && bytes.Equal(t.side.Frame, p.Frame) {
			return false
		}
		c := *p
		t.side = &c
		return true
	}
	if !p.Config {
		t.arrive(now)
		if same {
			return true
		}
	} else if same && t.config != nil && bytes.Equal(t.config.Frame, p.Frame) {
		return false
	}
	switch {
	case !t.seen():
		if t == &s.video { // what is cached begins with audio
			s.dropGOP()
		}
	case !same || t.config != nil: // another encoder
		p.Break = true
		s.dropGOP()
	}
	t.codec, t.config, t.side = p.Codec, nil, nil
	if p.Config {
		c := *p
		c.Break = false
		t.config = &c
	}
	if !same {
		s.info.forget(p.Kind)
	}
	s.info.configure(p)
	return true
}

// append adds p to the log, wakes readers and feeds, and lets go of packets
// that nobody can want.
func (s *Stream) append(p av.Packet, now time.Time) {
	s.packets = append(s.packets, logged{p, s.size, s.eras.newest()})
	s.size += int64(len(p.Tag) + packetCost)
	// Without video every frame of audio is a place to start.
	if p.Key || p.Kind == av.Audio && !p.Config && !p.Side && !s.video.seen() {
		s.gop, s.cached = s.next()-1, true
	} else if s.cached {
		o, k := &s.hub.opt, &s.packets[s.gop-s.first]
		if s.size-k.at > int64(o.GOPBytes) || p.DTS-k.DTS > o.GOPTime.Milliseconds() {
			s.dropGOP()
		}
	}
	for _, f := range s.feeds {
		f.append(&p, s.next()-1, now)
	}
	if len(s.readers) > s.calm {
		s.grown.Broadcast()
	}
	if s.calm > 0 && (p.Key && p.Kind == av.Video && !p.Config || s.size-s.woken > calmBytes) {
		s.woken = s.size
		s.keyed.Broadcast()
	}
	s.trim()
}

// dropGOP forgets the cached GOP: a player that comes now waits for the next
// key frame.
func (s *Stream) dropGOP() {
	s.cached = false
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
	if entry == s.first { // as nearly always
		return
	}
	keep := entry
	for r := range s.readers {
		keep = min(keep, max(r.next, s.first))
	}
	if keep < entry {
		at := s.size
		if s.cached {
			at = s.packets[s.gop-s.first].at
		}
		least := at - int64(s.hub.opt.ReaderBytes)
		n := sort.Search(int(entry-s.first), func(i int) bool { return s.packets[i].at >= least })
		keep = max(keep, s.first+uint64(n))
	}
	if n := keep - s.first; n > 0 {
		clear(s.packets[:n])
		s.packets, s.first = s.packets[n:], keep
	}
}

// detach ends pub's publication. The stream is then held for its return for
// the app's hold time, or ends at once.
func (s *Stream) detach(pub *Publication, reason EndReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete(pub)
	s.live, pub.tally.final = false, true
	for _, f := range s.feeds {
		f.flush() // what has gathered is not held back
	}
	for r := range s.readers {
		if r.pub == pub {
			r.over, r.until = true, s.next()
		}
	}
	s.wake()
	hold := s.app.Hold
	if reason == EndKicked || reason == EndShutdown {
		hold = 0
	}
	// In its own goroutine, which ends at once: the hub's lock comes before ours.
	s.hold = time.AfterFunc(hold, func() { s.hub.expire(s, pub) })
}

// finish ends the stream if no publisher has come back after pub, and reports
// whether it did. The hub's lock is held.
func (s *Stream) finish(pub *Publication) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live || s.ended || s.pub != pub {
		return false
	}
	s.ended = true
	s.hold.Stop()
	for _, f := range s.feeds {
		f.end()
	}
	clear(s.feeds)
	s.wake()
	s.cancel()
	return true
}

// header returns what a player or reader needs before the packet seq: metadata,
// codec configurations, and what a player is told besides. The metadata is at time 0, as at the start of a
// file; at another one FFmpeg takes it for a subtitle.
func (s *Stream) header(seq uint64, player bool) []av.Packet {
	var h []av.Packet
	for _, p := range []*av.Packet{s.meta, s.video.config, s.video.side, s.audio.config, s.audio.side} {
		if p != nil && (player || !p.Side) {
			c := *p
			if c.DTS = 0; c.Kind != av.Data {
				c.DTS = s.timeOf(c.Kind, seq)
			}
			h = append(h, c)
		}
	}
	return h
}

// timeOf returns the time of a track's first packet from seq on, or while there
// is none that of its newest packet.
func (s *Stream) timeOf(k av.Kind, seq uint64) int64 {
	for i := max(seq, s.first); i < s.next(); i++ {
		if p := &s.packets[i-s.first]; p.Kind == k {
			return p.DTS
		}
	}
	return s.time.tracks[k-av.Video].last
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
	calm   bool   // it waits for key frames
	jumped bool   // the next packet is the first after a jump
	era    uint64 // of the newest packet read

	pub   *Publication // the one that is read, if not all of them
	over  bool         // it is over; until is set
	until uint64       // sequence number of what comes after it
}

// NewReader returns a Reader that starts with metadata and codec configuration
// and goes on from the newest key frame, or from the next packet when no key
// frame is cached. The caller closes it.
func (s *Stream) NewReader() *Reader { return s.newReader(nil, false) }

// NewReader is that of the stream, but the Reader ends with the publication, and
// has nothing of the one before.
func (p *Publication) NewReader() *Reader { return p.s.newReader(p, false) }

// newReader returns a Reader of what pub publishes, or if it is nil of all; from
// begin on it has only what is still to come.
func (s *Stream) newReader(pub *Publication, begin bool) *Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Reader{s: s, pub: pub}
	if pub != nil && (pub != s.pub || !s.live) {
		r.over = true // there is nothing to read any more
	} else if begin || pub != nil && s.breakf { // what is cached is the predecessor's
		r.next = s.next()
	} else {
		r.next = s.entry()
		r.queue = s.header(r.next, false)
	}
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
		case r.closed || r.over && r.next >= r.until:
			return av.Packet{}, io.EOF
		case len(r.queue) > 0:
			p := r.queue[0]
			r.queue = r.queue[1:]
			r.era = s.eras.newest()
			if r.next >= s.first && r.next < s.next() {
				r.era = s.packets[r.next-s.first].era
			}
			return r.mark(p), nil
		case r.next < s.first: // fell behind: the newest key frame, or what there is
			r.jumps++
			s.hub.stats.ReaderJumps.Add(1)
			r.next, r.jumped = s.entry(), true
			r.queue = s.header(r.next, false)
		case r.next < s.next():
			p := s.packets[r.next-s.first]
			r.next++
			if p.Side {
				continue
			}
			r.era = p.era
			return r.mark(p.Packet), nil
		case s.ended:
			return av.Packet{}, io.EOF
		default:
			if r.calm {
				s.keyed.Wait()
			} else {
				s.grown.Wait()
			}
		}
	}
}

// calmBytes is how much of the log may wait for a reader that waits for a key
// frame.
const calmBytes = 1 << 20

// AwaitKeyFrames makes ReadPacket, once it has returned all there is, wait for
// the next key frame of video, or for a megabyte, and not be woken for each
// packet in between, of which it misses none. It is for those who want few of
// them, and is called before the first ReadPacket.
func (r *Reader) AwaitKeyFrames() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if !r.closed && !r.calm {
		r.calm = true
		r.s.calm++
	}
}

// mark marks the first packet after a jump.
func (r *Reader) mark(p av.Packet) av.Packet {
	p.Break = p.Break || r.jumped
	r.jumped = false
	return p
}

// Era returns the era of the packet that was read last; see Stream.NextEra. It is
// for the goroutine that reads.
func (r *Reader) Era() uint64 { return r.era }

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
	if r.calm && !r.closed {
		r.s.calm--
	}
	r.closed = true
	delete(r.s.readers, r)
	r.s.wake()
}

// wake wakes all readers. s.mu is held.
func (s *Stream) wake() {
	s.grown.Broadcast()
	s.keyed.Broadcast()
}
