package record

import (
	"bytes"
	"cmp"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/mpegts"
)

// Times are in milliseconds of media, from the beginning of the take.
const (
	// baseTime is what the first frame of a take has in its transport stream:
	// there is room before it for what is decoded or heard earlier.
	baseTime = 2000
	// pieceTime and pieceSize are when a piece of the segment goes to the disk:
	// half a second is what kill -9 takes with it.
	pieceTime = 500 * time.Millisecond
	pieceSize = 512 << 10
	// usual is how long a frame takes as long as nobody knows, and maxInterval
	// the longest that is believed.
	usual       = 40
	maxInterval = 250
	// alone is for how long sound is waited upon by picture of which nothing was
	// heard yet.
	alone = 500
	// maxWait and maxPending bound what waits for a key frame.
	maxWait    = 30_000
	maxPending = 8 << 20
	// longest and largest bound a segment where no key frame comes.
	longest = 30_000
	largest = 64 << 20
	// early is how much less than wanted a segment may be: timestamps are rounded.
	early = 40
	// retryAfter is how long after media found no room the next attempt is.
	retryAfter = time.Second
)

// cutter cuts the packets of one push into segments, and those into takes.
//
// A segment ends before the first key frame at or after the wanted duration, one
// without picture by time. Where encoder or tracks change, or time jumps, a new
// segment begins that is marked with a discontinuity. Times in a take go on
// without holes from push to push. A take that is long enough ends before the next
// key frame, however many segments end before that without one.
//
// While a key frame is waited for, at the beginning and after a discontinuity,
// sound is kept and picture that nobody could decode is left out.
type cutter struct {
	s *session // decides into which take media go

	target int64 // wanted duration of a segment
	cut    int64 // and of a take
	t      *take // nil before the first frame that is written
	placed bool  // the push has its take

	mux          *mpegts.Muxer
	video, audio source
	sets         []byte // parameter sets of the newest key frame that had some
	origin       int64  // stream time at the beginning of the take

	// Waiting for a key frame.
	waiting bool
	noKeys  bool // none is expected any more
	timed   bool // since is set
	since   int64
	first   time.Time // when the packet came that was then; zero: it is written
	pending []av.Packet
	size    int // of pending

	// No room for media.
	stopped bool
	retry   time.Time
	lostAt  int64 // stream time from which on media are lost
	lastErr error

	// The segment in the making.
	open     bool
	broken   bool // it, or the next one, follows a discontinuity
	missed   bool // media before it were not read in time
	pictured bool
	start    int64
	end      int64 // of the newest frame
	bytes    int64
	tracks   [2]av.Codec // of the segment before

	// The piece in the making.
	since500 time.Time // when it began; zero: it is empty
	kept     int64     // end of what is on disk
}

// source is what is known of one of the push's tracks.
type source struct {
	codec    av.Codec
	config   *av.Packet
	timed    bool
	last     int64 // stream time
	interval int64
	warned   bool
}

func newCutter(s *session) *cutter {
	return &cutter{s: s, target: s.cfg.Segment.Milliseconds(), cut: s.cfg.Cut.Milliseconds(), waiting: true, broken: true}
}

// write takes the next packet of the push.
func (c *cutter) write(p av.Packet) {
	if p.Break && c.s.jumped() {
		c.missed = c.t != nil && !c.stopped
	}
	src := &c.video
	switch p.Kind {
	case av.Audio:
		src = &c.audio
	case av.Data:
		if p.Break && c.t != nil {
			c.discontinue(true) // the reader has missed something
		}
		return
	}
	if p.Config {
		c.configure(src, p)
		return
	}
	if p.Break && (src.timed || c.t != nil) { // the reader has missed something, or the codec has no configuration
		c.discontinue(src == &c.video || p.DTS-src.last > maxInterval)
	}
	if src.codec != p.Codec {
		c.change(src, p.Codec, nil)
	}
	if !mpegts.Supports(p.Codec) {
		c.leaveOut(src)
		return
	}
	if !mpegts.Supports(c.video.codec) && c.video.codec != av.Unknown {
		return // sound without its picture is no recording of it
	}
	if c.stopped && !c.resume(&p) {
		return
	}
	if c.waiting && !c.admit(&p) {
		return
	}
	c.frame(src, p)
}

// configure takes a codec configuration.
func (c *cutter) configure(src *source, p av.Packet) {
	if src.codec == p.Codec && src.config != nil && bytes.Equal(src.config.Frame, p.Frame) {
		if p.Break {
			c.discontinue(true)
		}
		return
	}
	c.change(src, p.Codec, &p)
	if c.mux != nil {
		c.mux.WritePacket(p) // a broken one makes its frames fail
	}
}

// change notes another codec or configuration of a track.
func (c *cutter) change(src *source, codec av.Codec, config *av.Packet) {
	if src.codec != av.Unknown && (src.codec != codec || src.config != nil) {
		c.discontinue(src == &c.video)
	}
	src.codec, src.config = codec, config
}

// discontinue ends the segment; what comes next is of another encoder or time.
func (c *cutter) discontinue(needKey bool) {
	if c.open {
		c.endSegment(c.end)
	}
	if c.mux != nil {
		c.mux.Break()
	}
	c.broken, c.sets = true, nil
	if needKey {
		c.wait()
	}
}

// wait lets nothing be written before the next key frame.
func (c *cutter) wait() {
	c.waiting, c.timed, c.noKeys = true, false, false
	c.pending, c.size = nil, 0
}

func (c *cutter) leaveOut(src *source) {
	if src.warned {
		return
	}
	src.warned = true
	c.s.refuse(src == &c.video, src.codec)
}

// admit decides about a packet while a key frame is waited for: it is kept for
// later, left out, or what was kept is written and it may follow.
func (c *cutter) admit(p *av.Packet) bool {
	if !c.timed {
		c.timed, c.since, c.first = true, p.DTS, time.Now()
	}
	picture := p.Kind == av.Video
	switch waited := p.DTS - c.since; {
	case picture && p.Key:
	case c.video.codec == av.Unknown && waited >= alone:
	case waited >= max(maxWait, 3*c.target) || c.size > maxPending:
		c.noKeys = picture
	default:
		if !picture {
			c.pending = append(c.pending, *p)
			c.size += len(p.Frame)
		}
		return false
	}
	return c.release(p)
}

// release writes what was kept; next is the packet that follows, or nil. It
// reports whether there is a take.
func (c *cutter) release(next *av.Packet) bool {
	list := c.pending
	c.pending, c.size, c.waiting = nil, 0, false
	if next != nil {
		list = append(list, *next)
	}
	if len(list) == 0 {
		return false
	}
	first := list[0].DTS
	for _, p := range list {
		first = min(first, p.DTS)
	}
	if !c.placed {
		t, err := c.s.take(c)
		if err != nil {
			c.fail(first, err)
			return false
		}
		c.adopt(t, first)
	} else if c.broken && first-c.origin > c.end+maxInterval {
		if c.missed {
			c.t.lose(first - c.origin - c.end)
		}
		c.origin = first - c.end // what is missing takes no time
	}
	c.missed = false
	if next != nil {
		list = list[:len(list)-1]
	}
	for _, p := range list {
		if c.stopped {
			return false
		}
		c.frame(&c.audio, p)
	}
	return !c.stopped
}

// adopt makes t the take into which media go, from the stream time first on.
func (c *cutter) adopt(t *take, first int64) {
	c.t, c.placed = t, true
	c.target, c.cut = t.head.Record.Segment.Milliseconds(), t.head.Record.Cut.Milliseconds() // of its first push (contract B.103)
	c.end = t.end()
	c.start, c.kept = c.end, c.end
	c.origin = first - c.end
	c.newMuxer()
	c.broken = c.end > 0
	c.tracks = [2]av.Codec{}
}

func (c *cutter) newMuxer() {
	c.mux = mpegts.NewMuxer(baseTime * mpegts.Clock)
	c.mux.Anew()
	for _, s := range []*source{&c.video, &c.audio} {
		if s.config != nil {
			c.mux.WritePacket(*s.config)
		}
	}
}

// frame writes a frame.
func (c *cutter) frame(src *source, p av.Packet) {
	src.interval = usual
	if src.timed {
		src.interval = min(max(p.DTS-src.last, 1), maxInterval)
	}
	src.last, src.timed = p.DTS, true
	picture := src == &c.video
	if picture && p.Key {
		c.compareSets(&p)
		if c.stopped {
			return
		}
	}
	at := p.DTS - c.origin
	if c.open && c.cutBefore(picture, &p, at) {
		c.endSegment(at)
		if c.stopped {
			return
		}
		if (at >= c.cut || c.t.isMoved()) && c.begins(picture, &p) {
			if err := c.nextTake(p.DTS); err != nil {
				c.fail(p.DTS, err)
				return
			}
			at = 0
		}
	}
	if !c.open {
		if err := c.begin(p.Kind, at); err != nil {
			c.fail(p.DTS, err)
			return
		}
	}
	stamp := p.DTS
	p.DTS = at
	if err := c.mux.WritePacket(p); err != nil {
		if !src.warned {
			c.s.log.Warn("frame left out of the recording", "err", err)
		}
		src.warned = true
		return
	}
	now := time.Now()
	if c.since500.IsZero() {
		c.since500 = now
	}
	c.pictured = c.pictured || picture
	c.end = max(c.end, at+src.interval)
	c.bytes += int64(len(p.Frame))
	c.s.seen(now)
	if now.Sub(c.since500) >= pieceTime || c.mux.Size() >= pieceSize {
		if err := c.flush(); err != nil {
			c.fail(stamp, err)
		}
	}
}

// begin opens a segment whose first frame is at a time.
func (c *cutter) begin(kind av.Kind, at int64) error {
	s := segment{Start: c.start, Time: time.Now(), Discontinuity: c.broken}
	if !c.first.IsZero() {
		s.Time, c.first = c.first, time.Time{}
	}
	if c.broken || c.start == 0 {
		s.Video, s.Audio = c.video.track(), c.audio.track()
	}
	if err := c.t.begin(s); err != nil {
		return err
	}
	c.open, c.pictured, c.bytes, c.broken = true, kind == av.Video, 0, false
	c.end = max(c.end, c.start)
	return nil
}

func (s *source) track() *track {
	if s.codec == av.Unknown || !mpegts.Supports(s.codec) {
		return nil
	}
	t := &track{Codec: s.codec}
	if s.config != nil {
		t.Config = s.config.Frame
	}
	return t
}

// flush puts the piece in the making on the disk.
func (c *cutter) flush() error {
	c.since500 = time.Time{}
	b, _ := c.mux.Cut()
	if b == nil {
		return nil
	}
	if err := c.t.append(b); err != nil {
		return err
	}
	c.kept = c.end
	c.s.wrote()
	return nil
}

// compareSets makes a discontinuity of a key frame that has other parameter
// sets in it than the one before had, or than the configuration has.
func (c *cutter) compareSets(p *av.Packet) {
	var config []byte
	if c.video.config != nil {
		config = c.video.config.Frame
	}
	sets, configured := av.ParameterSets(p.Codec, config, p.Frame)
	if len(sets) == 0 {
		return
	}
	old := c.sets
	if old == nil {
		old = configured
	}
	if c.open && !bytes.Equal(sets, old) {
		c.discontinue(false)
	}
	c.sets = sets
}

// begins says whether a take may begin with that frame: nobody could decode what
// comes before its first key frame.
func (c *cutter) begins(picture bool, p *av.Packet) bool {
	switch {
	case picture && p.Key, c.noKeys:
		return true
	case picture:
		return false
	}
	return !c.video.timed || p.DTS-c.video.last > maxWait
}

// cutBefore says whether the segment in the making ends before that frame.
func (c *cutter) cutBefore(picture bool, p *av.Packet, at int64) bool {
	length, limit := at-c.start, max(longest, 3*c.target)
	if c.noKeys {
		limit = c.target
	}
	if c.bytes+int64(len(p.Frame)) > largest {
		return true
	}
	full := at >= c.cut && c.begins(picture, p)
	switch {
	case picture && p.Key:
		return length >= c.target-early || full
	case picture:
		return length >= limit
	case !c.pictured:
		return length >= c.target-early || full
	default:
		return length >= limit+alone
	}
}

// endSegment ends the segment in the making at a time.
func (c *cutter) endSegment(at int64) {
	err := c.flush()
	if err != nil {
		at = c.kept
	}
	video, audio := c.mux.Tracks()
	at = max(at, c.start+1)
	if now := [2]av.Codec{video, audio}; now != c.tracks {
		if c.tracks != [2]av.Codec{} {
			c.t.now.Discontinuity = true // a track has come late
		}
		c.tracks = now
	}
	err2 := c.t.finish(at - c.start)
	c.open = false
	c.start, c.end = at, at
	if err != nil || err2 != nil {
		c.fail(at+c.origin, cmp.Or(err, err2))
	}
}

// nextTake begins the next take at a stream time, where the one before ended.
func (c *cutter) nextTake(at int64) error {
	t, err := c.s.next(c.t)
	if err != nil {
		c.placed, c.t = false, nil
		return err
	}
	c.adopt(t, at)
	return nil
}

// fail stops recording, from a stream time on, because there is no room or the
// disk does not take it. What the segment has on disk is kept.
func (c *cutter) fail(at int64, err error) {
	if c.open {
		c.open = false
		c.t.finish(c.kept - c.start)
		c.start, c.end = c.kept, c.kept
	}
	if c.placed {
		at = c.kept + c.origin // what did not get to the disk is lost as well
	}
	c.mux = nil
	c.since500 = time.Time{}
	c.broken, c.stopped, c.retry, c.lostAt, c.lastErr = true, true, time.Now().Add(retryAfter), at, err
	c.tracks = [2]av.Codec{}
	c.wait()
	c.s.failed(err)
}

// resume tries again, at a key frame.
func (c *cutter) resume(p *av.Packet) bool {
	if time.Now().Before(c.retry) || c.video.codec != av.Unknown && !(p.Kind == av.Video && p.Key) {
		return false
	}
	c.stopped = false
	if c.placed {
		c.t.lose(max(p.DTS-c.lostAt, 0))
		c.end, c.start, c.kept = c.t.end(), c.t.end(), c.t.end()
		c.origin = p.DTS - c.end
		c.newMuxer()
	}
	return true
}

// close ends the push: what there is becomes the last segment.
func (c *cutter) close() {
	if c.waiting && !c.stopped && (c.placed || c.video.codec == av.Unknown) {
		c.release(nil)
	}
	if c.open {
		c.endSegment(c.end)
	}
}
